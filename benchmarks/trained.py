"""The networks that have learnt something: which scan they learnt from, and what of it was held out.

The shipped ones and those of `train_published.py`: both learnt from some slices of one subject, which their checkpoints
name, and are judged by its true labels in the slices that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.errors import HostError
from medattn_edge.inference.preprocess import labels_on_image, prepare
from medattn_edge.inference.tiling import Tiling, Window
from medattn_edge.inference.truth import read_true_labels
from medattn_edge.io import read_volume
from medattn_edge.labels import Meaning
from medattn_edge.models import checkpoint

PUBLISHED = Path(__file__).parent.parent / ".benchmarks" / "published"
RECORD = "published.json"
_OF_THE_CHEST = {"right_lung": [5], "left_lung": [6]}
_OVERLAP = 0.5
Array = npt.NDArray[Any]


class Source(NamedTuple):
    """A checkpoint, and what it learnt from.

    Attributes:
        path: of the checkpoint.
        scan: the scan.
        labels: its true labels.
        values: label -> its values in them.
    """

    path: Path
    scan: Path
    labels: Path
    values: dict[str, list[int]]


class Patches(NamedTuple):
    """Windows of a scan as its network sees them.

    Attributes:
        calibration: float32 (n, C, *patch), of slices that were learnt from.
        held_out: float32 (m, C, *patch), with slices that were held out.
        truth: their true labels (m, *patch), masked in every slice that was not held out; None where nobody knows.
    """

    calibration: Array
    held_out: Array
    truth: np.ma.MaskedArray[Any, Any] | None = None


def source_of(name: str, folder: Path = PUBLISHED) -> Source:
    """The checkpoint of a name: a shipped one, or one of `train_published.py`.

    Raises:
        HostError: it has not been trained here.
    """
    if name in shipped_checkpoints():
        return Source(shipped_checkpoints()[name], sample_scan(), sample_labels(), _OF_THE_CHEST)
    about = record(folder).get(name)
    if about is None:
        raise HostError(
            f"{name} has not been trained on this host",
            expected=f"{folder / RECORD} to know it",
            hint="make bench-published; with CT=SCAN CT_LABELS=LABELS the 3-D network too",
        )
    values = {label: list(numbers) for label, numbers in about["label_values"].items()}
    return Source(folder / f"{name}.safetensors", Path(about["scan"]), Path(about["labels"]), values)


def record(folder: Path) -> dict[str, Any]:
    """What is known of the checkpoints in the folder, by name."""
    path = folder / RECORD
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known


def patches(source: Source, calibration: int, held_out: int, patch: tuple[int, ...] = ()) -> Patches:
    """Windows to calibrate on and windows to judge on, evenly spread, the better half of each by contrast.

    Args:
        source: the checkpoint and its scan.
        calibration: how many, at most. Their scan is cut to the slices that were learnt from, so that no window
            sees a held-out one.
        held_out: how many, at most, of the windows of the whole scan that hold something to judge.
        patch: the size of a window; the checkpoint's own by default.
    """
    loaded = checkpoint.load(source.path)
    (split,) = loaded.notes["split"]
    spec = replace(loaded.spec, patch=patch or loaded.spec.patch)
    prepared = prepare(read_volume(source.scan), spec)
    truth = read_true_labels(source.labels, prepared.scan, Meaning.of(spec), source.values)
    image, right = prepared.image, labels_on_image(truth, prepared)
    seen = [
        (part, window, tiling)
        for first, last in _stretches(split["training_slices"])
        for part in (image[:, first : last + 1],)
        for tiling in (Tiling(part.shape[1:], spec.patch, _OVERLAP),)
        for window in tiling.windows
    ]
    whole = Tiling(image.shape[1:], spec.patch, _OVERLAP)
    judged = np.zeros(right.shape, bool)
    for first, last in _stretches(split["held_out_slices"]):
        judged[first : last + 1] = True
    some = [one for one in whole.windows if (right[whole.area(one)] * judged[whole.area(one)]).any()]
    chosen = _chosen([(image, one, whole) for one in some], held_out)
    shape = (len(chosen), *whole.patch)
    labels, hidden = np.zeros(shape, right.dtype), np.ones(shape, bool)
    for row, (_, window, _) in enumerate(chosen):
        labels[(row, *whole.inside)] = right[whole.area(window)]
        hidden[(row, *whole.inside)] = ~judged[whole.area(window)]
    masked = np.ma.masked_array(labels, hidden).reshape(len(chosen), *spec.patch)
    return Patches(_cut(_chosen(seen, calibration), spec.patch), _cut(chosen, spec.patch), masked)


_Place = tuple[Array, Window, Tiling]


def _chosen(places: list[_Place], count: int) -> list[_Place]:
    """Of `count` equal runs the window of the highest contrast each."""
    contrast = [image[(slice(None), *tiling.area(window))].std(dtype=np.float64) for image, window, tiling in places]
    runs = np.array_split(np.arange(len(places)), min(count, len(places)))
    return [places[max(run, key=lambda index: contrast[index])] for run in runs]


def _cut(places: list[_Place], patch: tuple[int, ...]) -> Array:
    cut = []
    for image, window, tiling in places:
        one = np.empty((image.shape[0], *tiling.patch), np.float32)
        one[...] = tiling.background(image)
        tiling.read(image, window, one)
        cut.append(one.reshape(image.shape[0], *patch))
    return np.stack(cut)


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """(first, last) of `0-6,13-23`."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield int(first), int(last or first)
