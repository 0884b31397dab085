"""Windows of scans, to calibrate and to judge on: prepared and tiled as `segment` does it, one scan in memory."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medattn_edge.artifact import sha256
from medattn_edge.backends.session import Patches, Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import labels_on_image, prepare
from medattn_edge.inference.tiling import Tiling, Window, starts
from medattn_edge.io import read_volume
from medattn_edge.labels import labels_of
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume

_SETS = 3  # of one scan: two are calibrated on, one is held out
_FEW = 8  # windows that tell which labels a part of a scan has
OVERLAP = 0.5  # of the windows that are chosen from, as in inference
Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Scan:
    """Where a scan comes from. name: for reports, without folders. digest: the SHA-256 of its file or voxels.

    truth: reads its true labels (D, H, W) in the network's numbers, on the scan's own grid, where there are any.
    """

    name: str
    digest: str
    read: Callable[[], Volume] = field(repr=False, compare=False)
    truth: Callable[[Volume], Volume] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_file(cls, path: Path, truth: Callable[[Volume], Volume] | None = None) -> Self:
        """A scan on disk; raises what `read_volume` does, when it is read."""
        return cls(Path(path).name, sha256(path), lambda: read_volume(path), truth)


class Windows(Sequence[Patches]):
    """The patches (1, C, *patch) of chosen windows; each is cut from its scan when it is asked for.

    In the order of the scans, so that going through them reads each scan once.
    """

    def __init__(self, scans: Sequence[Scan], spec: ModelSpec, chosen: Sequence[tuple[int, Window]]) -> None:
        self._scans, self._spec, self._chosen = tuple(scans), spec, tuple(sorted(chosen))
        self._loaded: tuple[int, Any, Tiling, Labels | None] | None = None

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The scans that the windows are of."""
        return tuple(self._scans[index] for index in dict.fromkeys(scan for scan, _ in self._chosen))

    @property
    def digest(self) -> str:
        """A SHA-256 of the scans and of where the windows lie: the same digest, the same patches."""
        told = [(self._scans[scan].digest, *window) for scan, window in self._chosen]
        return hashlib.sha256(repr((told, self._spec.to_json())).encode()).hexdigest()

    @property
    def places(self) -> set[tuple[str, Window]]:
        """The scan's digest and the window, of each."""
        return {(self._scans[scan].digest, window) for scan, window in self._chosen}

    @property
    def has_truth(self) -> bool:
        """Whether every scan comes with its true labels."""
        return all(scan.truth is not None for scan in self.scans)

    def report(self) -> dict[str, int]:
        """Windows per scan, by name."""
        names = [self._scans[scan].name for scan, _ in self._chosen]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def subset(self, indices: Sequence[int]) -> Windows:
        """Some of the windows, in their order."""
        return Windows(self._scans, self._spec, [self._chosen[index] for index in indices])

    def truth(self, index: int) -> Labels:
        """The true labels (*patch) of a window, 0 around a scan that is smaller than the patch."""
        scan, window = self._chosen[index]
        _, tiling, labels = self._load(scan)
        assert labels is not None
        patch = np.zeros(tiling.patch, labels.dtype)
        patch[tiling.inside] = labels[tiling.area(window)]
        return patch.reshape(self._spec.patch)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        scan, window = self._chosen[index]
        image, tiling, _ = self._load(scan)
        patch = np.empty((self._spec.in_channels, *tiling.patch), np.float32)
        patch[...] = tiling.background(image)
        tiling.read(image, window, patch)
        return patch.reshape(1, self._spec.in_channels, *self._spec.patch)

    def _load(self, scan: int) -> tuple[Any, Tiling, Labels | None]:
        if self._loaded is None or self._loaded[0] != scan:
            self._loaded = None  # the one before goes first
            volume, truth = self._scans[scan].read(), self._scans[scan].truth
            prepared = prepare(volume, self._spec)
            tiling = Tiling(prepared.image.shape[1:], self._spec.patch, OVERLAP)
            labels = None if truth is None else labels_on_image(truth(volume), prepared)
            self._loaded = (scan, prepared.image, tiling, labels)
        return self._loaded[1:]


def every_window(scans: Sequence[Scan], spec: ModelSpec) -> Windows:
    """All windows of the scans."""
    chosen = []
    for index, scan in enumerate(scans):
        tiling = Tiling(prepare(scan.read(), spec).image.shape[1:], spec.patch, OVERLAP)
        chosen += [(index, window) for window in tiling.windows]
    return Windows(scans, spec, chosen)


def divided(scan: Scan, spec: ModelSpec, session: Session) -> tuple[Windows, Windows]:
    """One scan as (to calibrate on, held out): a third of its longest axis, in patches, is held out.

    No voxel is in both. The axis is cut into six parts, or three where six are shorter than a patch; every third part
    is held out, beginning with the one that leaves most labels on both sides by what the session finds in a few windows
    of each. Raises UsageError for a scan of too few windows.
    """
    shape = prepare(scan.read(), spec).image.shape[1:]
    tiling = Tiling(shape, spec.patch, OVERLAP)
    axis = max(range(3), key=lambda one: shape[one] / tiling.size[one])
    count = 2 * _SETS if shape[axis] >= 2 * _SETS * tiling.size[axis] else _SETS
    edges = [shape[axis] * index // count for index in range(count + 1)]
    parts = [_rows(tiling, axis, first, last) for first, last in itertools.pairwise(edges)]
    if not all(parts):
        raise UsageError(
            f"{scan.name} is too small to be divided: {'x'.join(map(str, shape))} voxels, "
            f"patches of {'x'.join(map(str, spec.patch))}",
            expected="a second scan to judge on",
            hint="--held-out OTHER_SCAN",
        )
    sets = [[place for part in parts[index::_SETS] for place in part] for index in range(_SETS)]
    seen = [_labels_in(Windows([scan], spec, places), session) for places in sets]

    def worth(held: int) -> tuple[int, bool]:
        rest = set[int]().union(*(labels for index, labels in enumerate(seen) if index != held))
        return min(len(seen[held]), len(rest)), held == 1

    held = max(range(_SETS), key=worth)
    outside = [place for index, places in enumerate(sets) if index != held for place in places]
    return Windows([scan], spec, outside), Windows([scan], spec, sets[held])


def _labels_in(windows: Windows, session: Session) -> set[int]:
    """The labels, but the background, that a session finds in a few evenly spread windows."""
    few = windows.subset(_spread(list(range(len(windows))), min(_FEW, len(windows))))
    return {int(value) for logits in answers(session, iter(few)) for value in np.unique(labels_of(logits)) if value}


def _rows(tiling: Tiling, axis: int, first: int, last: int) -> list[tuple[int, Window]]:
    """The windows that tile these rows of an axis alone; none when a patch is longer than they are."""
    size = tiling.size[axis]
    if last - first < size:
        return []
    grid = [first + start for start in starts(last - first, size, OVERLAP)]
    moved = {(*window[:axis], start, *window[axis + 1 :]) for window in tiling.windows for start in grid}
    return [(0, (d, h, w)) for d, h, w in sorted(moved)]


def split(
    scans: Sequence[Scan], held_out: Sequence[Scan], spec: ModelSpec, session: Session
) -> tuple[Windows, Windows]:
    """All windows as (to calibrate on, held out), which have no voxel in common.

    Without scans to hold out it is the last one, or, when there is one alone, a part of it (see `divided`), which the
    session helps to choose.
    Raises UsageError when a scan, known by its SHA-256, is in both, and without any.
    """
    if not scans:
        raise UsageError(
            "no scan to calibrate on", expected="at least one", hint="medattn-edge calibrate NET.onnx SCAN"
        )
    if not held_out and len({scan.digest for scan in scans}) == 1:
        return divided(scans[0], spec, session)
    calibrated, judged = (scans, held_out) if held_out else (scans[:-1], scans[-1:])
    digests = {scan.digest for scan in calibrated}
    twice = [scan.name for scan in judged if scan.digest in digests]
    if twice:
        raise UsageError(
            f"{', '.join(twice)} would be both calibrated and judged on",
            expected="held-out scans that are not among those to calibrate on",
            hint="--held-out OTHER_SCAN",
        )
    return every_window(calibrated, spec), every_window(judged, spec)


def random_scan(spec: ModelSpec, seed: int = 0) -> Scan:
    """Noise of four patches a side, in the spec's intensity window: to try a calibration, never to deploy one."""
    rng = np.random.default_rng(seed)
    shape = [4 * size for size in spec.patch] if spec.dims == 3 else [12, *spec.patch]
    order = [spec.axes.index(axis) for axis in "DHW"] if spec.dims == 3 else [0, 1, 2]
    values = rng.random((spec.in_channels, *(shape[axis] for axis in order)), np.float32)
    if spec.intensity.kind == "window":
        values = values * (spec.intensity.high - spec.intensity.low) + spec.intensity.low
    spacing = (1.0, 1.0, 1.0) if spec.spacing is None else (*(1.0,) * (3 - spec.dims), *spec.spacing)
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):  # voxel axes z, y, x onto x, y, z in mm
        affine[:3, column] = 0.0
        affine[axis, column] = spacing[column]
    volume = Volume(values[0] if spec.in_channels == 1 else values, affine)
    return Scan("random", f"random {seed}", lambda: volume)


def balanced(windows: Windows, session: Session, count: int, seed: int = 0) -> Windows:
    """At most `count` of the windows: half of them with foreground in the session's answer, half without.

    Of evenly spread candidates, twice as many as wanted, the session says which have foreground; when one half is
    short, the other fills it. The same arguments choose the same windows.
    """
    if count < 1:
        raise UsageError(f"{count} patches", expected="at least 1", hint="--samples 32")
    rng = np.random.default_rng(seed)
    runs = np.array_split(np.arange(len(windows)), min(2 * count, len(windows)))
    candidates = [int(rng.choice(run)) for run in runs]
    halves: tuple[list[int], list[int]] = ([], [])
    for index, logits in zip(candidates, answers(session, (windows[one] for one in candidates)), strict=True):
        halves[int(bool(labels_of(logits).any()))].append(index)
    background, foreground = (_spread(half, len(half)) for half in halves)
    many = max(count - len(background), (count + 1) // 2)
    kept = _spread(foreground, min(many, len(foreground)))
    kept += _spread(background, min(count - len(kept), len(background)))
    return windows.subset(kept)


def _spread(indices: list[int], count: int) -> list[int]:
    return [part[len(part) // 2].item() for part in np.array_split(np.array(indices), count)] if count else []


def answers(session: Session, patches: Iterator[Patches]) -> Iterator[Patches]:
    """Logits (K, *patch) of patches (1, C, *patch), whatever the session's batch."""
    for patch in patches:
        yield session.run_any(patch)[0]
