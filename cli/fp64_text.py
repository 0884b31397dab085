"""The noise of FP32 in words: how far an artifact is from FP64, beside how far the network itself is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def fp64_lines(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each case of an agreement that was held to FP64; none for the others."""
    return [
        f"{case['input']}: {case['fp64_sqnr_db']:.1f} dB from FP64, the network itself in FP32 "
        f"{case['reference_fp64_sqnr_db']:.1f} dB, at least {case['thresholds']['min_fp64_sqnr_db']:.1f} dB asked for"
        for case in cases
        if case.get("fp64_sqnr_db") is not None
    ]
