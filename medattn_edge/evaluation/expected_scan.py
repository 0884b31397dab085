"""The owner's own result of a scan: held to, and where nobody said how he came to it, searched for."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medattn_edge.errors import AgreementError
from medattn_edge.evaluation.pipelines import SEARCHED
from medattn_edge.evaluation.scan_result import ExpectedScan
from medattn_edge.evaluation.scan_search import Progress, Search, Trial

if TYPE_CHECKING:
    from medattn_edge.models.checkpoint import Checkpoint

# Other overlaps and weights of windows move a boundary by a voxel here and there, which costs a structure of a few
# thousand voxels some thousandths; a wrong orientation or intensity costs tenths.
MIN_DICE = 0.99
MIN_APART = 8  # voxels by which the runner-up must be worse: rounding flips a few where two logits are equal
LIMIT = 2000


@dataclass(frozen=True)
class ScanFit:
    """The pipeline that gives the owner's result.

    Attributes:
        checkpoint: with it in its spec; what was searched is no assumption any more.
        winner: the pipeline.
        runner_up: the next best one, None when nothing else was tried.
        runs: of the network over the scan or a part of it.
    """

    checkpoint: Checkpoint
    winner: Trial
    runner_up: Trial | None
    runs: int


def fit_scan(
    checkpoint: Checkpoint,
    expected: ExpectedScan,
    *,
    plane: str = "",
    limit: int = LIMIT,
    timeout_s: float = math.inf,
    progress: Progress | None = None,
) -> ScanFit:
    """Find the orientation, axes, intensity and activation with which the network gives the owner's result.

    What nobody gave (`checkpoint.assumed`) is searched. Every combination is first run on a block of the scan, with
    intensities measured on all of it; the best go over the whole scan, as `infer` does.

    Args:
        checkpoint: its network's settings are fixed; its spacing is not searched.
        expected: the scan and the owner's result.
        plane: of a 2-D network's slices, where it is known and their flips are not; empty for any.
        limit: runs of the network over a block or the scan at most.
        timeout_s: seconds at most.
        progress: called with the runs done and the runs in total.

    Raises:
        AgreementError: no pipeline gives every label with a Dice of MIN_DICE, or two cannot be told apart on this scan.
        ShapeError, ScanError, UsageError: the result is of another network, or the scan cannot be used.
    """
    search = Search(checkpoint, expected, limit, time.monotonic() + timeout_s, progress)
    search.plane = plane
    trials, complete = search.run()
    if not trials:
        raise AgreementError(
            f"no pipeline could be tried on the scan of {expected.source}"
            if complete
            else f"the limit ended the search for {expected.source} before its first run",
            expected="an intensity that the scan has contrast under",
            hint=f"--expect-scan-limit {LIMIT}, or give --intensity",
        )
    winner, runner_up = trials[0], trials[1] if len(trials) > 1 else None
    _judge(expected, winner, runner_up, search.runs, complete)
    names = list(search.free)
    document = {
        "source": expected.source,
        "runs": search.runs,
        "searched": names,
        "winner": winner.to_json(),
        "runner_up": None if runner_up is None else runner_up.to_json(),
        "not_judged": list(winner.absent),
    }
    told = [name for name in names if name in SEARCHED or (name == "region_order" and winner.pipeline.reading.order)]
    fitted = checkpoint.with_spec(winner.pipeline.spec(checkpoint.spec), told)
    return ScanFit(replace(fitted, scan_expectation=document), winner, runner_up, search.runs)


def _judge(expected: ExpectedScan, winner: Trial, runner_up: Trial | None, runs: int, complete: bool) -> None:
    """Raise AgreementError unless the winner gives the result and nothing else does."""
    others = "nothing else was tried" if runner_up is None else f"runner-up {runner_up}"
    if min(winner.dice.values(), default=0.0) < MIN_DICE:
        worst = min(winner.dice, key=lambda name: winner.dice[name], default="nothing")
        raise AgreementError(
            f"none of {runs} runs gives {expected.source}; nearest is {winner}, least in {worst!r}; {others}",
            expected=f"a Dice of at least {MIN_DICE} of every label",
            hint="settle the network first with --expect CASE.npz; give --spacing, --intensity or --patch as its owner "
            "had them; or raise --expect-scan-limit",
        )
    if not complete:
        raise AgreementError(
            f"the limit ended the search after {runs} runs; best so far {winner}; {others}",
            expected="a search of everything that nobody gave",
            hint=f"--expect-scan-limit {4 * runs}, or give what is known: {winner.pipeline}",
        )
    if runner_up is not None and runner_up.wrong < max(MIN_APART, 2 * winner.wrong):
        raise AgreementError(
            f"this scan cannot tell two pipelines apart: {winner}; {runner_up}",
            expected="a result that only one of them gives; which it is remains an assumption",
            hint=f"give what is known, such as {winner.pipeline}; or a scan without symmetry that has more in it",
        )
