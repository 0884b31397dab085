"""How near attention maps are: those of one network in two runtimes or precisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from medattn_edge.agreement import LogitsDistance
from medattn_edge.volume import Array


@dataclass(frozen=True)
class MapAgreement:
    """One map of the reference, and how far the deployed one is from it, over the whole scan.

    Attributes:
        name: of the map.
        low: the reference's smallest value.
        high: the reference's largest value.
        sqnr_db: 10 log10 of the reference's energy over the difference's; None where nothing is deployed.
        max_abs: the largest difference.
        correlation: Pearson's, -1 to 1; None also where one of the two is the same everywhere.
        finite: whether every deployed value is a finite number.
    """

    name: str
    low: float
    high: float
    sqnr_db: float | None = None
    max_abs: float | None = None
    correlation: float | None = None
    finite: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, a figure that is not finite being null."""
        figures = {"sqnr_db": self.sqnr_db, "max_abs": self.max_abs, "correlation": self.correlation}
        figures = {key: value if value is None or math.isfinite(value) else None for key, value in figures.items()}
        return {"map": self.name, "low": self.low, "high": self.high, **figures, "finite": self.finite}


def agreement_of(name: str, reference: Array, deployed: Array | None = None) -> MapAgreement:
    """The agreement of two maps float32 of one shape, a part at a time along their first axis."""
    low, high = float(reference.min()), float(reference.max())
    if deployed is None:
        return MapAgreement(name, low, high)
    distance, sums = LogitsDistance(), np.zeros(5)
    with np.errstate(invalid="ignore", over="ignore"):
        for expected, found in zip(reference, deployed, strict=True):
            distance.add(expected, found)
            x, y = expected.astype(np.float64).ravel() - low, found.astype(np.float64).ravel() - low
            sums += (x.sum(), y.sum(), x @ x, y @ y, x @ y)
    correlation = _correlation(reference.size, *sums.tolist()) if distance.finite else None
    return MapAgreement(name, low, high, distance.sqnr_db, distance.max_abs, correlation, distance.finite)


def _correlation(count: int, x: float, y: float, xx: float, yy: float, xy: float) -> float | None:
    """Pearson's of sums; None where one side does not vary beyond the rounding of its own sum of squares."""
    spread_x, spread_y = xx - x * x / count, yy - y * y / count
    if spread_x <= 1e-12 * xx or spread_y <= 1e-12 * yy:
        return None
    return float(np.clip((xy - x * y / count) / math.sqrt(spread_x * spread_y), -1.0, 1.0))
