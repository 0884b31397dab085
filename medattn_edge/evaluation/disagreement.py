"""Disagreement: several runtimes computed one graph; which of them must not be deployed with it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medattn_edge.agreement import Agreement
from medattn_edge.gates import RUNTIME_GAP

MAX_GAP_DB, CLIP_DB = RUNTIME_GAP.limits["max_gap_db"], RUNTIME_GAP.limits["clip_db"]


@dataclass(frozen=True)
class RuntimeOutcome:
    """The outcome of one runtime.

    Attributes:
        runtime: its name.
        agreements: with the FP32 reference, one for each scan that it finished, in order.
        failure: why it ended early, empty when it did not.
        as_written: it computes the graph node by node, without optimisation, which is what the graph means.
    """

    runtime: str
    agreements: tuple[Agreement, ...]
    failure: str = ""
    as_written: bool = False

    @property
    def sqnr_db(self) -> float | None:
        """On its worst scan; None when it finished none, or has a logit that is not finite."""
        finite = bool(self.agreements) and all(one.finite for one in self.agreements)
        return min(one.sqnr_db for one in self.agreements) if finite else None


@dataclass(frozen=True)
class RuntimeVerdict:
    """What the gate says of one runtime.

    Attributes:
        runtime: its name.
        sqnr_db: on its worst scan, None when there is no finite one.
        refused: it must not be deployed with this graph.
        reason: why it is refused, or what is odd about one that is not.
        as_written: it computes the graph node by node.
    """

    runtime: str
    sqnr_db: float | None
    refused: bool
    reason: str
    as_written: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        verdict = "fail" if self.refused else "pass"
        return {"backend": self.runtime, "sqnr_db": self.sqnr_db, "verdict": verdict, "reason": self.reason}


@dataclass(frozen=True)
class Ruling:
    """What the gate says of one graph.

    Attributes:
        rows: one for each runtime, in the order of the outcomes.
        note: why it says little, empty when it does not.
    """

    rows: tuple[RuntimeVerdict, ...]
    note: str = ""

    @property
    def refused(self) -> tuple[str, ...]:
        """The names of the runtimes that must not be deployed with this graph."""
        return tuple(row.runtime for row in self.rows if row.refused)

    @property
    def hint(self) -> str:
        """What to do about the refused ones; empty when there are none."""
        if not self.refused:
            return ""
        again = "make another file for the refused one: medattn-edge calibrate --quantizer, or compile"
        left = [row.runtime for row in self.rows if not row.refused and not row.as_written]
        return f"deploy it in {' or '.join(left)}, or {again}" if left else again

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "as_written_sqnr_db": next((row.sqnr_db for row in self.rows if row.as_written), None),
            "rows": [row.to_json() for row in self.rows],
            "refused": list(self.refused),
            "note": self.note,
            "hint": self.hint,
        }


def judge(outcomes: Sequence[RuntimeOutcome], max_gap_db: float = MAX_GAP_DB) -> Ruling:
    """Which runtimes disagree; all outcomes are of one graph, against one reference, on the same scans.

    Refused are: a runtime that failed; one whose logits are not finite; and one whose SQNR on any scan is more than
    max_gap_db below that of the graph as written, both clipped at CLIP_DB. Where the graph as written was not run, or
    is refused itself, the runtime with the best worst scan takes its place. A runtime that is better is not refused: it
    leaves out some rounding. But when two or more are, and none is not, it is the graph as written that differs.

    Why the gap, and not the distance to the graph as written: on the INT8 graphs of small attention U-Nets in 2-D and
    3-D, right runtimes are within 0.6 dB of each other against the FP32 reference, and wrong ones 15 dB or more below;
    but two right ones may be as far from each other as from the reference (23 dB), because they round other halves.
    """
    faults = {one.runtime: one.failure or _not_finite(one) for one in outcomes}
    sound = [one for one in outcomes if not faults[one.runtime]]
    written = next((one for one in sound if one.as_written), None)
    others = [one for one in sound if one is not written]
    if written is not None and len(others) > 1 and all(_gap(written, one)[0] > max_gap_db for one in others):
        _, scan = min(_gap(written, one) for one in others)
        faults[written.runtime] = f"{_figure(written, scan)} where all others have more"
        sound = others
    yardstick = written if written in sound else max(sound, key=lambda one: one.sqnr_db or 0.0, default=None)
    oddities: dict[str, str] = {}
    for one in sound:
        if yardstick is None or one is yardstick:
            continue
        gap, scan = _gap(one, yardstick)
        who = "the graph as written" if yardstick.as_written else yardstick.runtime
        if gap > max_gap_db:
            faults[one.runtime] = f"{_figure(one, scan)} where {who} has {_figure(yardstick, scan)}"
        elif _gap(yardstick, one)[0] > max_gap_db:
            oddities[one.runtime] = f"better than {who}: it does not round as that says"
    rows = tuple(
        RuntimeVerdict(
            one.runtime,
            one.sqnr_db,
            bool(faults[one.runtime]),
            faults[one.runtime] or oddities.get(one.runtime, ""),
            one.as_written,
        )
        for one in outcomes
    )
    return Ruling(rows, _doubt(outcomes, yardstick, max_gap_db))


def _doubt(outcomes: Sequence[RuntimeOutcome], yardstick: RuntimeOutcome | None, max_gap_db: float) -> str:
    if len(outcomes) == 1:
        return f"only {outcomes[0].runtime} ran it: there is nothing to compare it with"
    best = yardstick.sqnr_db if yardstick is not None else None
    if best is not None and best < 2 * max_gap_db:  # what is plain wrong has 0 to 10 dB too
        return f"its SQNR is {best:.1f} dB at best: it is too far from the reference to tell its runtimes apart"
    return ""


def _not_finite(one: RuntimeOutcome) -> str:
    return "" if one.sqnr_db is not None else "its logits are not finite"


def _gap(one: RuntimeOutcome, yardstick: RuntimeOutcome) -> tuple[float, int]:
    """By how many dB it is below on the scan where that is most, and which scan that is."""
    pairs = zip(one.agreements, yardstick.agreements, strict=True)
    return max(
        (min(best.sqnr_db, CLIP_DB) - min(own.sqnr_db, CLIP_DB), index) for index, (own, best) in enumerate(pairs)
    )


def _figure(one: RuntimeOutcome, scan: int) -> str:
    which = f" on scan {scan + 1}" if len(one.agreements) > 1 else ""
    return f"SQNR {one.agreements[scan].sqnr_db:.1f} dB{which}"
