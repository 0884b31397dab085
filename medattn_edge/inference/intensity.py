"""Intensities as a network was trained on them: the chain of a spec, applied to a scan plane by plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import ScanError
from medattn_edge.inference.resample import Floats
from medattn_edge.spec import Intensity, Step
from medattn_edge.volume import Array, Volume

Doubles = npt.NDArray[np.float64]
# Values (H, W) of one plane to values, in place where that is possible.
Apply = Callable[[Doubles], Doubles]


def normalised(oriented: Volume, intensity: Intensity) -> Iterator[tuple[int, int, Floats]]:
    """Channel, row and normalised voxels, float32 (H, W), of one plane along D after the other.

    A step's statistics are those of the values that the steps before it gave, in double precision: a large offset must
    not cost the contrast its digits. Raises ScanError for a scan without contrast, or with none inside what is clipped.
    """
    channels = oriented.voxels[None] if oriented.voxels.ndim == 3 else oriented.voxels
    chains = [intensity.of_channel(channel) for channel in range(len(channels))]
    for source, chain in zip(channels, chains, strict=True):
        if chain:
            _check_contrast(source, chain)
    applied: list[list[Apply]] = [[] for _ in channels]
    for place in range(max(map(len, chains))):
        # Step by step over all channels: what is measured jointly needs the others at the same place of the chain.
        here = [channel for channel, chain in enumerate(chains) if place < len(chain)]
        steps = [_applied(chains[one][place], _sources(channels, applied, one, chains[one][place])) for one in here]
        for channel, step in zip(here, steps, strict=True):
            applied[channel].append(step)
    for channel, source in enumerate(channels):
        for row, plane in enumerate(source):
            yield channel, row, _through(plane, applied[channel]).astype(np.float32)


class _Measured:
    """The values of one or several channels behind the steps so far, given plane by plane."""

    def __init__(self, parts: Sequence[tuple[Array, Sequence[Apply]]]) -> None:
        self._parts = [(source, tuple(steps)) for source, steps in parts]

    def planes(self) -> Iterator[Doubles]:
        for source, steps in self._parts:
            for plane in source:
                yield _through(plane, steps)

    def whole(self, nonzero: bool) -> Doubles:
        """All values in one row."""
        planes = (plane[plane != 0] if nonzero else plane.ravel() for plane in self.planes())
        return np.concatenate(list(planes))


def _sources(channels: Array, applied: list[list[Apply]], channel: int, step: Step) -> _Measured:
    chosen = range(len(channels)) if "joint" in step.scope else (channel,)
    return _Measured([(channels[one], applied[one]) for one in chosen])


def _through(plane: Array, steps: Sequence[Apply]) -> Doubles:
    values: Doubles = plane.astype(np.float64)
    for step in steps:
        values = step(values)
    return values


def _applied(step: Step, source: _Measured) -> Apply:
    """The step as a function of a plane; what it measures of the scan is measured here, once."""
    nonzero = "nonzero" in step.scope
    if "slice" in step.scope:
        return lambda plane: _function(step, [plane], nonzero, lambda: _chosen(plane, nonzero))(plane)
    return _function(step, source.planes, nonzero, lambda: source.whole(nonzero))


def _chosen(plane: Doubles, nonzero: bool) -> Doubles:
    return plane[plane != 0] if nonzero else plane.ravel()


def _function(
    step: Step, planes: Sequence[Doubles] | Callable[[], Iterator[Doubles]], nonzero: bool, whole: Callable[[], Doubles]
) -> Apply:
    give = planes if callable(planes) else lambda: iter(planes)
    match step.name:
        case "zscore":
            mean, deviation = _mean_and_deviation(give, nonzero)
            return _shift(mean, deviation, only_nonzero=nonzero)
        case "minmax":
            low, high = _extremes(give, nonzero)
            return _shift(low, high - low)
        case "normalize":
            return _shift(step.bounds[0].value, step.bounds[1].value)
    values = whole() if any(bound.percentile for bound in step.bounds) else None
    low, high, *to = (_value(bound.value, bound.percentile, values) for bound in step.bounds)
    match step.name:
        case "window":
            shift = _shift(low, high - low)
            return lambda plane: shift(np.clip(plane, low, high, out=plane))
        case "map":
            shift = _shift(low, high - low)
            return lambda plane: shift(plane) * (to[1] - to[0]) + to[0]
        case _:
            return lambda plane: np.clip(plane, low, high, out=plane)


def _value(number: float, percentile: bool, values: Doubles | None) -> float:
    if not percentile or values is None:
        return number
    return float(np.percentile(values, number)) if values.size else 0.0


def _shift(offset: float, scale: float, only_nonzero: bool = False) -> Apply:
    """(x - offset) / scale; where there is nothing to divide by, 0."""

    def shift(plane: Doubles) -> Doubles:
        kept = plane == 0 if only_nonzero else None
        if scale > 0:
            plane -= offset
            plane /= scale
        else:
            plane[...] = 0.0
        if kept is not None:
            plane[kept] = 0.0
        return plane

    return shift


def _extremes(planes: Callable[[], Iterator[Doubles]], nonzero: bool) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for plane in planes():
        values = _chosen(plane, nonzero)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _mean_and_deviation(planes: Callable[[], Iterator[Doubles]], nonzero: bool) -> tuple[float, float]:
    """Of the population; (0, 0) when all values are equal: rounding in the mean would leave a deviation of noise."""
    low, high = _extremes(planes, nonzero)
    if low == high:
        return low, 0.0
    count, total = 0, 0.0
    for plane in planes():
        values = _chosen(plane, nonzero)
        count, total = count + values.size, total + float(values.sum())
    mean = total / count
    squares = sum(float(((_chosen(plane, nonzero) - mean) ** 2).sum()) for plane in planes())
    return mean, math.sqrt(squares / count)


def _check_contrast(source: Array, chain: Sequence[Step]) -> None:
    low, high = float(source.min()), float(source.max())
    if low == high:
        raise ScanError(
            f"every voxel of the scan is {low:g}",
            expected="a scan with contrast",
            hint="look whether the export is empty",
        )
    span = Intensity((tuple(chain),)).span
    if span is not None and (high <= span[0] or low >= span[1]):
        raise ScanError(
            f"the scan's values {low:g}..{high:g} all lie outside the window {span[0]:g}..{span[1]:g}",
            expected="values inside the window, in HU for CT",
            hint="give a scan with its rescale slope and intercept applied",
        )
