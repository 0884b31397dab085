"""Tuning: compile the alternatives of one network, time them in turn on this host, keep the fastest that agrees.

A rewrite pays in one runtime and costs in the next, and a thread more is not always faster: so it is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.atomic import check_folder
from medattn_edge.backends.compiler import Compiler, CompileSettings
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Patches
from medattn_edge.compile.compilation import build, plan
from medattn_edge.compile.graphs import PLAIN, Graphs
from medattn_edge.compile.trials import Alternative, OpenAlternative, Outcome, TrialRunner
from medattn_edge.errors import AgreementError, BackendError, InputError
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores
from medattn_edge.timing import PairedRatio, in_turn

BETTER = 1.02  # a ratio above it, with its lower quartile above 1, is worth another graph
DURATION_S = 600.0
_MIN_S, _MAX_S = 0.5, 10.0  # of one file in one comparison
_MEASURED_PART = 5  # of an alternative's time, one part is measuring one file; making and checking it takes some too
_MAX_ROUNDS = 200  # the quartiles of so many pairs move no more

Progress = Callable[[str, int, int], None]  # what is being tried, alternatives done, alternatives in total


def tune(  # noqa: PLR0913 - the last is for hosts unlike this one
    graphs: Graphs,
    output: Path,
    compiler: Compiler,
    settings: CompileSettings,
    samples: Mapping[str, Patches],
    duration_s: float = DURATION_S,
    progress: Progress | None = None,
    cores: int = 0,
) -> Artifact:
    """The artifact of the best alternative; its `target` says under `tuning` what was measured.

    Greedy: from the default on, one change at a time, kept where the file is faster than the best one until then.

    Args:
        graphs: what is chosen from.
        output: the file to write.
        compiler: the target.
        settings: of the compiler; threads that are given here stay.
        samples: name -> real input float32 (n, C, *patch).
        duration_s: after it no other alternative is begun.
        progress: is called with what is tried, how many are done, and of how many.
        cores: the most threads to try, by default those that this process may use.

    Raises:
        AgreementError: when the default does not agree; nothing is written then, as with what `build` raises.
    """
    check_folder(output)
    start = time.monotonic()
    threaded = "threads" in compiler.settings
    cores = cores or usable_cores()
    base = replace(settings, threads=settings.threads or cores) if threaded else settings
    counts = _fewer(cores) if threaded and not settings.threads else []
    with (
        tempfile.TemporaryDirectory() as folder,
        TrialRunner(graphs, output, compiler, samples, Path(folder)) as runner,
    ):
        outcomes, best = _search(runner, Alternative(graphs.default, base), counts, start + duration_s, progress)
        runner.close()
        record = {
            "chosen": [outcome.name for outcome in outcomes if outcome.outcome in ("default", "kept")],
            "rewrites": list(best.alternative.rewrites),
            "threads": best.alternative.settings.threads,
            "command": graphs.command(best.alternative.rewrites),
            "took_s": round(time.monotonic() - start, 1),
            "better": BETTER,
            "host": _host(),
            "alternatives": [outcome.to_json(compiler) for outcome in outcomes],
        }
        planned = plan(best.graph.path, output, compiler.name, best.alternative.settings)
        return build(replace(planned, record={"tuning": record}), samples)


def beyond_noise(gain: PairedRatio) -> bool:
    """Whether something is worth taking in another's place: faster by more than `BETTER` asks, and in most pairs."""
    return gain.median > BETTER and gain.quartiles[0] > 1


def _fewer(cores: int) -> list[int]:
    """Numbers of threads to try beside one per usable core: the powers of two below."""
    return [1 << power for power in range(cores.bit_length()) if 1 << power < cores]


def _host() -> dict[str, Any]:
    cpu = hardware.cpu()
    return {
        "cpu": cpu.model,
        "instruction_sets": list(cpu.instruction_sets),
        "physical_cores": cpu.physical_cores,
        "usable_cores": usable_cores(),
    }


_Step = Callable[[Alternative], tuple[str, Alternative]]  # the best one until then -> what to try, and its name


def _steps(graphs: Graphs, compiler: Compiler, counts: list[int]) -> list[_Step]:
    def plain(best: Alternative) -> tuple[str, Alternative]:
        return "BatchNorm folding alone", replace(best, rewrites=PLAIN)

    def toggle(name: str) -> _Step:
        def step(best: Alternative) -> tuple[str, Alternative]:
            sign = "without" if name in best.rewrites else "with"
            return f"{sign} {name}", replace(best, rewrites=graphs.toggled(best.rewrites, name))

        return step

    def setting(name: str, value: Any) -> _Step:
        def step(best: Alternative) -> tuple[str, Alternative]:
            return f"{name} {value}", replace(best, settings=replace(best.settings, **{name: value}))

        return step

    followed = [("threads", count) for count in counts if "threads" in compiler.settings]
    steps: list[_Step] = [plain] if graphs.default else []
    # Settings first: they need no new graph, and every toggle is then timed under the best of them.
    return [*steps, *(setting(*one) for one in followed), *(toggle(name) for name in graphs.optional)]


def _search(
    runner: TrialRunner, default: Alternative, counts: list[int], until: float, progress: Progress | None
) -> tuple[list[Outcome], OpenAlternative]:
    steps = _steps(runner.graphs, runner.compiler, counts)
    report = progress or (lambda what, done, of: None)
    report("default", 0, len(steps) + 1)
    first = runner.run("default", default)
    if isinstance(first, Outcome):
        raise RuntimeError("the first alternative is a duplicate")
    best, outcomes = first, [Outcome("default", default, "default", "", first.sqnr_db, ratio=1.0, quartiles=(1.0, 1.0))]
    patches = runner.patches(first.graph.manifest.batch)
    time_each_s = (until - time.monotonic()) / max(1, len(steps)) / _MEASURED_PART
    for index, step in enumerate(steps):
        name, alternative = step(best.alternative)
        report(name, index + 1, len(steps) + 1)
        if time.monotonic() > until:
            outcomes.append(Outcome(name, alternative, "untried", "the time was up"))
            continue
        try:
            opened = runner.run(name, alternative, best)
        except (AgreementError, BackendError, InputError) as error:
            outcomes.append(Outcome(name, alternative, "refused", error.found))
            continue
        if isinstance(opened, Outcome):
            outcomes.append(opened)
            continue
        outcome = _timed(name, first, best, opened, patches, min(max(time_each_s, _MIN_S), _MAX_S))
        outcomes.append(outcome)
        if outcome.outcome == "kept":
            if best is not first:
                best.session.close()
            best = opened
        else:
            opened.discard()
    return outcomes, best


def _timed(
    name: str,
    first: OpenAlternative,
    best: OpenAlternative,
    opened: OpenAlternative,
    patches: Patches,
    duration_s: float,
) -> Outcome:
    """The outcome of an alternative beside the default and the best one until then, all three in turn."""
    trials = {"default": first, "best": best, "new": opened}
    if best is first:
        del trials["best"]
    calls = {key: partial(_milliseconds, one.session, patches) for key, one in trials.items()}
    try:
        times = in_turn(calls, duration_s=duration_s, max_rounds=_MAX_ROUNDS)
    except BackendError as error:
        if opened.session.alive:  # another one failed, which ran before
            raise
        return Outcome(name, opened.alternative, "refused", error.found, opened.sqnr_db)
    new = times["new"]
    ratio = new.ratio_of(times["default"])
    gain = new.ratio_of(times.get("best", times["default"]))
    kept = beyond_noise(gain)
    return Outcome(
        name,
        opened.alternative,
        outcome="kept" if kept else "no gain",
        reason=""
        if kept
        else f"{gain.median:.3f} times as fast as the best until then; asked for is {BETTER}, beyond noise",
        sqnr_db=opened.sqnr_db,
        p50_ms=new.p50_ms,
        ratio=ratio.median,
        quartiles=ratio.quartiles,
        ratio_declined=ratio.declined or gain.declined,
        ratio_to_best=gain.median,
        rounds=len(new.samples_ms),
    )


def _milliseconds(session: IsolatedSession, patches: Patches) -> float:
    """Of one run, as the session's own process measured it."""
    session.run(patches)
    return session.last_ms
