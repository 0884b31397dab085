"""Two threads hand work to each other: in order, bounded, and whatever goes wrong comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import pytest

from medattn_edge.inference.handover import QUEUE_DEPTH, consume_in_thread, prefetch


class Odd(Exception):
    """Nothing that anybody else raises."""


def numbers(count: int, error: BaseException | None = None) -> Generator[int, None, None]:
    yield from range(count)
    if error is not None:
        raise error


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_everything_comes_once_and_in_order(count: int) -> None:
    assert list(prefetch(numbers(count))) == list(range(count))
    seen: list[int] = []
    consume_in_thread(numbers(count), seen.extend)
    assert seen == list(range(count))


@pytest.mark.parametrize("error", [Odd("why"), KeyboardInterrupt(), StopAsyncIteration()])
def test_an_error_of_the_source_is_raised_as_itself(error: BaseException) -> None:
    with pytest.raises(type(error)) as ahead_of:
        list(prefetch(numbers(5, error)))
    with pytest.raises(type(error)) as handed:
        consume_in_thread(numbers(5, error), lambda items: list(items) and None)
    assert ahead_of.value is handed.value is error


def test_an_error_of_the_user_is_raised_as_itself_and_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    error = Odd("why")

    def use(items: Iterator[int]) -> None:
        assert next(items) == 0
        raise error

    with pytest.raises(Odd) as caught:
        consume_in_thread(source(), use)
    assert caught.value is error
    assert closed.is_set()


def test_leaving_early_closes_the_source_and_ends_the_thread() -> None:
    closed = threading.Event()

    def source() -> Generator[int, None, None]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    def around() -> Generator[int, None, None]:
        """Inside another generator, as a sliding window has it."""
        yield from prefetch(source())

    with closing(around()) as items:
        assert next(items) == 0
    assert closed.is_set()


def test_a_user_that_had_enough_ends_the_work() -> None:
    consume_in_thread(numbers(10**9), lambda items: next(items) and None)


def test_when_both_sides_fail_the_callers_own_error_is_raised() -> None:
    def use(items: Iterator[int]) -> None:
        for _ in items:
            pass
        raise AssertionError("the end of a source that failed is no end")

    with pytest.raises(Odd):
        consume_in_thread(numbers(3, Odd()), use)


@pytest.mark.parametrize("way", ["prefetch", "consume"])
def test_no_more_items_exist_than_there_are_places(way: str) -> None:
    made: list[int] = []
    used: list[int] = []
    most = 0

    def source() -> Generator[int, None, None]:
        for item in range(50):
            made.append(item)
            yield item

    def use(items: Iterator[int]) -> None:
        nonlocal most
        for item in items:
            time.sleep(0.001)
            most = max(most, len(made) - len(used))
            used.append(item)

    run: Callable[[], None] = (
        (lambda: use(prefetch(source()))) if way == "prefetch" else (lambda: consume_in_thread(source(), use))
    )
    run()
    assert most == QUEUE_DEPTH


def test_both_sides_work_at_the_same_time() -> None:
    """Each waits for the other to be in the middle of the next item."""
    here, there = threading.Barrier(2, timeout=10), 5

    def source() -> Generator[int, None, None]:
        yield 0
        for item in range(1, there):
            here.wait()
            yield item

    for item in prefetch(source()):
        if item < there - 1:
            here.wait()
