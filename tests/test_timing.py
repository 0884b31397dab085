"""Timings are raw samples, taken in turn, so that a machine whose speed drifts is unfair to nobody."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.host.cpu_use import CpuUse
from medattn_edge.timing import Latency, PairedRatio, in_turn, interleaved

SAMPLES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200).map(np.array)


def test_percentiles_are_samples_that_were_taken():
    latency = Latency(np.array([5.0, 1.0, 4.0, 2.0, 3.0, 10.0, 7.0, 8.0, 9.0, 6.0]))
    assert (latency.p90_ms, latency.p99_ms, latency.max_ms) == (9.0, 10.0, 10.0)
    assert latency.p50_ms == 5.5
    assert latency.percentile(0) == 1.0


def test_one_sample_is_every_percentile():
    latency = Latency(np.array([3.0]))
    assert {latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms} == {3.0}


@given(SAMPLES)
def test_the_percentiles_are_in_order_and_cover_their_share(samples):
    latency = Latency(samples)
    assert samples.min() <= latency.p50_ms <= latency.max_ms == samples.max()
    assert latency.p90_ms <= latency.p99_ms <= latency.max_ms
    for share, value in ((90, latency.p90_ms), (99, latency.p99_ms)):
        assert value in samples
        assert (samples <= value).mean() >= share / 100


def test_a_ratio_is_paired_by_round():
    drifting = np.array([1.0, 10.0, 2.0, 40.0, 3.0])
    ratio = Latency(drifting / 4).ratio_of(Latency(drifting))
    assert (ratio.median, *ratio.quartiles) == pytest.approx((4.0, 4.0, 4.0))
    reference, candidate = Latency(np.array([8.0, 8.0, 8.0, 8.0, 8.0])), Latency(np.array([8.0, 4.0, 2.0, 1.0, 0.5]))
    assert candidate.ratio_of(reference) == PairedRatio(4.0, (2.0, 8.0))


@given(SAMPLES)
def test_the_ratio_of_a_thing_to_itself_is_1(samples):
    assert Latency(samples).ratio_of(Latency(samples)) == PairedRatio(1.0, (1.0, 1.0))


@pytest.mark.parametrize("rounds", [1, 4, 5])
def test_calls_take_turns_and_every_other_round_is_reversed(rounds):
    said: list[str] = []
    calls = {name: lambda name=name: said.append(name) for name in "abc"}
    found = interleaved(calls, rounds=rounds, warm_up_s=0.0)
    assert said[:6] == ["a", "a", "b", "b", "c", "c"]
    assert "".join(said[6:]) == "".join("abc" if turn % 2 == 0 else "cba" for turn in range(rounds))
    assert {name: len(one.samples_ms) for name, one in found.items()} == dict.fromkeys("abc", rounds)
    assert list(found) == ["a", "b", "c"]


def test_the_warm_up_lasts_as_long_as_asked_and_is_not_measured():
    counts: Counter[str] = Counter()

    def call() -> None:
        counts["call"] += 1
        time.sleep(0.001 if counts["call"] > 3 else 0.05)

    start = time.perf_counter()
    found = interleaved({"call": call}, rounds=2, warm_up_s=0.2)
    assert time.perf_counter() - start >= 0.2
    assert counts["call"] > 2 + 2
    assert len(found["call"].samples_ms) == 2


def test_a_slow_call_is_slower_than_a_fast_one():
    found = interleaved({"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.001)}, rounds=5, warm_up_s=0)
    assert found["slow"].samples_ms.min() >= 20
    assert found["fast"].ratio_of(found["slow"]).median > 1


def test_a_call_that_fails_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        interleaved({"broken": lambda: 1 / 0}, rounds=1, warm_up_s=0)


@given(SAMPLES, st.floats(0.01, 1e4))
def test_the_miss_rate_is_the_share_that_took_longer(samples, deadline):
    missed = Latency(samples).miss_rate(deadline)
    assert missed * len(samples) == pytest.approx(sum(value > deadline for value in samples))


def test_a_run_that_takes_exactly_as_long_as_it_may_has_not_missed():
    assert Latency(np.array([5.0, 10.0, 15.0, 20.0])).miss_rate(10.0) == 0.5


def counting(said: list[str], name: str, *values: float):
    """A call that says its name and returns the values in turn, the last one for ever."""
    left = list(values)

    def call() -> float:
        said.append(name)
        return left.pop(0) if len(left) > 1 else left[0]

    return call


def test_calls_that_measure_themselves_take_turns_and_keep_what_they_said():
    said: list[str] = []
    calls = {name: counting(said, name, 1.0, 1.0, 5.0, 7.0, 9.0) for name in "ab"}
    found = in_turn(calls, duration_s=0, warm_up_s=0, min_rounds=3, pause_s=0)
    assert "".join(said) == "aabb" + "abbaab"
    assert list(found) == ["a", "b"]
    for latency in found.values():
        assert latency.samples_ms.tolist() == [5.0, 7.0, 9.0]


def test_the_rounds_go_on_for_as_long_as_was_asked_for_each_of_the_calls():
    calls = {name: counting([], name, 1.0) for name in "ab"}
    start = time.perf_counter()
    found = in_turn(calls, duration_s=0.15, warm_up_s=0, pause_s=0.01)
    assert time.perf_counter() - start >= 0.3
    assert 5 <= len(found["a"].samples_ms) == len(found["b"].samples_ms) <= 15


def test_there_are_never_more_rounds_than_the_most_and_never_fewer_than_the_least():
    for settings, rounds in (({"duration_s": 60, "max_rounds": 7}, 7), ({"duration_s": 0, "min_rounds": 4}, 4)):
        found = in_turn({"a": counting([], "a", 1.0)}, warm_up_s=0, pause_s=0, **settings)
        assert len(found["a"].samples_ms) == rounds


def test_there_is_a_pause_before_every_call_that_is_measured():
    at: list[float] = []

    def call() -> float:
        at.append(time.perf_counter())
        return 1.0

    in_turn({"a": call, "b": call}, duration_s=0, warm_up_s=0, min_rounds=2, pause_s=0.02)
    assert min(np.diff(at[4:])) >= 0.02


def test_it_tells_how_many_seconds_have_passed_of_how_many():
    told: list[tuple[int, int]] = []
    in_turn(
        {"a": counting([], "a", 1.0)},
        duration_s=1,
        warm_up_s=0,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told[-1] == (1, 1)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


IDLE = CpuUse(cpus=4, own=1.0, others=0.0)


@pytest.mark.parametrize(
    ("high", "use", "declined"),
    [
        (4.0, None, ""),  # twice the lower quartile
        (4.01, None, "host busy (quartiles 2 to 4.01)"),
        (3.0, IDLE, ""),
        (3.0, CpuUse(4, 2.9, 1.0), ""),  # a quarter of the CPUs
        (3.0, CpuUse(4, 2.9, 1.01), "host busy (others used 1.0 of 4 CPUs)"),
        (3.0, CpuUse(64, 4.0, 28.0), ""),  # half of them idle: nobody waited
        (3.0, CpuUse(64, 4.1, 28.0), "host busy (others used 28.0 of 64 CPUs)"),
        (9.0, CpuUse(2, 1.0, 1.0), "host busy (quartiles 2 to 9, others used 1.0 of 2 CPUs)"),
    ],
)
def test_a_ratio_of_a_busy_host_is_declined(high: float, use: CpuUse | None, declined: str) -> None:
    ratio = PairedRatio(2.5, (2.0, high), use)
    assert ratio.declined == declined
    assert (ratio.figure, ratio.spread) == ((None, None) if declined else (2.5, [2.0, high]))


def test_what_others_did_is_kept_with_the_times_and_a_thing_is_as_fast_as_itself_on_any_host() -> None:
    busy = CpuUse(2, 1.0, 1.0)
    one, other = Latency(np.array([2.0, 2.0]), busy), Latency(np.array([1.0, 1.0]), busy)
    assert other.ratio_of(one).declined
    assert one.ratio_of(one).figure == 1.0


@pytest.mark.parametrize("timed", [interleaved, in_turn])
def test_the_own_work_of_a_timing_is_no_business_of_others(timed) -> None:
    def call() -> float:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass
        return 30.0

    found = timed({"a": call}, warm_up_s=0.3, **({"rounds": 2} if timed is interleaved else {"duration_s": 0}))
    use = found["a"].cpu_use
    if not Path("/proc/stat").exists():
        assert use is None
    else:
        assert use is not None
        assert 0 < use.own <= 1.2
