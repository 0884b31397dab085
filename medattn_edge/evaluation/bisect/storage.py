"""Storage: in which numbers a candidate keeps a tensor between two layers, and which values do not fit there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Scale = tuple[Floats, Floats]  # a step, and a zero-point or an origin
HALF_LIMIT = 65504.0


@dataclass(frozen=True)
class Storage:
    """Whole numbers times a scale, or halves.

    Attributes:
        kind: int8, or fp16.
        low: the smallest value that it holds; per tensor or broadcastable to it.
        high: the largest one.
        step: between two values; 0 for halves.
        origin: a value that it holds exactly, which the others are counted from.
        read_step: what a step counts when the values are read; the same, where nobody made a mistake.
        read_origin: what the origin is when the values are read, likewise.
    """

    kind: str
    low: Floats
    high: Floats
    step: Floats
    origin: Floats
    read_step: Floats
    read_origin: Floats

    @classmethod
    def half(cls) -> Storage:
        """Half precision."""
        limit, none = np.array(HALF_LIMIT, np.float32), np.zeros((), np.float32)
        return cls("fp16", -limit, limit, none, none, none, none)

    @classmethod
    def linear(cls, low: Floats, high: Floats, step: Floats) -> Storage:
        """Of a FakeQuantize: steps from one limit to the other."""
        return cls("int8", low, high, step, low, step, low)

    @classmethod
    def pair(cls, quantize: Scale, dequantize: Scale, limits: tuple[int, int]) -> Storage:
        """Of a QuantizeLinear and the DequantizeLinear behind it.

        Args:
            quantize: scale and zero-point of the first, broadcastable to the tensor.
            dequantize: those of the second.
            limits: of the whole numbers.
        """
        (step, zero), (read_step, read_zero) = quantize, dequantize
        low, high = (limits[0] - zero) * step, (limits[1] - zero) * step
        return cls("int8", low, high, step, low, read_step, (limits[0] - read_zero) * read_step)

    def apply(self, values: Floats) -> Floats:
        """The values as they are read again, those outside at the nearest limit."""
        inside = np.clip(values, self.low, self.high)
        if self.kind == "fp16":
            return inside.astype(np.float16).astype(np.float32)
        return self._counted(inside, (self.step, self.origin), (self.read_step, self.read_origin))

    def restore(self, values: Floats) -> Floats:
        """Values that `apply` turns into these, which it gave."""
        if self.kind == "fp16":
            return values
        return self._counted(values, (self.read_step, self.read_origin), (self.step, self.origin))

    def _counted(self, values: Floats, by: Scale, to: Scale) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = np.rint((values - by[1]) / by[0])
            moved: Floats = np.where(by[0] > 0, whole * to[0] + to[1], values).astype(np.float32)
        return moved

    def clipped(self, values: Floats) -> float:
        """The share of the values that lie outside, by more than rounding moves them."""
        room = 0.5 * self.step
        return float(np.mean((values < self.low - room) | (values > self.high + room)))


def fed(values: Floats, storages: Sequence[Storage]) -> Floats:
    """What a candidate may be fed with for values: of those that halves do not hold, the nearest."""
    return np.clip(values, -HALF_LIMIT, HALF_LIMIT) if any(one.kind == "fp16" for one in storages) else values


def restored(values: Floats, storages: Sequence[Storage]) -> Floats:
    """Values that become these when they go through all the storages."""
    for one in reversed(storages):
        values = one.restore(values)
    return values


def stored(values: Floats, storages: Sequence[Storage]) -> Floats:
    """Values after all the storages that they go through."""
    for one in storages:
        values = one.apply(values)
    return values


def clipped(values: Floats, storages: Sequence[Storage]) -> float:
    """The largest share of values that one of the storages clips; 0 without any."""
    return max((one.clipped(values) for one in storages), default=0.0)
