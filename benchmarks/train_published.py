"""Trains the published networks at their published width, so that speed is measured on what has learnt something.

    python benchmarks/train_published.py [CT LABELS --label 1=liver:5 ...] [-o .benchmarks/published]

The 2-D networks learn lungs and spine of the chest CT that `slicerio` ships; the 3-D network learns organs of an
abdominal CT that is given, and is left out without one. About an hour on two cores. Each network is trained by
`medattn-edge train`, in a process of its own, and goes on where it was after an interruption. A checkpoint that is
there with its hash is not trained again.

`published.json` in the folder says of each: its SHA-256, its scan, the split, the Dice in held-out slices, the command.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from trained import PUBLISHED as FOLDER
from trained import RECORD, record

from medattn_edge.artifact import sha256
from medattn_edge.atomic import replacing
from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.models import checkpoint
from medattn_edge.training import Label, is_finished, resume_path

PROGRAM = Path(sys.executable).with_name("medattn-edge")
LABELS_2D = ("1=right_lung:5", "2=left_lung:6", "3=spine:2,3,4")
LABELS_3D = ("1=spleen:1", "2=kidneys:2,3", "3=liver:5")  # TotalSegmentator's numbers


class Recipe(NamedTuple):
    """How one network is trained.

    name: of the checkpoint, and of the case of the suite. words: the options of `medattn-edge train`.
    """

    name: str
    words: tuple[str, ...]


RECIPES_2D = (
    Recipe(
        "attention-unet-2d-published",
        ("--network", "attention-unet-2d", "--patch", "128x128", "--epochs", "10", "--steps", "14", "--batch", "8"),
    ),
    Recipe(
        "self-guided-published",
        (
            *("--network", "self-guided", "--set", "backbone=resnext101_32x8d", "--patch", "128x128"),
            *("--intensity", "window:-1000:400", "--epochs", "8", "--steps", "12", "--batch", "4"),
        ),
    ),
)
RECIPE_3D = Recipe(
    "attention-unet-3d-published",
    (
        *("--network", "attention-unet-3d", "--set", "gates=multi", "--set", "width=16", "--patch", "16x64x64"),
        *("--intensity", "window:-160:240", "--learning-rate", "3e-3", "--epochs", "30", "--steps", "60"),
        *("--batch", "4", "--frozen-norms", "0.3"),
    ),
)


def main(
    scan: Annotated[Path | None, typer.Argument(help="An abdominal CT for the 3-D network.")] = None,
    labels: Annotated[Path | None, typer.Argument(help="Its labels.")] = None,
    label: Annotated[list[str] | None, typer.Option(help=f"What they mean; {' '.join(LABELS_3D)} by default.")] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where the checkpoints are kept.")] = FOLDER,
    device: Annotated[str, typer.Option(help="cpu or cuda:INDEX.")] = "cpu",
    threads: Annotated[int, typer.Option(help="0: as many as there are cores.")] = 0,
) -> None:
    """Train what is not there yet."""
    if (scan is None) != (labels is None):
        raise typer.BadParameter("a CT and its labels, or neither")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(recipe, sample_scan(), sample_labels(), LABELS_2D) for recipe in RECIPES_2D]
    if scan is not None and labels is not None:
        tasks.append((RECIPE_3D, scan, labels, tuple(label or LABELS_3D)))
    for recipe, image, truth, names in tasks:
        words = (*recipe.words, *(word for name in names for word in ("--label", name)), "--threads", str(threads))
        words += () if device == "cpu" else ("--device", device)
        path = trained(recipe.name, (image, truth), words, folder)
        about = record(folder)[recipe.name]
        dice = ", ".join(f"{name} {value:.4f}" for name, value in about["held_out_dice"].items())
        print(f"{path}: held-out Dice {dice} (1 subject), {about['seconds']:.0f} s")
    if scan is None:
        print(f"{RECIPE_3D.name}: left out, no abdominal CT was given", file=sys.stderr)


def trained(name: str, data: tuple[Path, Path], words: Sequence[str], folder: Path) -> Path:
    """The checkpoint of a recipe, trained unless the record has it as it is."""
    path, key = folder / f"{name}.safetensors", _key(data, words)
    known = record(folder).get(name, {})
    if path.is_file() and known.get("key") == key and known["sha256"] == sha256(path):
        _write_record(name, data, words, folder)  # the scan may lie elsewhere by now
        return path
    left = resume_path(path)
    resume = ["--resume"] if left.is_file() and not is_finished(left) else []
    command = [str(PROGRAM), "train", *map(str, data), "-o", str(path), *words]
    print(shlex.join([*command, *resume]), file=sys.stderr, flush=True)
    done = subprocess.run([*command, *resume], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    _write_record(name, data, words, folder)
    return path


def _write_record(name: str, data: tuple[Path, Path], words: Sequence[str], folder: Path) -> None:
    path = folder / f"{name}.safetensors"
    notes = checkpoint.load(path).notes
    facts = {key: notes[key] for key in ("subjects", "split", "held_out_dice", "training_dice", "seconds", "command")}
    about = {
        "key": _key(data, words),
        "sha256": sha256(path),
        "scan": str(data[0].resolve()),
        "labels": str(data[1].resolve()),
        "label_values": {one.name: list(one.sources) for one in map(Label.parse, _values_of("--label", words))},
        "scan_sha256": sha256(data[0]),
        **facts,
    }
    with replacing(folder / RECORD) as file:
        file.write_text(json.dumps({**record(folder), name: about}, indent=1) + "\n", encoding="utf-8")


def _values_of(option: str, words: Sequence[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def _key(data: tuple[Path, Path], words: Sequence[str]) -> str:
    """Of everything that a training depends on but the versions: the data and the options."""
    told = [*(sha256(path) for path in data), *words]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


if __name__ == "__main__":
    typer.run(main)
