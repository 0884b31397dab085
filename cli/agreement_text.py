"""The table of how far an artifact's answers are from those of what it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def agreement_table(title: str, cases: Iterable[Mapping[str, Any]]) -> Any:
    """A rich table with a row for every case of a manifest's `agreement`."""
    from rich.table import Table

    table = Table(
        "checked on", "patches", "SQNR dB", "largest difference", "label match", "Dice with the reference", title=title
    )
    for case in cases:
        table.add_row(
            case["input"],
            str(case["patches"]),
            f"{case['sqnr_db']:.1f}",
            f"{case['max_abs']:.2g}",
            f"{case['label_match']:.6f}",
            f"{min(case['dice'].values()):.6f}" if case["dice"] else "no label",
        )
    return table
