"""The search for the way from a scan to its owner's result: every pipeline on a block, the best on the whole scan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medattn_edge.agreement import dice_per_label
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import ScanError, UsageError
from medattn_edge.evaluation.pipelines import SEARCHED, Pipeline, Reading, intensities, layouts, readings
from medattn_edge.evaluation.scan_result import SUM_OF_ONE, ExpectedScan
from medattn_edge.inference.intensity import normalised
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.restore import restore
from medattn_edge.inference.sliding_window import slabs
from medattn_edge.labels import Meaning
from medattn_edge.spec import Intensity, ModelSpec, plane_of
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.models.checkpoint import Checkpoint

Array = npt.NDArray[Any]
Scores = tuple[dict[str, float], float, int, tuple[str, ...]]
Progress = Callable[[int, int], None]

_FINALISTS = 12
_OVERLAP = 0.5
_SLICES = 5  # of a 2-D network, for the first look


@dataclass(frozen=True)
class Trial:
    """One pipeline against the owner's result.

    Attributes:
        pipeline: what was tried.
        dice: of every label, or of every region, that the owner's result or the network's has.
        label_match: the fraction of voxels that are equal, in all maps.
        wrong: the voxels that are not.
        absent: labels, or regions, that neither has: this scan proves nothing of them.
    """

    pipeline: Pipeline
    dice: Mapping[str, float]
    label_match: float
    wrong: int
    absent: tuple[str, ...] = ()

    @property
    def score(self) -> tuple[float, float]:
        """Mean Dice, 0 where nothing is found, then the match."""
        return sum(self.dice.values()) / max(1, len(self.dice)), self.label_match

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        layout, reading = self.pipeline.layout, self.pipeline.reading
        return {
            "orientation": layout.orientation,
            "axes": layout.axes,
            "intensity": str(self.pipeline.intensity),
            "activation": reading.activation,
            "region_order": list(reading.order),
            "dice": dict(self.dice),
            "label_match": self.label_match,
        }

    def __str__(self) -> str:
        return f"{self.pipeline}: Dice {min(self.dice.values(), default=0.0):.4f}, label match {self.label_match:.5f}"


class Search:
    """The trials of one search.

    Attributes:
        free: fields of the spec that are searched.
        runs: of the network so far.
        plane: of a 2-D network's slices, where it is known; empty for any.
    """

    def __init__(
        self, checkpoint: Checkpoint, expected: ExpectedScan, limit: int, deadline: float, progress: Progress | None
    ) -> None:
        spec = checkpoint.spec
        if spec.cleanup or spec.mirror:
            raise UsageError(
                "--expect-scan with --after or --mirror",
                expected="the network alone, against a result without them",
                hint="prove it first; then medattn-edge inspect NET.onnx --spec > spec.json; export --spec spec.json",
            )
        self.network, self.spec = checkpoint.network, spec
        free = set(checkpoint.assumed)
        if "labels" not in free:  # their names say whether there is a background among them
            free.discard("activation")
        self.free = [name for name in (*SEARCHED, "region_order") if name in free]
        self.scan, self.result = expected.scan.to_lps(), expected.result.like(expected.scan).to_lps()
        maps = 0 if self.result.voxels.ndim == 3 else self.result.channels
        highest = int(self.result.voxels.max()) if maps == 0 else 1
        self.readings = readings(spec, self.free, maps, highest)
        if maps and not np.allclose(self.result.voxels.sum(axis=0, dtype=np.float32), 1, rtol=0, atol=SUM_OF_ONE):
            self.readings = [one for one in self.readings if one.activation == "sigmoid"]  # regions overlap, or lack
        if not self.readings:
            raise ScanError(
                f"{expected.source} has " + (f"{maps} maps" if maps else f"labels up to {highest}"),
                expected=f"the result of a network with {spec.outputs} outputs"
                + ("" if "activation" in self.free else f" and {spec.activation}"),
                hint="give the result of this checkpoint, with its own numbers of labels",
            )
        self.limit, self.deadline, self.progress = limit, deadline, progress
        self.runs, self.total, self.plane = 0, 0, ""

    def run(self) -> tuple[list[Trial], bool]:
        """The trials on the whole scan, the best first, and whether everything was tried."""
        chains, places = intensities(self.spec, self.free), layouts(self.spec, self.free)
        if self.plane:
            places = [place for place in places if plane_of(place.orientation) == self.plane]
        blocks = {place: self._block(self._spec(place)) for place in places}
        whole = all(block == _everything(self.scan) for block in blocks.values())
        self.total = len(chains) * len(places) + (0 if whole else min(_FINALISTS, len(chains) * len(places)))
        first: list[Trial] = []
        complete = True
        for chain in chains:
            seen: dict[str, Volume | None] = {}
            for place in places:
                if self._is_over():
                    complete = False
                    break
                spec = self._spec(place)
                key = place.orientation if _by_slice(chain) else ""
                if key not in seen:
                    seen[key] = _normalised(self.scan, chain, place.orientation)
                volume = seen[key]
                if volume is None:
                    self._count()
                    continue
                for reading, trial in self._run(spec, volume, blocks[place]):
                    first.append(Trial(Pipeline(place, chain, reading), *trial))
        first.sort(key=lambda trial: trial.score, reverse=True)
        if whole or not complete:
            return first, complete
        finals: list[Trial] = []
        for (place, chain), kept in self._finalists(first).items():
            volume = _normalised(self.scan, chain, place.orientation)
            if volume is None or self._is_over():
                complete = complete and volume is None
                continue
            for reading, trial in self._run(self._spec(place), volume, _everything(self.scan)):
                if reading in kept:
                    finals.append(Trial(Pipeline(place, chain, reading), *trial))
        return sorted(finals, key=lambda trial: trial.score, reverse=True), complete

    def _finalists(self, first: Sequence[Trial]) -> dict[tuple[Any, Intensity], set[Reading]]:
        """The best pipelines, those of one run of the network together."""
        kept: dict[tuple[Any, Intensity], set[Reading]] = {}
        for trial in first[:_FINALISTS]:
            kept.setdefault((trial.pipeline.layout, trial.pipeline.intensity), set()).add(trial.pipeline.reading)
        return kept

    def _spec(self, place: Any) -> ModelSpec:
        """The spec of a run on values that are normalised already."""
        return replace(self.spec, orientation=place.orientation, axes=place.axes, intensity=Intensity())

    def _is_over(self) -> bool:
        return self.runs >= self.limit or time.monotonic() >= self.deadline

    def _count(self) -> None:
        self.runs += 1
        if self.progress is not None:
            self.progress(self.runs, self.total)

    def _run(self, spec: ModelSpec, volume: Volume, block: tuple[slice, ...]) -> Iterator[tuple[Reading, Scores]]:
        """What `_scores` says of a block, for each reading of the logits."""
        part, truth = _cut(volume, block), _cut(self.result, block).voxels
        prepared = prepare(part, spec)
        session = EagerSession(self.network, spec)
        shape = prepared.oriented.shape
        answers = [_room(reading, truth, spec.outputs, shape) for reading in self.readings]
        for slab in restore(slabs(session, prepared.image, _OVERLAP), prepared):
            for reading, answer in zip(self.readings, answers, strict=True):
                rows = _read(slab.logits, reading, truth.ndim == 4)
                view = prepared.in_network_order(answer)
                view[..., slab.start : slab.start + rows.shape[-3], :, :] = rows
        self._count()
        for reading, answer in zip(self.readings, answers, strict=True):
            own = prepared.on_scan(answer).voxels
            wanted = truth if truth.ndim == 3 else _masks(truth, reading)
            yield reading, _scores(wanted, own, self._names(wanted, reading))

    def _names(self, wanted: Array, reading: Reading) -> list[str]:
        if wanted.ndim == 4:
            named = (reading.activation == "sigmoid") == self.spec.overlapping and len(self.spec.labels) == len(wanted)
            return list(self.spec.labels) if named else [f"output {index}" for index in range(len(wanted))]
        if reading.order:
            return ["none", *(f"label {value}" for value in range(1, len(reading.order) + 1))]
        return (
            list(self.spec.labels)
            if not self.spec.overlapping
            else [f"label {value}" for value in range(self.spec.outputs)]
        )

    def _block(self, spec: ModelSpec) -> tuple[slice, ...]:
        """What of the scan (D, H, W in LPS) the first look is at: two patches wide, and few slices of a 2-D network."""
        wanted = spec.spacing or (0.0,) * spec.dims
        ratio = max(1.0, *(mm / min(self.scan.spacing) for mm in wanted))
        most = [math.ceil(2 * max(spec.patch) * ratio)] * 3
        if spec.dims == 2:
            most[{"axial": 0, "coronal": 1, "sagittal": 2}[spec.plane]] = _SLICES
        found = self.result.voxels if self.result.voxels.ndim == 3 else self.result.voxels[-1] > 0.5
        return tuple(_around(found != 0, axis, size) for axis, size in enumerate(most))


def _everything(volume: Volume) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in volume.shape)


def _around(found: Array, axis: int, most: int) -> slice:
    """At most so many planes along an axis, around the middle of what was found."""
    size = found.shape[axis]
    if size <= most:
        return slice(0, size)
    counts = np.cumsum(found.sum(axis=tuple(other for other in range(3) if other != axis)))
    middle = int(np.searchsorted(counts, counts[-1] / 2))
    start = min(max(0, middle - most // 2), size - most)
    return slice(start, start + most)


def _cut(volume: Volume, block: tuple[slice, ...]) -> Volume:
    affine = np.array(volume.affine)
    affine[:3, 3] += affine[:3, :3] @ [one.start for one in block]
    index: Any = (..., *block)
    return Volume(volume.voxels[index], affine, volume.calibrated)


def _by_slice(chain: Intensity) -> bool:
    return any("slice" in step.scope for steps in chain.chains for step in steps)


def _normalised(scan: Volume, chain: Intensity, orientation: str) -> Volume | None:
    """The scan with an intensity measured on all of it; None where the scan has no contrast under it."""
    oriented = scan.oriented(orientation)
    values = np.empty(oriented.voxels.shape, np.float32)
    channels = values[None] if values.ndim == 3 else values
    try:
        for channel, row, plane in normalised(oriented, chain):
            channels[channel, row] = plane
    except ScanError:
        return None
    return oriented.with_voxels(values).like(scan)


def _room(reading: Reading, truth: Array, outputs: int, shape: tuple[int, ...]) -> Array:
    if truth.ndim == 3:
        return np.zeros(shape, np.uint16)
    return np.zeros((max(2, outputs) if reading.activation == "softmax" else outputs, *shape), bool)


def _read(logits: Array, reading: Reading, apart: bool) -> Array:
    """Labels (...), or a mask for each output (M, ...), of logits (K, ...)."""
    overlapping = reading.activation == "sigmoid"
    count = len(logits) if overlapping else max(2, len(logits))
    meaning = Meaning(tuple(map(str, range(count))), overlapping)
    labels = meaning.labels_of(logits)
    if apart:
        return np.stack([meaning.mask(labels, name) for name in meaning.names])
    return meaning.label_map(labels, [str(output) for output in reading.order]) if overlapping else labels


def _masks(maps: Array, reading: Reading) -> Array:
    """The owner's maps (M, ...), probabilities or masks, as masks."""
    if reading.activation == "sigmoid":
        return np.asarray(maps > 0.5)
    best = maps.argmax(axis=0)
    return np.stack([best == value for value in range(len(maps))])


def _scores(wanted: Array, own: Array, names: Sequence[str]) -> Scores:
    """Dice, match, wrong voxels, and what neither has: the last fields of a Trial."""
    wrong = int(np.count_nonzero(wanted != own))
    match = 1.0 - wrong / wanted.size
    if wanted.ndim == 3:
        per_label = dice_per_label(wanted, own, Meaning(tuple(names)))
        return per_label, match, wrong, tuple(name for name in names[1:] if name not in per_label)
    dice = {}
    for name, mask, found in zip(names, wanted, own, strict=True):
        if total := int(mask.sum()) + int(found.sum()):
            dice[name] = 2.0 * int((mask & found).sum()) / total
    return dice, match, wrong, tuple(name for name in names if name not in dice)
