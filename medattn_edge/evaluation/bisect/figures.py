"""Figures of one layer: what a candidate's sub-graph makes of the reference's own values, and of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medattn_edge.agreement import IDENTICAL_DB, LogitsDistance
from medattn_edge.backends.parts import Floats
from medattn_edge.evaluation.bisect.layers import CutLayer
from medattn_edge.gates import LAYER

_LIMITS = LAYER.limits
_SATURATED = 1e-3  # from 0 or 1: a gate there lets nothing, or everything, through


@dataclass(frozen=True)
class LayerFigures:
    """What was measured of one layer; dB are of SQNR against the reference.

    Attributes:
        layer: of the reference's graph.
        precision: in which the candidate computes it: fp32, fp16 or int8.
        reference_range: smallest and largest value of the reference's outputs.
        candidate_range: the same of the candidate's, fed with its own values; None where there is no finite one.
        clipped: share of the reference's values that the candidate's quantizer, or half, does not hold.
        saturated: share of a gate's values at 0 or 1, of the reference and of the candidate; None where it is no gate.
        in_db: of its inputs, as the candidate computed them.
        local_db: of its outputs when it is fed with the reference's values.
        out_db: of its outputs when it is fed with the candidate's.
        attainable_db: of its outputs with every weight and tensor rounded to 8 bits by its own range; None unless the
            candidate computes it in INT8.
        logits_db: of the reference's logits when this layer alone is the candidate's; None unless it leaves.
        written_db: as local_db, of the graph as it is written; None unless it leaves, and where that is what
            runs.
        failure: how the runtime failed on it, empty when it did not.
        piece: the part of the layer that leaves the reference by itself; None where it is the layer as a whole.
        causes: what differs, in words.
    """

    layer: CutLayer
    precision: str
    reference_range: tuple[float, float]
    candidate_range: tuple[float, float] | None
    clipped: float
    saturated: tuple[float, float] | None
    in_db: float
    local_db: float
    out_db: float
    attainable_db: float | None = None
    logits_db: float | None = None
    written_db: float | None = None
    failure: str = ""
    piece: CutLayer | None = None
    causes: tuple[str, ...] = ()

    @property
    def named(self) -> CutLayer:
        """What to call it by: the part of it that leaves by itself, where that is another than its main one."""
        return self.layer if self.piece is None else self.piece

    @property
    def limit_db(self) -> float:
        """The local SQNR below which it leaves the reference."""
        return limit_db(self.precision, self.attainable_db)

    @property
    def leaves(self) -> bool:
        """Whether it leaves the reference by itself."""
        more = 0.0 if self.saturated is None else self.saturated[1] - self.saturated[0]
        return bool(self.failure) or not self.local_db >= self.limit_db or more > _LIMITS["max_saturated_gain"]

    @property
    def of_runtime(self) -> bool:
        """Whether the graph is right there as it is written, so that the runtime computes something else."""
        return self.leaves and self.written_db is not None and self.written_db >= self.limit_db

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an SQNR of what is not finite is null."""
        named = self.named
        return {
            "module": named.module,
            "operator": named.operator,
            "operators": list(self.layer.operators),
            "call": list(named.call),
            "precision": self.precision,
            "reference_range": list(self.reference_range),
            "candidate_range": None if self.candidate_range is None else list(self.candidate_range),
            "finite": self.candidate_range is not None,
            "clipped": self.clipped,
            "saturated": None if self.saturated is None else list(self.saturated),
            "in_db": _plain(self.in_db),
            "local_db": _plain(self.local_db),
            "out_db": _plain(self.out_db),
            "attainable_db": None if self.attainable_db is None else _plain(self.attainable_db),
            "limit_db": self.limit_db,
            "written_db": None if self.written_db is None else _plain(self.written_db),
            "logits_db": None if self.logits_db is None else _plain(self.logits_db),
            "leaves": self.leaves,
            "failure": self.failure,
            "causes": list(self.causes),
        }


def limit_db(precision: str, attainable_db: float | None) -> float:
    """The local SQNR below which a layer leaves the reference.

    Args:
        precision: in which it is computed.
        attainable_db: of what 8 bits can hold of it, where it is INT8.
    """
    if precision != "int8":
        return _LIMITS[f"min_{precision}_db"]
    if attainable_db is None:
        return _LIMITS["min_int8_db"]
    asked = min(attainable_db - _LIMITS["max_int8_loss_db"], _LIMITS["enough_int8_db"])
    return max(asked, _LIMITS["min_int8_db"])


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass
class Measured:
    """Figures of the outputs of a layer while its runs are gone through; the worst output counts."""

    distances: dict[str, LogitsDistance] = field(default_factory=dict)

    def add(self, names: Sequence[str], expected: Sequence[Floats], found: Sequence[Floats]) -> None:
        """Count the outputs of one run."""
        for name, right, value in zip(names, expected, found, strict=True):
            self.distances.setdefault(name, LogitsDistance()).add(right, value)

    @property
    def sqnr_db(self) -> float:
        """The smallest of any output; that of identical values where there is none."""
        return min((one.sqnr_db for one in self.distances.values()), default=IDENTICAL_DB)


def value_range(arrays: Iterable[Floats]) -> tuple[float, float] | None:
    """The smallest and largest value; None when one is not finite."""
    low, high = math.inf, -math.inf
    for array in arrays:
        low, high = min(low, float(array.min(initial=math.inf))), max(high, float(array.max(initial=-math.inf)))
        if not np.isfinite(array).all():
            return None
    return low, high


def saturated(arrays: Sequence[Floats]) -> float:
    """The share of a gate's values at 0 or 1."""
    at_end = [np.count_nonzero((one <= _SATURATED) | (one >= 1 - _SATURATED)) for one in arrays]
    return float(sum(at_end) / max(1, sum(one.size for one in arrays)))
