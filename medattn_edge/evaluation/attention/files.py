"""The files of an explanation: maps and labels as NIfTI on the scan's own grid, pictures, one page, and the figures."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medattn_edge.atomic import check_folder, sync
from medattn_edge.errors import MissingDependency, OutputError, UsageError, quoted
from medattn_edge.evaluation.attention.figures import figures_of
from medattn_edge.evaluation.attention.page import page_of
from medattn_edge.evaluation.attention.records import Explanation, Side
from medattn_edge.inference.outputs import shown_labels
from medattn_edge.io import write_labels, write_maps, write_regions

PAGE, FIGURES, CHANNELS = "explain.html", "explain.json", "channel_attention.npz"
_NEEDS = {"jinja2": "report", "PIL": "report", "nibabel": "nifti"}


def check_output(folder: Path) -> None:
    """Say before the work what cannot be written.

    Raises:
        UsageError: the folder is there already.
        OutputError: what it would lie in is not.
        MissingDependency: for a package that writes the files.
    """
    check_folder(folder)
    if os.path.lexists(folder):
        raise UsageError(
            f"{folder} exists",
            expected="a new folder: files of two runs must not lie together",
            hint=f"-o {quoted(folder.with_name(folder.name + '-2'))}",
        )
    for package, extra in _NEEDS.items():
        if importlib.util.find_spec(package) is None:
            raise MissingDependency.of_extra(package, extra)


def write_explanation(explanation: Explanation, folder: Path) -> dict[str, Path]:
    """Write everything into a new folder, which appears whole or not at all; what each file is -> its path.

    `labels_reference.nii.gz` and `attention_reference.nii.gz`, both again with `artifact`, on the scan's own grid;
    `channel_attention.npz`, the mean (M, C, C) of each side, where there is any; a picture of each map; the page and
    its figures.

    Raises:
        UsageError, OutputError, MissingDependency: as `check_output`, and when a file cannot be written.
    """
    folder = Path(folder)
    check_output(folder)
    with _appearing(folder) as beside:
        written = {"page": PAGE, "figures": FIGURES}
        sides = {"reference": explanation.reference, "artifact": explanation.artifact}
        for name, side in sides.items():
            if side is not None:
                written |= _write_side(beside, name, side)
        means = {
            name: side.matrices.mean(axis=0)
            for name, side in sides.items()
            if side is not None and len(side.matrices) and side.matrices.shape[1]
        }
        if means:
            with (beside / CHANNELS).open("wb") as file:
                np.savez_compressed(file, **means)
            written["channel attention"] = CHANNELS
        reading, figures = figures_of(explanation)
        (beside / "pictures").mkdir()
        for figure in figures:
            (beside / "pictures" / f"{figure.name}.png").write_bytes(figure.png)
        written["pictures"] = "pictures"
        document = json.dumps(explanation.to_json(), indent=2, allow_nan=False) + "\n"
        (beside / FIGURES).write_text(document, encoding="utf-8")
        (beside / PAGE).write_text(page_of(explanation, reading, figures), encoding="utf-8")
    return {what: folder / name for what, name in written.items()}


def _write_side(folder: Path, name: str, side: Side) -> dict[str, str]:
    segmentation = side.segmentation
    labels, attention = f"labels_{name}.nii.gz", f"attention_{name}.nii.gz"
    write = write_regions if segmentation.meaning.overlapping else write_labels
    write(folder / labels, *shown_labels(segmentation))
    assert segmentation.attention is not None
    write_maps(folder / attention, segmentation.attention, segmentation.attention_names)
    return {f"labels, {name}": labels, f"attention, {name}": attention}


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside, which takes the other's place in the end, or goes."""
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        beside.mkdir()
        yield beside
        for path in (*beside.rglob("*"), beside):
            sync(path)
        beside.rename(folder)  # onto a folder that appeared meanwhile it fails, unless that is empty
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}",
            expected="free space and permission to write",
            hint=f"df -h {quoted(folder.parent)}",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
