"""Choice: of the candidates that hold every threshold the fastest; the others keep their figures and their reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.evaluation.report import lateness, meets_deadline
from medattn_edge.gates import DEADLINE

CHOSEN: Final = "chosen"
_BY_RULE: Final = ("fp16", "fp32", "int8")  # on a GPU that is not here: INT8 takes a measurement to be believed


@dataclass(frozen=True)
class CandidateOutcome:
    """What came of one candidate.

    Attributes:
        plan: what it is.
        verdict: chosen; holds, and slower than the chosen one; fails; not built; or left out.
        reasons: why it is not the chosen one, in sentences; of the chosen one, how it was chosen.
        min_dice: the smallest Dice with the reference of any label in any judged scan; None where it was not judged.
        true_dice_share: the smallest and the largest share of the reference's true Dice; None without true labels.
        min_sqnr_db: the smallest, over the judged scans; None for identical logits and where it was not judged.
        p50_ms: of a run; None where it was not timed.
        p99_ms: of a run.
        ratio_to_reference: the checkpoint's time over its own, paired.
        ratio_spread: the quartiles of that ratio.
        ratio_declined: why there is no ratio, though it was timed: the host was busy; empty where there is one.
        miss_rate: of the deadline; None without one.
        not_run: why it was not run at all here; empty when it was.
    """

    plan: CandidatePlan
    verdict: str = "holds"
    reasons: tuple[str, ...] = ()
    min_dice: float | None = None
    true_dice_share: tuple[float, float] | None = None
    min_sqnr_db: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    ratio_to_reference: float | None = None
    ratio_spread: tuple[float, float] | None = None
    ratio_declined: str = ""
    miss_rate: float | None = None
    not_run: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        rest = {name: value for name, value in vars(self).items() if name != "plan"}
        pairs = {
            name: None if (pair := rest[name]) is None else list(pair) for name in ("true_dice_share", "ratio_spread")
        }
        return {**self.plan.to_json(), **rest, **pairs, "reasons": list(self.reasons), "not_run": self.not_run or None}

    def failing(self, *reasons: str, verdict: str = "fails") -> CandidateOutcome:
        """The same with what speaks against it."""
        return replace(self, verdict=verdict, reasons=(*self.reasons, *reasons))


@dataclass(frozen=True)
class StageValues:
    """What the stages gave.

    Attributes:
        made: candidate -> what its stage said.
        gates: rows of `compare`, over all graphs.
        timed: rows of `bench`.
        not_timed: why nothing was timed; empty when something was.
        deadline_ms: what a run may take, by `gates.DEADLINE`.
    """

    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    timed: Sequence[Mapping[str, Any]] = ()
    not_timed: str = ""
    deadline_ms: float | None = None


def judged(plan: CandidatePlan, values: StageValues, engine_graphs: Mapping[str, bool]) -> CandidateOutcome:
    """What is known of a candidate before it is timed.

    Args:
        plan: what it is.
        values: what the stages gave.
        engine_graphs: candidate -> whether it holds, of the graphs that engines were built from.
    """
    outcome = CandidateOutcome(plan)
    if plan.left_out:
        return outcome.failing(plan.left_out, verdict="left out")
    made = values.made.get(plan.name, {})
    if failure := made.get("failure"):
        return outcome.failing(failure, verdict="not built")
    verified = str(made.get("verified", ""))
    if plan.is_engine and verified.startswith("not run"):
        outcome = replace(outcome, not_run=verified)
        return outcome if engine_graphs.get(plan.parent) else outcome.failing(f"{plan.parent} fails")
    rows = [row for row in values.gates if row["candidate"] == plan.name and row["runtime"] in plan.runtimes]
    if not rows:
        return outcome.failing("no runtime that it is made for judged it")
    outcome = _with_figures(outcome, rows)
    reasons = [f"in {row['runtime']}: {text}" for row in rows for text in _failures(row)]
    return outcome.failing(*reasons) if reasons else outcome


def _failures(row: Mapping[str, Any]) -> list[str]:
    of_cases = [f"judged scan {case['judged_scan']}: {text}" for case in row["cases"] for text in case["failures"]]
    found = [*row["failures"], *of_cases]
    return found or ([] if row["verdict"] == "pass" else ["it was not judged"])


def _with_figures(outcome: CandidateOutcome, rows: Sequence[Mapping[str, Any]]) -> CandidateOutcome:
    cases = [case for row in rows for case in row["cases"]]
    dice = [value for case in cases for value in case["dice"].values()]
    shares = [value for case in cases for value in (case.get("true_dice_share") or {}).values() if value is not None]
    sqnr = [case["sqnr_db"] for case in cases if case["sqnr_db"] is not None]
    return replace(
        outcome,
        min_dice=min(dice, default=None),
        true_dice_share=(min(shares), max(shares)) if shares else None,
        min_sqnr_db=min(sqnr, default=None),
    )


def timed(outcome: CandidateOutcome, values: StageValues) -> CandidateOutcome:
    """A candidate that holds its gate on whole scans, with its times, held to patches and to the deadline."""
    plan = outcome.plan
    rows = [row for row in values.timed if row["artifact"] == plan.name and row["backend"] in plan.runtimes]
    if not rows:
        return outcome
    reasons = [f"in {row['backend']}: {text}" for row in rows for text in row["failures"]]
    own = rows[0]
    outcome = replace(
        outcome,
        p50_ms=own["p50_ms"],
        p99_ms=own["p99_ms"],
        ratio_to_reference=own["ratio_to_reference"],
        ratio_spread=tuple(own["ratio_spread"]) if own["ratio_spread"] else None,
        ratio_declined=own.get("ratio_declined") or "",
        miss_rate=own.get("miss_rate"),
    )
    if reasons:
        return outcome.failing(*reasons)
    if values.deadline_ms is not None and not meets_deadline(own):
        limit = 100 * DEADLINE.limits["max_miss_rate"]
        asked = f"at most {limit:g} % may be, and the deadline is {values.deadline_ms:g} ms"
        return outcome.failing(f"{lateness(own)} (p99 {own['p99_ms']:.1f} ms): {asked}")
    return outcome


def decide(plans: Sequence[CandidatePlan], values: StageValues) -> tuple[CandidateOutcome, ...]:
    """Every candidate with its verdict, at most one of them chosen.

    The fastest is the one with the largest paired ratio to the checkpoint. Where one of these was declined, since the
    host was busy, it is the one with the shortest median time in the same rounds, and its reason says so. Where nothing
    was timed, which is on a host without the GPU, it is by rule: FP16 before FP32, and INT8 never unmeasured; an engine
    before its graph.
    """
    first = {one.name: judged(one, values, {}) for one in plans}
    holds = {name: outcome.verdict == "holds" for name, outcome in first.items()}
    outcomes = [
        timed(one, values) if one.verdict == "holds" else one for one in (judged(p, values, holds) for p in plans)
    ]
    able = [one for one in outcomes if one.verdict == "holds" and one.plan.eligible]
    measured = [one for one in able if one.p50_ms is not None]
    busy = next((one.ratio_declined for one in measured if one.ratio_declined), "")
    if busy:
        best = min(measured, key=lambda one: one.p50_ms or 0.0)
        why = f"the shortest median time of what holds, {best.p50_ms:.1f} ms; ratios were declined: {busy}"
    elif measured:
        best = max(measured, key=lambda one: one.ratio_to_reference or 0.0)
        why = f"the fastest that holds: {best.ratio_to_reference:.2f} times as fast as the checkpoint"
    elif able and values.not_timed and any(one.plan.precision != "int8" or len(able) == 1 for one in able):
        best = min(able, key=lambda one: (_BY_RULE.index(one.plan.precision), not one.plan.is_engine))
        why = f"by rule, not by measurement: {values.not_timed}"
    else:
        return tuple(outcomes)
    return tuple(_beside(one, best, why) for one in outcomes)


def _beside(one: CandidateOutcome, best: CandidateOutcome, why: str) -> CandidateOutcome:
    if one.plan == best.plan:
        return replace(one, verdict=CHOSEN, reasons=(why,))
    if one.verdict != "holds":
        return one
    if not one.plan.eligible:
        return replace(one, reasons=("made for others, and not asked for",))
    if one.p50_ms is None or best.p50_ms is None:
        return replace(one, reasons=(one.not_run or "not timed here",))
    if one.ratio_to_reference is None or best.ratio_to_reference is None:
        return replace(one, reasons=(f"{one.p50_ms:.1f} ms, {best.plan.name} {best.p50_ms:.1f} ms, on a busy host",))
    slower = best.ratio_to_reference / one.ratio_to_reference
    return replace(one, reasons=(f"slower: {best.plan.name} is {slower:.2f} times as fast",))
