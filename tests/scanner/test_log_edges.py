"""What a log takes and what it withholds, each kind alone; what is half-open, to the last connection and second."""

from __future__ import annotations

import io
import json
import logging
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.errors import OutputError, UsageError
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.half_open import HalfOpen
from medattn_edge.scanner.observe.log import Level, Log, module_of
from medattn_edge.scanner.store.transitions import State

KEY = "0123456789abcdef" * 2


def written(act: Callable[[Log], object], **options: Any) -> list[dict[str, Any]]:
    text = io.StringIO()
    act(Log(text, **options))
    return [json.loads(line) for line in text.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("count", 3, 3),
        ("seconds", 1.5, 1.5),
        ("count", float("inf"), None),
        ("count", True, "withheld"),
        ("count", "3", "withheld"),
        ("ready", True, True),
        ("ready", 1, "withheld"),
        ("state", State.QUEUED, "queued"),
        ("state", "queued", "withheld"),
        ("destination", "pacs", "pacs"),
        ("destination", "shelf", "withheld"),
        ("peer", "10.0.0.7", "10.0.0.7"),
        ("peer", "fe80::1", "fe80::1"),
        ("peer", "pacs", "withheld"),
        ("peer", "", "withheld"),
        ("peer", 7, "withheld"),
    ],
)
def test_a_field_holds_what_is_of_its_kind(field: str, value: Any, told: Any) -> None:
    [line] = written(lambda log: log.event("received", **{field: value}), allow=["pacs"])
    assert line[field] == told


@pytest.mark.parametrize(
    ("key", "told"),
    [(KEY, KEY), (KEY[:-1], "withheld"), (KEY + "0", "withheld"), (KEY.upper(), "withheld"), ("", None)],
)
def test_a_key_has_32_digits(key: str, told: str | None) -> None:
    assert [line.get("key") for line in written(lambda log: log.event("received", key))] == [told]
    assert [line.get("key") for line in written(lambda log: log.failure("refused", OSError(), key))] == [told]


@pytest.mark.parametrize(("name", "known"), [("a" * 48, True), ("a" * 49, False), ("a_1", True), ("1a", False)])
def test_the_name_of_an_event_has_at_most_48_letters(name: str, known: bool) -> None:
    if known:
        assert written(lambda log: log.event(name))[0]["event"] == name
    else:
        with pytest.raises(ValueError, match="the name of an event"):
            written(lambda log: log.event(name))


@pytest.mark.parametrize(
    ("least", "told"),
    [
        (Level.DEBUG, ["debug", "info", "warning", "error"]),
        (Level.INFO, ["info", "warning", "error"]),
        (Level.WARNING, ["warning", "error"]),
        (Level.ERROR, ["error"]),
    ],
)
def test_levels_are_written_from_the_least_one_on(least: Level, told: list[str]) -> None:
    lines = written(lambda log: [log.event("received", level=level) for level in Level], least=least)
    assert [line["level"] for line in lines] == told
    [line] = written(lambda log: log.failure("refused", OSError()))
    assert line["level"] == "error"


def test_an_error_is_told_by_its_code_its_number_and_its_last_frame() -> None:
    def fail(log: Log) -> None:
        for error in (UsageError("x"), OSError(28, "x"), ValueError("x")):
            try:
                raise error
            except type(error) as caught:
                log.failure("refused", caught)

    usage, system, value = written(fail)
    assert (usage["code"], "errno" in usage) == (UsageError.code, False)
    assert (system["errno"], "code" in system) == (28, False)
    assert "code" not in value
    assert "errno" not in value
    assert {line["module"] for line in (usage, system, value)} == {"scanner.test_log_edges"}
    assert len({line["line"] for line in (usage, system, value)}) == 1


def test_a_place_in_a_file_is_told_by_its_last_two_parts_and_anything_else_is_withheld() -> None:
    assert module_of("/home/x/medattn_edge/atomic.py") == "medattn_edge.atomic"
    assert module_of("/data/Doe^John/scan.dcm") == "withheld"


def test_a_file_is_gone_on_in_after_it_was_renamed_and_closed_in_the_end(tmp_path: Path) -> None:
    log = Log(tmp_path / "node.log")
    log.event("received")
    (tmp_path / "node.log").rename(tmp_path / "old.log")
    log.event("received")
    log.reopen()
    log.event("received")
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("old.log", "node.log")] == [2, 1]
    before = len(list(Path("/proc/self/fd").iterdir()))
    log.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
    Log(io.StringIO()).reopen()
    with pytest.raises(OutputError, match=r"cannot write the log .*: Is a directory") as raised:
        Log(tmp_path)
    assert raised.value.hint == f"ls -ld '{tmp_path}'"


def test_a_file_on_a_full_disk_loses_lines_and_counts_them() -> None:
    log = Log(Path("/dev/full"))
    for _ in range(3):
        log.event("received")
    assert log.lost == 3
    log.close()


def test_what_libraries_say_is_told_by_its_place_and_everything_is_put_back() -> None:
    hooks = threading.excepthook, sys.excepthook, sys.unraisablehook, warnings.showwarning
    handlers = list(logging.getLogger().handlers)

    def act(log: Log) -> None:
        with captured(log):
            assert len(logging.getLogger().handlers) == len(handlers) + 1
            for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
                logging.getLogger("pydicom").log(level, "Doe^John")
            sys.unraisablehook(unraisable(ValueError("Doe^John")))
            sys.excepthook(KeyError, KeyError("Doe^John"), None)
            warnings.showwarning("Doe^John", UserWarning, "/usr/lib/pydicom/values.py", 7)

    lines = written(act)
    told = [(line["event"], line["level"], line.get("error")) for line in lines]
    assert told == [
        ("library", "warning", None),
        ("library", "error", None),
        ("library", "error", None),
        ("uncaught", "error", "ValueError"),
        ("uncaught", "error", "KeyError"),
        ("warning", "warning", "UserWarning"),
    ]
    assert (lines[-1]["module"], lines[-1]["line"]) == ("pydicom.values", 7)
    assert (threading.excepthook, sys.excepthook, sys.unraisablehook, warnings.showwarning) == hooks
    assert logging.getLogger().handlers == handlers


def unraisable(error: BaseException) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=None)


# Half-open connections


class Sockets:
    """Half-open connections of this process, and what is dropped."""

    def __init__(self, total: int, per_address: int) -> None:
        self.now, self.dropped, self.pairs = 0.0, list[tuple[str, str]](), list[tuple[socket.socket, socket.socket]]()
        self.half_open = HalfOpen(10, total, per_address, lambda *about: self.dropped.append(about), lambda: self.now)

    def add(self, address: str) -> socket.socket:
        self.pairs.append(socket.socketpair())
        self.half_open.add(self.pairs[-1][0], address)
        return self.pairs[-1][0]

    def open(self) -> list[bool]:
        """Of each, whether it is still open at the other end."""
        found = []
        for _, theirs in self.pairs:
            theirs.setblocking(False)
            try:
                found.append(theirs.recv(1) != b"")
            except BlockingIOError:
                found.append(True)
        return found

    def close(self) -> None:
        for pair in self.pairs:
            for one in pair:
                one.close()


@pytest.fixture
def sockets() -> Any:
    made: list[Sockets] = []

    def make(total: int, per_address: int) -> Sockets:
        made.append(Sockets(total, per_address))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_address_may_have_its_number_and_all_together_theirs(sockets: Any) -> None:
    one = sockets(total=3, per_address=2)
    for address in ("a", "a"):
        one.add(address)
    assert (one.dropped, len(one.half_open)) == ([], 2)
    one.add("a")
    assert (one.dropped, one.open()) == ([("a", "too_many_connections")], [False, True, True])
    one.add("b")
    assert (len(one.dropped), len(one.half_open)) == (1, 3)
    one.add("c")  # the oldest goes, whoever's it is
    assert one.dropped[1:] == [("a", "too_many_connections")]
    assert one.open() == [False, False, True, True, True]


def test_a_connection_has_its_ten_seconds_from_its_start_under_whatever_name(sockets: Any) -> None:
    one = sockets(total=9, per_address=9)
    first = one.add("a")
    one.now = 5.0
    one.add("b")
    other, theirs = socket.socketpair()
    one.pairs.append((other, theirs))
    assert one.half_open.exchange(first, other)
    assert not one.half_open.exchange(first, other)
    one.now = 9.999
    one.half_open.expire()
    assert one.dropped == []
    one.now = 10.0
    one.half_open.expire()
    assert one.dropped == [("a", "no_request")]
    one.now = 15.0
    one.half_open.expire()
    assert (one.dropped[1:], len(one.half_open)) == ([("b", "no_request")], 0)


def test_whoever_has_asked_is_not_half_open_and_the_oldest_makes_room_on_demand(sockets: Any) -> None:
    one = sockets(total=9, per_address=9)
    assert not one.half_open.drop_oldest()
    first, second = one.add("a"), one.add("b")
    assert (one.half_open.done(first), one.half_open.done(first), one.half_open.done(None)) == (True, False, False)
    assert one.half_open.drop_oldest()
    assert not one.half_open.drop_oldest()
    assert not one.half_open.done(second)
    assert one.dropped == [("b", "too_many_connections")]
    third = one.add("c")
    third.close()  # it is gone already: that is no error
    assert one.half_open.drop_oldest()
