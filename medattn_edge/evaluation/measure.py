"""Measure: candidates in processes of their own, judged first, then timed in turn with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from medattn_edge.artifact import manifest_path
from medattn_edge.backends import backends
from medattn_edge.backends.check import TOGETHER, CachedReference
from medattn_edge.backends.session import Patches, Session
from medattn_edge.errors import AgreementError, MedattnError, UsageError
from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings
from medattn_edge.evaluation.environment import Surroundings, read_ahead
from medattn_edge.evaluation.report import BenchReport, row_of
from medattn_edge.evaluation.roofline import peak
from medattn_edge.evaluation.trial import BenchTrial
from medattn_edge.labels import Array, Meaning
from medattn_edge.timing import in_turn

Progress = Callable[[str, int, int], None]  # what is going on, done, of how many
_DEFAULTS = BenchSettings()


def measure_candidates(
    reference: BenchCandidate,
    candidates: Sequence[BenchCandidate],
    samples: Mapping[str, Patches],
    settings: BenchSettings = _DEFAULTS,
    progress: Progress | None = None,
    truth: Mapping[str, Array] | None = None,
) -> BenchReport:
    """A row for the reference and for every candidate.

    Every session is opened by itself (the cold start), held to its gate, and only then timed, all in turn, on the first
    real patches. A candidate that fails, crashes or hangs is a row without a speed and stops no other.

    Args:
        reference: what the candidates are held to.
        candidates: what is measured.
        samples: name -> real input float32 (n, C, *patch), n at least the batch; noise is added to it.
        settings: how they are timed.
        progress: called with what is going on, how much of it is done, and of how much.
        truth: name of a sample -> its true labels (n, *patch) in the network's own values, masked where nobody judges.

    Raises:
        UsageError: without samples.
        AgreementError: when the reference does not agree with itself.
        MedattnError: what the reference raises when it cannot be run.
    """
    settings = settings.explicit()
    tell = progress or (lambda what, done, of: None)
    patch = _timed_patch(samples, settings.batch)
    everyone = [reference, *candidates]
    surroundings = Surroundings(settings.threads, any(one.runtime.device != "cpu" for one in everyone))
    read_ahead({package for one in everyone for package in _packages(one)}, _files(everyone))
    with ExitStack() as stack:
        trials = [BenchTrial(one, must=one is reference) for one in everyone]
        _start(trials, patch, settings, stack, tell)
        _judge(trials, samples, truth or {}, tell)
        surroundings.at_work()
        tell("measuring the roofline", 0, 1)
        peaks = peak(settings.threads)
        _time([one for one in trials if one.stands], patch, settings, tell)
        for trial in trials:
            if trial.stands:
                trial.finish(patch)
        _check_reference(trials[0])
        latency = trials[0].latency
        noise = None if latency is None else latency.p90_ms / latency.p50_ms
        size = patch.shape[2:]
        rows = tuple(row_of(one, size, latency, settings, peaks) for one in trials if not one.left_out)
        environment = surroundings.to_json(peaks, noise, None if latency is None else latency.cpu_use)
        return BenchReport(environment, rows, _left_out(trials))


def _start(
    trials: Sequence[BenchTrial], patch: Patches, settings: BenchSettings, stack: ExitStack, tell: Progress
) -> None:
    """Open each while nothing else computes; the stack closes them."""
    for index, trial in enumerate(trials):
        tell(f"opening {trial.candidate.name}", index, len(trials))
        trial.start(patch, settings)
        if trial.session is not None:
            stack.callback(trial.session.close)


def _judge(
    trials: Sequence[BenchTrial], samples: Mapping[str, Patches], truth: Mapping[str, Array], tell: Progress
) -> None:
    """Hold those that are open to the reference, which comes first."""
    first = trials[0]
    _check_reference(first)
    assert first.session is not None
    answers = CachedReference(first.session)
    unseen = _unseen(answers, samples)
    for index, trial in enumerate(trials):
        tell(f"judging {trial.candidate.name}", index, len(trials))
        if trial.stands:
            trial.judge(answers, samples, truth)
            if unseen and trial.candidate.gate.min_dice is not None:
                trial.notes.append(unseen)
        _check_reference(first)
        if not trial.stands and trial.session is not None:
            trial.session.close()  # it will not be timed, and others need the memory


def _unseen(reference: Session, samples: Mapping[str, Patches]) -> str:
    """A note about the labels that the reference finds nowhere, whose Dice with it says nothing; empty without any."""
    meaning, seen = Meaning.of(reference.spec), set[str]()
    for patches in samples.values():
        step = reference.batch or TOGETHER
        for start in range(0, len(patches), step):
            logits = reference.run_any(patches[start : start + step])
            seen |= set[str]().union(*(meaning.seen(meaning.labels_of(one)) for one in logits))
    names = ", ".join(name for name in meaning.structures if name not in seen)
    return f"no Dice with the reference of {names}: the reference finds none in the real input" if names else ""


def _timed_patch(samples: Mapping[str, Patches], batch: int) -> Patches:
    first = next(iter(samples.values()), None)
    if first is None or len(first) < batch:
        raise UsageError(
            f"{0 if first is None else len(first)} patches of real input for a batch of {batch}",
            expected="at least as many as run at once",
            hint=f"--samples {batch}, or --scan SCAN",
        )
    return first[:batch]


def _packages(candidate: BenchCandidate) -> tuple[str, ...]:
    record = backends().get(candidate.runtime.backend)
    return record.packages if record else ()


def _files(candidates: Sequence[BenchCandidate]) -> list[Path]:
    paths = [one.path for one in candidates]
    return [*paths, *(path.with_suffix(".bin") for path in paths), *(manifest_path(path) for path in paths)]


def _check_reference(trial: BenchTrial) -> None:
    """Without it there is nothing to hold anyone to."""
    if trial.stands:
        return
    raise AgreementError(
        f"the reference {trial.candidate.name} cannot be one: {trial.left_out or '; '.join(trial.failures)}",
        expected="finite logits, the same ones every time",
        hint="medattn-edge inspect " + str(trial.candidate.path),
    )


def _time(trials: list[BenchTrial], patch: Patches, settings: BenchSettings, tell: Progress) -> None:
    """Time those that stand; one that breaks meanwhile is taken out, and the others start again."""
    while True:
        calls = {str(index): lambda one=one: one.run(patch) for index, one in enumerate(trials)}
        try:
            latencies = in_turn(
                calls,
                duration_s=settings.duration_s,
                warm_up_s=settings.warm_up_s,
                progress=lambda done, of: tell("timing, in s", done, of),
            )
        except MedattnError:
            standing = [one for one in trials if one.stands]
            if len(standing) == len(trials):  # it was the reference
                raise
            trials = standing
            continue
        for index, trial in enumerate(trials):
            trial.latency = latencies[str(index)]
        return


def _left_out(trials: Sequence[BenchTrial]) -> dict[str, str]:
    return {f"{one.candidate.name} in {one.candidate.runtime.name}": one.left_out for one in trials if one.left_out}
