"""Cells of the tables of results: a figure, a ratio and a verdict are written alike wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def number(value: Any, form: str) -> str:
    """A figure; a dash where there is none."""
    return "-" if value is None else format(value, form)


def ratio(row: Row, field: str, spread: str) -> str:
    """A median of paired ratios with its quartiles; a dash where there is none, and for a row that fails.

    `declined` for times that a busy host gave.
    """
    if row.get("ratio_declined") and row["verdict"] != "fail":
        return "declined"
    if row.get(field) is None or row["verdict"] == "fail":
        return "-"
    low, high = row[spread]
    return f"{row[field]:.2f} [{low:.2f}, {high:.2f}]"


def sqnr(row: Row) -> str:
    """In dB; a row without one answers exactly as the reference does, or was not compared."""
    agreement = row["agreement"] or {}
    value = agreement.get("sqnr_db")
    return ("identical" if agreement.get("max_abs") == 0 else "-") if value is None else f"{value:.1f}"


def verdict(row: Row) -> str:
    """pass, or FAIL and why, as one cell of a Markdown table."""
    if row["verdict"] != "fail":
        return "pass"
    return ("FAIL: " + "; ".join(row.get("failures") or ["out of tolerance"])).replace("|", "/").replace("\n", " ")
