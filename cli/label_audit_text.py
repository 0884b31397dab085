"""What labels files have, as a person reads it: every value, what it was taken for, and how much of it there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import console


def note_label_audits(audits: Iterable[Mapping[str, Any]]) -> None:
    """Print audits, as `LabelAudit.to_json` gives them, on stderr: a line for each value of each file."""
    for audit in audits:
        console.note(f"labels in {audit['file']}:")
        console.note(f"  {'value':>6}  {'voxels':>12}  {'ml':>10}  taken for")
        for row in audit["values"]:
            volume = "-" if row["millilitres"] is None else f"{row['millilitres']:,.1f}"
            labels = ", ".join(row["labels"]) or "no label: counts as background"
            console.note(f"  {row['value']:>6}  {row['voxels']:>12,}  {volume:>10}  {labels}")
