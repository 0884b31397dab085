"""Timing: callables measured in turn, so that a machine whose speed drifts is unfair to none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medattn_edge.gates import QUIET
from medattn_edge.host.cpu_use import CpuTimes, CpuUse, cpu_use_since


@dataclass(frozen=True)
class PairedRatio:
    """How many times as fast one callable is as another: of pairs that were taken in the same rounds.

    Attributes:
        median: of the ratios of the pairs.
        quartiles: of these ratios.
        cpu_use: what else computed in these rounds; None where it is not known.
    """

    median: float
    quartiles: tuple[float, float]
    cpu_use: CpuUse | None = None

    @property
    def declined(self) -> str:
        """Why the ratio is no figure, by `gates.QUIET`: the host was busy otherwise; empty where it is one."""
        (low, high), use, limits = self.quartiles, self.cpu_use, QUIET.limits
        reasons = []
        if high > limits["max_quartile_ratio"] * low:
            reasons.append(f"quartiles {low:.3g} to {high:.3g}")
        if (
            use is not None
            and use.others_share > limits["max_others_share"]
            and use.idle_share < limits["min_idle_share"]
        ):
            reasons.append(f"others used {use.others:.1f} of {use.cpus} CPUs")
        return f"host busy ({', '.join(reasons)})" if reasons else ""

    @property
    def figure(self) -> float | None:
        """The median; None where it is declined."""
        return None if self.declined else self.median

    @property
    def spread(self) -> list[float] | None:
        """The quartiles as JSON values; None where the ratio is declined."""
        return None if self.declined else list(self.quartiles)


@dataclass(frozen=True, eq=False)
class Latency:
    """What one callable took.

    Attributes:
        samples_ms: raw milliseconds, in the order they were taken.
        cpu_use: what else computed meanwhile; None where it is not known.
    """

    samples_ms: npt.NDArray[np.float64]
    cpu_use: CpuUse | None = None

    def percentile(self, percent: float) -> float:
        """The smallest sample that `percent` of all do not exceed, in ms."""
        return float(np.percentile(self.samples_ms, percent, method="inverted_cdf"))

    @property
    def p50_ms(self) -> float:
        """The median."""
        return float(np.median(self.samples_ms))

    @property
    def p90_ms(self) -> float:
        """One in ten is slower."""
        return self.percentile(90)

    @property
    def p99_ms(self) -> float:
        """One in a hundred is slower."""
        return self.percentile(99)

    @property
    def max_ms(self) -> float:
        """The slowest."""
        return float(self.samples_ms.max())

    def miss_rate(self, deadline_ms: float) -> float:
        """The fraction of the samples that took longer."""
        return float((self.samples_ms > deadline_ms).mean())

    def ratio_of(self, reference: Latency) -> PairedRatio:
        """How many times as fast as the reference: the median of the paired ratios, and their quartiles.

        Sample i of both was taken in the same round. The ratio of a latency to itself is 1 on any host.
        """
        ratios = reference.samples_ms / self.samples_ms
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        return PairedRatio(float(middle), (float(low), float(high)), None if self is reference else self.cpu_use)


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 10, warm_up_s: float = 0.5
) -> dict[str, Latency]:
    """Time callables in turn, every other round in reverse order.

    Args:
        calls: by name.
        rounds: how often each is measured.
        warm_up_s: seconds that each is first called for without being measured, and at least twice.
    """
    before = CpuTimes.now()
    _warm_up(calls, warm_up_s)
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in _order(names, turn):
            start = time.perf_counter()
            calls[name]()
            samples[name].append((time.perf_counter() - start) * 1e3)
    use = cpu_use_since(before)
    return {name: Latency(np.array(values), use) for name, values in samples.items()}


def in_turn(
    calls: Mapping[str, Callable[[], float]],
    *,
    duration_s: float,
    warm_up_s: float = 0.5,
    min_rounds: int = 5,
    max_rounds: int = 1000,
    pause_s: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Latency]:
    """As `interleaved`, of calls that each return the milliseconds that they measured themselves, elsewhere perhaps.

    Args:
        calls: by name.
        duration_s: for each call; rounds go on for as long as that is for all of them together.
        warm_up_s: as for `interleaved`.
        min_rounds: even when they take longer.
        max_rounds: even when they are over sooner.
        pause_s: before every call, so that the threads of the one before are asleep.
        progress: called with the seconds that have passed, and of how many.
    """
    before = CpuTimes.now()
    _warm_up(calls, warm_up_s)
    names, whole = list(calls), duration_s * len(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    start, turn, passed = time.perf_counter(), 0, 0.0
    while turn < min_rounds or (turn < max_rounds and passed < whole):
        for name in _order(names, turn):
            time.sleep(pause_s)
            samples[name].append(calls[name]())
        turn, passed = turn + 1, time.perf_counter() - start
        if progress:
            progress(round(min(passed, whole)), round(whole))
    use = cpu_use_since(before)
    return {name: Latency(np.array(values), use) for name, values in samples.items()}


def _warm_up(calls: Mapping[str, Callable[[], object]], warm_up_s: float) -> None:
    """Call each for at least so many seconds, and at least twice."""
    for call in calls.values():
        until = time.perf_counter() + warm_up_s
        call()
        call()
        while time.perf_counter() < until:
            call()


def _order(names: list[str], turn: int) -> list[str]:
    """Every other round is in reverse: what comes first in one comes last in the next."""
    return names if turn % 2 == 0 else names[::-1]
