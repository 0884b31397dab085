"""The loop of a thread that sends what is due: how long it waits, and for what."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from medattn_edge.errors import OutputError
from medattn_edge.scanner.deliver.due import send_when_due
from medattn_edge.scanner.observe.log import Log


class Waits(threading.Event):
    """Writes down how long it was waited for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return self.is_set()


def looped(script: list[Callable[[], int]]) -> tuple[list[float], list[float], list[dict[str, Any]]]:
    """The pauses after errors, those between looks, and what was logged, of a thread that ends with the script."""
    stopping, wake, text, left = Waits(), Waits(), io.StringIO(), list(script)

    def send_due(given: threading.Event) -> int:
        assert given is stopping
        assert not wake.is_set()
        step = left.pop(0)
        if not left:
            stopping.set()
        wake.set()
        return step()

    wake.set()
    send_when_due(send_due, Log(text), "delivery_waits", stopping=stopping, wake=wake)
    return stopping.waited, wake.waited, [json.loads(line) for line in text.getvalue().splitlines()]


def full() -> int:
    raise OutputError("cannot write", expected="room", hint="df")


def test_while_the_own_disk_takes_nothing_the_pauses_double_to_a_minute_and_then_start_anew():
    pauses, looks, told = looped([*[full] * 8, lambda: 1, full, lambda: 0, full, full])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1, 1, 2]
    assert looks == [1.0]  # nothing was due; what was tried is looked at again at once
    assert [(line["event"], line["code"]) for line in told] == [("delivery_waits", "output")] * 11


def test_a_bug_ends_the_thread():
    with pytest.raises(ZeroDivisionError):
        looped([lambda: 1 // 0])
