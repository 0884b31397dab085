"""Report: a row per candidate. A row that failed has its reasons, and no speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings
from medattn_edge.evaluation.roofline import Peak
from medattn_edge.evaluation.trial import BenchTrial
from medattn_edge.gates import DEADLINE
from medattn_edge.timing import Latency

SPEED_FIELDS = (
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "cold_start_ms",
    "ratio_to_reference",
    "ratio_spread",
    "ratio_declined",
    "peak_rss_mb",
    "fraction_of_peak",
    "rounds",
    "timed_by",
)


def meets_deadline(row: Mapping[str, Any]) -> bool:
    """Whether a row that was timed beside a deadline meets it, by its rate of misses alone; see `gates.DEADLINE`.

    Args:
        row: of `bench --json`, with a `miss_rate`.
    """
    return bool(row["miss_rate"] <= DEADLINE.limits["max_miss_rate"])


def lateness(row: Mapping[str, Any]) -> str:
    """How often a row that was timed beside a deadline missed it, for people."""
    return f"{100 * row['miss_rate']:.3g} % of {row['rounds']} runs too late"


@dataclass(frozen=True)
class BenchRow:
    """One candidate, what it agreed in, and, when it passed, how fast it was.

    Attributes:
        candidate: what was measured.
        patch: its size.
        settings: how.
        agreement: the worst figure of all real samples, None when there is no answer.
        failures: why it failed, empty when it passed.
        latency: None when it failed. Samples of one place in the latencies of two rows are of one round.
        speed: of SPEED_FIELDS, empty when it failed. A ratio that was declined is None, and `ratio_declined` says why.
        notes: what a reader of the figures should know.
    """

    candidate: BenchCandidate
    patch: tuple[int, ...]
    settings: BenchSettings
    agreement: Mapping[str, Any] | None
    failures: tuple[str, ...]
    latency: Latency | None = None
    speed: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def artifact(self) -> str:
        """The candidate's name."""
        return self.candidate.name

    @property
    def passed(self) -> bool:
        """Whether it reached its gate and ran to the end."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The fields that scripts rely on; those of speed are null when it failed."""
        one, settings = self.candidate, self.settings
        deadline = {} if settings.deadline_ms is None else {"deadline_ms": settings.deadline_ms, "miss_rate": None}
        return {
            "artifact": one.name,
            "network": one.network,
            "backend": one.runtime.name,
            "device": one.runtime.device,
            "precision": one.precision,
            "stored_precision": one.stored or one.precision,
            "patch": list(self.patch),
            "batch": settings.batch,
            "threads": settings.threads,
            **dict.fromkeys(SPEED_FIELDS),
            **deadline,
            **self.speed,
            "gflop": one.gflop,
            "agreement": dict(self.agreement) if self.agreement is not None else None,
            "thresholds": one.gate.to_json(),
            "verdict": "pass" if self.passed else "fail",
            "failures": list(self.failures),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class BenchReport:
    """Every row, and what they were measured in.

    Attributes:
        environment: the host, its versions and its load, as JSON values.
        rows: the reference first.
        left_out: `artifact in runtime` -> why it is no row.
    """

    environment: Mapping[str, Any]
    rows: tuple[BenchRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every row did."""
        return all(row.passed for row in self.rows)

    @property
    def declined(self) -> dict[str, str]:
        """`artifact in runtime` -> why its ratio was declined: the host was busy; see `gates.QUIET`."""
        found = {
            f"{row.artifact} in {row.candidate.runtime.name}": row.speed.get("ratio_declined") for row in self.rows
        }
        return {name: why for name, why in found.items() if why}

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --json`."""
        return {
            "environment": dict(self.environment),
            "verdict": "pass" if self.passed else "fail",
            "rows": [row.to_json() for row in self.rows],
            "left_out": dict(self.left_out),
        }


def row_of(
    trial: BenchTrial, patch: tuple[int, ...], reference: Latency | None, settings: BenchSettings, peaks: Peak
) -> BenchRow:
    """What a trial on patches of a size comes to, beside the reference's latency."""
    candidate, notes = trial.candidate, list(trial.notes)
    speed: dict[str, Any] = {}
    latency = trial.latency if trial.stands else None
    if latency is not None and reference is not None:
        fraction = _fraction(candidate, latency, settings, peaks)
        if fraction is not None and fraction > 1:
            notes.append("above the roofline, which was measured lower than this host can reach")
        speed = _speed(trial, latency, reference) | {"fraction_of_peak": fraction}
        if settings.deadline_ms is not None:
            speed["miss_rate"] = latency.miss_rate(settings.deadline_ms)
    return BenchRow(
        candidate=candidate,
        patch=patch,
        settings=settings,
        agreement=trial.agreement,
        failures=tuple(trial.failures),
        latency=latency,
        speed=speed,
        notes=tuple(notes),
    )


def _speed(trial: BenchTrial, latency: Latency, reference: Latency) -> dict[str, Any]:
    ratio = latency.ratio_of(reference)
    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "max_ms": latency.max_ms,
        "cold_start_ms": trial.cold_start_ms,
        "ratio_to_reference": ratio.figure,
        "ratio_spread": ratio.spread,
        "ratio_declined": ratio.declined or None,
        "peak_rss_mb": trial.peak_rss_mb,
        "rounds": len(latency.samples_ms),
        "timed_by": trial.timed_by,
    }


def _fraction(candidate: BenchCandidate, latency: Latency, settings: BenchSettings, peaks: Peak) -> float | None:
    """Of the roofline of its precision; None where there is none, as on a GPU."""
    most = peaks.of(candidate.precision)
    if most is None or candidate.runtime.device != "cpu":
        return None
    return candidate.gflop * settings.batch / (latency.p50_ms / 1e3) / most
