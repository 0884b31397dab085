"""Batches: the fastest file again with more patches per run, timed in turn with it; what is faster is judged as it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.compile.tuning import BETTER, beyond_noise
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CandidateOutcome, StageValues, judged, timed
from medattn_edge.deploy.judging import gate, measure
from medattn_edge.deploy.making import FileMaker
from medattn_edge.deploy.plan import DeployPlan
from medattn_edge.errors import AgreementError, BackendError, InputError, ScanError, UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.inference.tiling import Tiling
from medattn_edge.spec import ModelSpec
from medattn_edge.timing import Latency, in_turn

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
KEPT: Final = "kept"
_MAX_ROUNDS: Final = 200


@dataclass(frozen=True)
class BatchOutcome:
    """One batch beside the first, and why it is taken or not.

    Attributes:
        batch: patches of one run.
        outcome: kept, no gain, or refused.
        reason: why; empty where it is kept.
        scan_ms: of the network for all judged scans together: runs times the median; None where it was not timed.
        first_scan_ms: the same of the first batch, in the same rounds.
        ratio: how many times as fast for these scans, the median of paired runs.
        quartiles: of that ratio.
        ratio_declined: why it is no figure beyond this choice: the host was busy; empty where it is one.
        rounds: pairs that were timed.
    """

    batch: int
    outcome: str
    reason: str = ""
    scan_ms: float | None = None
    first_scan_ms: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    ratio_declined: str = ""
    rounds: int = 0

    @property
    def text(self) -> str:
        """For people."""
        gain = "" if self.ratio is None else f", {self.ratio:.2f} times as fast for the judged scans"
        if self.ratio_declined:
            gain = f", by times that are no figures: {self.ratio_declined}"
        return f"batch {self.batch}: {self.outcome}{gain}{': ' if self.reason else ''}{self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "quartiles": None if self.quartiles is None else list(self.quartiles)}


def with_batch(planned: DeployPlan, batch: int, rewrites: tuple[str, ...]) -> DeployPlan:
    """The plan as the recipe that pins a batch, and what was tuned, would have it: the same files come of both."""
    return replace(planned, recipe=replace(planned.recipe, batch=batch, rewrites=rewrites))


def make_batch(
    planned: DeployPlan, files: Sequence[CandidatePlan], folder: Path, cache: Path, progress: Progress
) -> dict[str, Any]:
    """Make a file and what it is made from.

    Args:
        planned: with the batch; see `with_batch`.
        files: the FP32 graph first, the file itself last.
        folder: of the stage.
        cache: of calibrations.
        progress: called with what is going on, done, and of how many.

    Returns:
        `failure`: why it could not be made, empty when it was.

    Raises:
        MedattnError: what is no verdict on the file: scans and the host.
    """
    maker = FileMaker(planned, cache, progress)
    try:
        for one in files:
            value = maker.make(one, folder, folder / one.parent if one.parent else None)
            if value["failure"]:
                return {"failure": value["failure"]}
    except (AgreementError, BackendError, InputError, UsageError) as error:
        if isinstance(error, ScanError):
            raise
        return {"failure": error.found}
    return {"failure": ""}


def too_large(rows: Sequence[Mapping[str, Any]], chosen: CandidatePlan, batch: int, available: float) -> str:
    """Why a batch is not made: a process that is killed for its memory would be killed again when it goes on.

    Args:
        rows: of the measurement with one patch per run, the checkpoint's first.
        chosen: the file.
        batch: patches of one run.
        available: memory in MB.

    Returns:
        A sentence, when the most that the checkpoint and the file took, times the batch, is more; else nothing.
    """
    own = [row["peak_rss_mb"] or 0.0 for row in rows if row["artifact"] == chosen.name]
    needed = batch * ((rows[0]["peak_rss_mb"] or 0.0 if rows else 0.0) + max(own, default=0.0))
    if needed <= available:
        return ""
    return f"it may take {needed:.0f} MB beside the checkpoint, and {available:.0f} MB are free"


def choose_batch(
    planned: Mapping[int, DeployPlan],
    chosen: CandidatePlan,
    made: Mapping[int, tuple[Path, str]],
    folder: Path,
    progress: Progress,
    say: Say,
) -> dict[str, Any]:
    """The fastest batch for whole scans that holds every threshold; the first where none is faster beyond noise.

    Only what is faster is held to the checkpoint on whole scans, and timed beside it.

    Args:
        planned: batch -> the plan with it; the first is that of the file that was chosen.
        chosen: what the file is.
        made: batch -> the file, and why it could not be made, empty when it was.
        folder: of the stage; the comparison and the measurement of the batch that is taken are kept there, where it is
            not the first.
        progress: called with what is going on, done, and of how many.
        say: called with the outcome of every batch.

    Returns:
        `batch`, `first`, `windows` of the judged scans, `alternatives` with their times; `gate`, the rows of the
        comparison, and `rows` of the measurement.
    """
    first, *others = planned
    windows = windows_of(planned[first])
    outcomes = [_tried(planned, made, (first, one), windows, progress) for one in others]
    gates: Sequence[Mapping[str, Any]] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    taken = first
    for one in sorted((one for one in outcomes if one.outcome == KEPT), key=lambda one: -(one.ratio or 0.0)):
        place = outcomes.index(one)
        if taken != first:
            outcomes[place] = replace(one, outcome="no gain", reason=f"batch {taken} is faster")
            continue
        files, plan = {chosen.name: made[one.batch][0]}, planned[one.batch]
        gates = gate(plan, files, folder, progress, say)["rows"]
        outcome = outcome_of(chosen, gates, (), None)
        if outcome.verdict == "holds":
            rows = measure(plan, files, [chosen], folder, progress)["rows"]
            outcome = outcome_of(chosen, gates, rows, plan.recipe.deadline_ms)
        if outcome.verdict == "holds":
            taken = one.batch
        else:
            outcomes[place] = replace(one, outcome="refused", reason="; ".join(outcome.reasons))
    for one in outcomes:
        say(one.text)
    if taken == first:
        gates, rows = (), ()
        for path in folder.iterdir():  # of a batch that was judged, and not taken
            path.unlink()
    return {
        "batch": taken,
        "first": first,
        "windows": list(windows),
        "alternatives": [one.to_json() for one in outcomes],
        "gate": list(gates),
        "rows": list(rows),
    }


def outcome_of(
    chosen: CandidatePlan,
    gates: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    deadline_ms: float | None,
) -> CandidateOutcome:
    """What is known of the file with another batch, by the rules of every candidate."""
    values = StageValues(gates=gates, timed=rows, deadline_ms=deadline_ms)
    found = judged(chosen, values, {})
    return timed(found, values) if found.verdict == "holds" else found


def windows_of(planned: DeployPlan) -> tuple[int, ...]:
    """The windows of each judged scan, as it is segmented."""
    spec = planned.inputs.source.loaded.spec
    return tuple(_windows(scan.read_for(spec), spec) for scan in planned.inputs.judged)


def _windows(volume: Any, spec: ModelSpec) -> int:
    shape = prepare(volume, spec).image.shape[1:]
    return len(Tiling(tuple(shape), spec.patch, spec.overlap).windows)


def _tried(
    planned: Mapping[int, DeployPlan],
    made: Mapping[int, tuple[Path, str]],
    batches: tuple[int, int],
    windows: Sequence[int],
    progress: Progress,
) -> BatchOutcome:
    """batches: the first, and the one that is tried."""
    first, batch = batches
    if failure := made[batch][1]:
        return BatchOutcome(batch, "refused", failure)
    progress(f"timing batch {batch}", 0, 1)
    try:
        times = _in_turn(planned, {one: made[one][0] for one in batches})
    except BackendError as error:
        return BatchOutcome(batch, "refused", error.found)
    runs = {one: sum(math.ceil(count / one) for count in windows) for one in batches}
    return compared_batches(batch, times[batch], runs[batch], (times[first], runs[first]))


def compared_batches(batch: int, latency: Latency, runs: int, first: tuple[Latency, int]) -> BatchOutcome:
    """The outcome of a batch by its times.

    Args:
        batch: patches of one run.
        latency: of a run, in the same rounds as the first batch's.
        runs: for all windows of the judged scans.
        first: the same two of the first batch.
    """
    mine, other = replace(latency, samples_ms=latency.samples_ms * runs), Latency(first[0].samples_ms * first[1])
    ratio = mine.ratio_of(other)
    kept = beyond_noise(ratio)
    return BatchOutcome(
        batch,
        KEPT if kept else "no gain",
        "" if kept else f"asked for is {BETTER}, beyond noise",
        mine.p50_ms,
        other.p50_ms,
        ratio.median,
        ratio.quartiles,
        ratio.declined,
        len(mine.samples_ms),
    )


def _in_turn(planned: Mapping[int, DeployPlan], files: Mapping[int, Path]) -> dict[int, Latency]:
    """The times of a run of each batch on real patches; raises BackendError for one that cannot be run."""
    from contextlib import ExitStack

    recipe, inputs = next(iter(planned.values())).recipe, next(iter(planned.values())).inputs
    spec = inputs.source.loaded.spec
    found = next(iter(real_patches(spec, inputs.judged[:1], max(files)).values()))
    calls: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for batch, path in files.items():
            session = stack.enter_context(IsolatedSession(path, options=Options("cpu", recipe.threads)))
            patches = np.ascontiguousarray(np.resize(found, (batch, *found.shape[1:])))
            calls[str(batch)] = lambda session=session, patches=patches: _milliseconds(session, patches)  # type: ignore[misc]
        times = in_turn(calls, duration_s=recipe.duration_s, max_rounds=_MAX_ROUNDS)
    return {batch: times[str(batch)] for batch in files}


def _milliseconds(session: IsolatedSession, patches: Any) -> float:
    """Of one run, as the session's own process measured it."""
    session.run(patches)
    return session.last_ms
