"""The verdicts as a table, the same text for the same verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERDICTS = ("accepted", "refused", "crashed", "different")


@dataclass(frozen=True)
class Verdict:
    """What came of one scan.

    Attributes:
        corpus: the name of the folder that it lies in.
        scan: where in it.
        format: of the product's.
        verdict: one of VERDICTS.
        reason: the code of a refusal, "" for the rest.
        detail: for people.
    """

    corpus: str
    scan: str
    format: str
    verdict: str
    reason: str
    detail: str


def counts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Per format: how many of each verdict, and of each reason."""
    found: dict[str, Any] = {}
    for form in sorted({one.format for one in verdicts}):
        mine = [one for one in verdicts if one.format == form]
        found[form] = {verdict: sum(one.verdict == verdict for one in mine) for verdict in VERDICTS}
        found[form]["reasons"] = dict(sorted(Counter(one.reason for one in mine if one.reason).items()))
    return found


def document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What --json prints."""
    return {"formats": counts(verdicts), "scans": [asdict(one) for one in verdicts]}


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Counts, refusals by reason, and a line for every scan, those that crashed or differ first."""
    lines = ["| format | accepted | refused | crashed | different |", "|---|---|---|---|---|"]
    for form, row in counts(verdicts).items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
        refused = f"{row['refused']} ({reasons})" if reasons else "0"
        lines.append(f"| {form} | {row['accepted']} | {refused} | {row['crashed']} | {row['different']} |")
    for verdict in ("crashed", "different", "accepted", "refused"):
        chosen = [one for one in verdicts if one.verdict == verdict]
        lines += ["", f"## {verdict}", "", "| scan | format | |", "|---|---|---|"] if chosen else []
        for one in chosen:
            told = ": ".join(filter(None, (one.reason, one.detail)))
            lines.append(f"| {one.corpus}/{one.scan} | {one.format} | {told.replace('|', ' ')} |")
    return "\n".join(lines) + "\n"
