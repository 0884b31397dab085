"""Trial: one candidate from the start of its process to its last run; whatever it does there is its own verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medattn_edge.agreement import IDENTICAL_DB, Agreement, LogitsDistance
from medattn_edge.backends.check import NO_LABEL, on_patches
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Patches, Session
from medattn_edge.compile.compilation import with_noise
from medattn_edge.errors import HostError, MedattnError, UsageError
from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings
from medattn_edge.gates import REDUCED_NOISE, REPEATED
from medattn_edge.labels import Array
from medattn_edge.timing import Latency

_SAME_DB = REPEATED.limits["min_sqnr_db"]


@dataclass
class BenchTrial:
    """The outcome of a candidate so far.

    Attributes:
        candidate: what is measured.
        must: it is the reference, whose errors are raised and no verdict.
        session: open from `start` on.
        cold_start_ms: from the start of its process to its first answer.
        peak_rss_mb: the most memory of its process, after the last run.
        timed_by: `wall clock` or `device events`, after the last run.
        agreement: with the reference, the worst of all real samples.
        latency: of the rounds in which all candidates ran.
        failures: what speaks against it.
        left_out: why it is no row at all, empty when it is one.
        notes: what a reader of its figures should know.
    """

    candidate: BenchCandidate
    must: bool = False
    session: IsolatedSession | None = None
    cold_start_ms: float = math.nan
    peak_rss_mb: float = math.nan
    timed_by: str = ""
    agreement: Mapping[str, Any] | None = None
    latency: Latency | None = None
    failures: list[str] = field(default_factory=list)
    left_out: str = ""
    notes: list[str] = field(default_factory=list)
    _first: Patches | None = None

    @property
    def stands(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.failures and not self.left_out

    def start(self, patch: Patches, settings: BenchSettings) -> None:
        """Open it and let it answer once, with nothing else computing."""
        start = time.perf_counter()
        try:
            self.session = self.candidate.open(settings.threads, settings.timeout_s)
            if self.session.batch not in (None, settings.batch):
                self.failures.append(
                    f"it runs {self.session.batch} patches at once, and {settings.batch} are requested"
                )
                return
            # Never another batch from here on, so that the peak of its memory is that of what is timed.
            self.session.batch = settings.batch
            self._first = self.session.run(patch)
        except UsageError:
            raise
        except MedattnError as error:
            if self.candidate.optional and isinstance(error, HostError):
                self.left_out = error.found
            else:
                self._fails(error)
        else:
            self.cold_start_ms = (time.perf_counter() - start) * 1e3

    def judge(
        self, reference: Session, samples: Mapping[str, Patches], truth: Mapping[str, Array] | None = None
    ) -> None:
        """Hold it to its gate on every real sample, and on noise to as much of it as noise can tell.

        Args:
            reference: what it is held to.
            samples: name -> real input float32 (n, C, *patch).
            truth: name of a sample -> its true labels, see `on_patches`.
        """
        assert self.session is not None
        real = []
        for name, patches in with_noise(samples, reference.spec).items():
            on_noise = name not in samples
            try:
                agreement = on_patches(reference, self.session, patches, (truth or {}).get(name))
            except MedattnError as error:
                self._fails(error, f"on {name} input: ")
                return
            gate = REDUCED_NOISE.thresholds if on_noise and not self.candidate.exact else self.candidate.gate
            self.failures += [f"on {name} input {reason}" for reason in gate.failures(agreement)]
            real += [] if on_noise else [agreement]
        if self.candidate.gate.min_dice is not None and not any(one.dice for one in real):
            self.failures.append(NO_LABEL)
        if self.candidate.gate.min_true_dice_share is not None and not any(one.true_dice_share for one in real):
            self.failures.append("its gate asks for a share of the true Dice, and there are no true labels")
        self.agreement = worst(real)

    def run(self, patch: Patches) -> float:
        """The milliseconds of one run; an error is also its verdict."""
        assert self.session is not None
        try:
            self.session.run(patch)
        except MedattnError as error:
            self._fails(error, "while it was timed: ")
            raise
        return self.session.last_ms

    def finish(self, patch: Patches) -> None:
        """Ask once more: an answer that has changed meanwhile was not worth timing."""
        assert self.session is not None
        assert self._first is not None
        distance = LogitsDistance()
        try:
            distance.add(self._first, self.session.run(patch))
        except MedattnError as error:
            self._fails(error, "after it was timed: ")
            return
        floor = min(self.candidate.gate.min_sqnr_db or _SAME_DB, _SAME_DB)
        if not distance.sqnr_db >= floor:
            self.failures.append(f"after it was timed its answer was {distance.sqnr_db:.1f} dB from its first one")
        self.peak_rss_mb = self.session.peak_rss_mb
        self.timed_by = "wall clock" if self.session.device_ms is None else "device events"

    def _fails(self, error: MedattnError, when: str = "") -> None:
        if self.must:
            raise error
        self.failures.append(when + error.found)


def worst(agreements: list[Agreement]) -> dict[str, Any]:
    """The worst of each figure as JSON values; `min_dice` is the Dice with the reference.

    Null is the SQNR of identical logits, and of what is not finite, and the Dice of no label. With true labels there
    are also the smallest true Dice of each label, and the range of the shares of the reference's.
    """
    sqnr, far = min(one.sqnr_db for one in agreements), max(one.max_abs for one in agreements)
    figures = {
        "sqnr_db": sqnr if math.isfinite(sqnr) and sqnr < IDENTICAL_DB else None,
        "label_match": min(one.label_match for one in agreements),
        "max_abs": far if math.isfinite(far) else None,
        "min_dice": min((value for one in agreements for value in one.dice.values()), default=None),
    }
    return figures | _worst_truth([one for one in agreements if one.candidate_dice])


def _worst_truth(agreements: list[Agreement]) -> dict[str, Any]:
    true: dict[str, float] = {}
    for one in agreements:
        for name, value in (one.candidate_dice or {}).items():
            true[name] = min(value, true.get(name, 1.0))
    if not true:
        return {}
    shares = [share for one in agreements for share in (one.true_dice_share or {}).values() if math.isfinite(share)]
    return {"true_dice": true, "true_dice_share": [min(shares), max(shares)] if shares else None}
