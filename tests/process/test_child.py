"""A child process: what is asked and answered, and what becomes of it when it crashes, hangs or grows."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import BackendError, MissingDependency
from medattn_edge.process import Child, ChildLost

SERVED = """
import os, signal, sys, time
import numpy as np
from medattn_edge.errors import InputError, MissingDependency
from medattn_edge.process import serve

print("imported", flush=True)

class Fatal(InputError):
    pass

def act(request, arrays):
    what = request["what"]
    if what == "signal":
        os.kill(os.getpid(), request["number"])
    if what == "leave":
        os._exit(3)
    if what == "close":
        os.closerange(3, 64)
        time.sleep(60)
    if what == "sleep":
        time.sleep(request["s"])
    if what == "refuse":
        raise MissingDependency.of_extra("a_package", "extra")
    if what == "fatal":
        raise Fatal("the device is gone", expected="a device", hint="none")
    if what == "bug":
        return 1 / 0
    if what == "memory":
        raise MemoryError
    if what == "grow":
        np.ones(request["mb"] * 125_000)
    return {"pid": os.getpid(), "word": os.environ.get("A_WORD")}, ()

def main(descriptor):
    serve(descriptor, {"act": act, "echo": lambda request, arrays: (request, arrays)}, fatal=(Fatal,))
"""
Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    (tmp_path / "served_here.py").write_text(SERVED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    children: list[Child] = []

    def start_one(**settings: Any) -> Child:
        children.append(Child("served_here", **{"poll_s": 0.05, **settings}))
        return children[-1]

    yield start_one
    for child in children:
        child.close()


def act(child: Child, what: str, timeout_s: float = 30.0, **request: Any) -> dict[str, Any]:
    reply, _ = child.ask({"do": "act", "what": what, **request}, timeout_s=timeout_s)
    return reply


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_values_and_arrays_go_there_and_back_from_one_process(start: Start) -> None:
    child = start(environment={"A_WORD": "for you"})
    arrays = [np.arange(12, dtype=np.int16).reshape(3, 4), np.array(1.5), np.zeros((0, 2), np.float32)]
    request = {"do": "echo", "value": {"text": "ä", "none": None, "number": 0.5}}
    reply, found = child.ask(request, arrays, timeout_s=30)
    assert reply == request
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
        assert one.flags.writeable
    assert act(child, "tell") == {"pid": child.pid, "word": "for you"}
    assert child.alive
    assert child.lost is None


def test_more_than_a_socket_holds_goes_both_ways(start: Start) -> None:
    large = np.random.default_rng(0).random(4_000_000)
    _, [found] = start().ask({"do": "echo"}, [large], timeout_s=30)
    np.testing.assert_array_equal(found, large)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, 64])
def test_a_crash_is_told_with_the_name_of_its_signal_then_and_ever_after(start: Start, number: int) -> None:
    child = start()
    for _ in range(2):
        with pytest.raises(ChildLost) as lost:
            act(child, "signal", number=int(number))
        names = {signal.Signals(number).name} if number in set(signal.Signals) else {f"signal {number}"}
        assert lost.value.how.removeprefix("crashed: ") in names
        assert (lost.value.returncode, lost.value.timed_out) == (-number, False)
        assert not child.alive
    assert not exists(child.pid)


def test_an_exit_and_a_closed_connection_are_told_apart(start: Start) -> None:
    with pytest.raises(ChildLost, match="ended its process with exit code 3") as lost:
        act(start(), "leave")
    assert lost.value.returncode == 3
    child = start()
    with pytest.raises(ChildLost, match=r"closed its connection|exit code 0"):
        act(child, "close")
    assert not exists(child.pid)


def test_a_module_that_cannot_be_imported_is_a_child_that_ended(start: Start) -> None:
    child = Child("no_such_module_here", quiet=True)
    with pytest.raises(ChildLost, match="exit code 1"):
        child.ask({"do": "x"}, timeout_s=30)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_child_that_hangs_is_ended_at_the_limit_even_when_it_is_stopped(start: Start, stopped: bool) -> None:
    child = start()
    act(child, "tell")
    if stopped:
        os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ChildLost, match=r"gave no answer within 0\.5 s") as lost:
        act(child, "sleep", s=60, timeout_s=0.5)
    assert lost.value.timed_out
    assert 0.5 <= time.monotonic() - began < 10
    assert not exists(child.pid)


def test_an_error_arrives_with_its_type_and_texts_and_costs_no_child(start: Start) -> None:
    child = start()
    with pytest.raises(MissingDependency) as refused:
        act(child, "refuse")
    own = MissingDependency.of_extra("a_package", "extra")
    assert (refused.value.found, refused.value.expected, refused.value.hint) == (own.found, own.expected, own.hint)
    with pytest.raises(BackendError, match="memory ran out"):
        act(child, "memory")
    with pytest.raises(RuntimeError, match=r"served_here\.py(.|\n)*ZeroDivisionError"):
        act(child, "bug")
    assert act(child, "tell")["pid"] == child.pid


def test_an_error_after_which_nothing_works_ends_the_child(start: Start) -> None:
    child = start()
    with pytest.raises(Exception, match="the device is gone"):
        act(child, "fatal")
    assert not child.alive
    with pytest.raises(ChildLost, match="ended itself: the device is gone"):
        act(child, "tell")


def test_memory_is_told_while_it_is_held_and_at_its_peak(start: Start) -> None:
    child = start()
    assert child.peak_rss_mb == 0
    act(child, "tell")
    before = child.peak_rss_mb
    act(child, "grow", mb=200)
    assert 5 < before < 200 <= child.peak_rss_mb
    assert 0 < child.rss_mb < 200
    child.close()
    assert child.rss_mb == 0


def test_what_watches_can_end_the_child(start: Start) -> None:
    def watch() -> None:
        raise BackendError("too large")

    child = start(watch=watch)
    with pytest.raises(BackendError, match="too large"):
        act(child, "sleep", s=60)
    assert not child.alive
    assert not exists(child.pid)


def test_an_interrupted_request_never_gets_the_next_ones_reply(start: Start) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    child = start()
    act(child, "tell")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            act(child, "sleep", s=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ChildLost, match="was ended"):
        act(child, "tell")


@pytest.mark.parametrize("end", [Child.close, Child.kill, lambda child: child.stop(5)], ids=["close", "kill", "stop"])
def test_a_child_at_work_can_be_ended_by_another_thread(start: Start, end: Callable[[Child], None]) -> None:
    child, raised = start(), list[ChildLost]()
    act(child, "tell")

    def ask() -> None:
        try:
            act(child, "sleep", s=60)
        except ChildLost as lost:
            raised.append(lost)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    end(child)
    thread.join(10)
    assert time.monotonic() - began < 5
    assert len(raised) == 1
    assert not exists(child.pid)


def test_an_idle_child_may_end_by_itself(start: Start) -> None:
    child = start()
    act(child, "tell")
    began = time.monotonic()
    child.stop(20)
    assert time.monotonic() - began < 10
    assert not exists(child.pid)
    child.stop(20)
    child.close()


def test_a_child_that_nobody_holds_is_ended(start: Start, tmp_path: Path) -> None:
    child = Child("served_here")
    pid = child.pid
    del child
    gc.collect()
    assert not exists(pid)


def test_a_forked_process_neither_asks_nor_ends_the_child(start: Start) -> None:
    child = start()
    act(child, "tell")
    forked = os.fork()
    if not forked:
        code = 1
        try:
            alive = child.alive
            child.stop(1)
            child.kill()
            child.close()
            act(child, "tell")
        except ChildLost as lost:
            code = 0 if "forked" in lost.how and not alive else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert act(child, "tell")["pid"] == child.pid


@pytest.mark.parametrize("quiet", [False, True])
def test_what_a_child_prints_goes_to_stderr_or_nowhere(start: Start, quiet: bool, capfd: Any) -> None:
    act(start(quiet=quiet), "tell")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert ("imported" in captured.err) != quiet


@pytest.mark.parametrize("again", [copy.copy, lambda lost: pickle.loads(pickle.dumps(lost))], ids=["copy", "pickle"])
def test_the_loss_of_a_child_can_be_copied(again: Callable[[ChildLost], ChildLost]) -> None:
    lost = again(ChildLost("crashed: SIGSEGV", -11))
    assert (lost.how, lost.returncode, lost.timed_out, str(lost)) == (
        *("crashed: SIGSEGV", -11, False),
        "the child crashed: SIGSEGV",
    )
