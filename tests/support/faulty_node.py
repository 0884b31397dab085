"""Faults for the durable half of a node, one at a time: a kill or a full disk at a chosen step of its writing."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STEPS = ("fsync", "rename", "replace", "utime")


class Killed(BaseException):
    """The process ends here."""


class Faults:
    """struck: how many faults of each kind came to pass."""

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        self._kind, self._left = "", 0

    def arm(self, kind: str, after: int) -> None:
        """Let a `kill` or a `full disk` strike after so many steps; nothing strikes where there are fewer."""
        self._kind, self._left = kind, after

    def disarm(self) -> None:
        """Nothing strikes any more."""
        self._kind = ""

    def step(self) -> None:
        """Before each step. Raises Killed, or OSError as a full disk does."""
        if not self._kind:
            return
        self._left -= 1
        if self._left < 0:
            kind, self._kind = self._kind, ""
            self.struck[kind] += 1
            raise Killed if kind == "kill" else OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def faulty_system(faults: Faults) -> Iterator[None]:
    """The system's own functions, which strike."""

    def struck(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            faults.step()
            return real(*words, **more)

        return call

    before = {name: getattr(os, name) for name in STEPS}
    for name, real in before.items():
        setattr(os, name, struck(real))
    try:
        yield
    finally:
        for name, real in before.items():
            setattr(os, name, real)
