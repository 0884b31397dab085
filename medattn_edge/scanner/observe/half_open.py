"""Connections that have not said yet what they want: bounded in number, by address, and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

SILENT: Final = "no_request"
CROWDED: Final = "too_many_connections"


@dataclass(frozen=True)
class _Waiting:
    address: str
    deadline: float


class HalfOpen:
    """Several threads may call it.

    Where there are too many, the oldest goes: whoever means it says what it wants within milliseconds, and so nobody is
    shut out by others' silence.
    """

    def __init__(
        self,
        timeout_s: float,
        total: int,
        per_address: int,
        on_drop: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is open yet.

        Args:
            timeout_s: from the first byte of the connection to the last of its request, however it trickles.
            total: how many may be half-open.
            per_address: how many of one address.
            on_drop: called with the address and a code of ADMISSION_REASONS for each that is dropped.
            clock: seconds that only grow.
        """
        self._timeout_s, self._total, self._per_address = timeout_s, total, per_address
        self._on_drop, self._clock = on_drop, clock
        self._waiting: dict[socket.socket, _Waiting] = {}  # the oldest first
        self._lock = threading.Lock()

    def add(self, connection: socket.socket, address: str) -> None:
        """A new connection; others may be dropped for it."""
        with self._lock:
            same = [one for one, waiting in self._waiting.items() if waiting.address == address]
            crowded = same[: len(same) + 1 - self._per_address] if len(same) >= self._per_address else []
            rest = [one for one in self._waiting if one not in crowded]
            crowded += rest[: len(rest) + 1 - self._total] if len(rest) >= self._total else []
            dropped = [self._waiting.pop(one) for one in crowded]
            self._waiting[connection] = _Waiting(address, self._clock() + self._timeout_s)
        self._drop(crowded, dropped, CROWDED)

    def exchange(self, before: socket.socket, after: socket.socket) -> bool:
        """The connection has another object now, as with TLS. False when it was dropped already."""
        with self._lock:
            waiting = self._waiting.pop(before, None)
            if waiting is not None:
                self._waiting[after] = waiting
        return waiting is not None

    def done(self, connection: socket.socket | None) -> bool:
        """The connection has said what it wants, or has ended. False when it was dropped already."""
        with self._lock:
            return connection is not None and self._waiting.pop(connection, None) is not None

    def expire(self) -> None:
        """Drop those whose time is up; to be called several times a second."""
        now = self._clock()
        with self._lock:
            late = [one for one, waiting in self._waiting.items() if waiting.deadline <= now]
            dropped = [self._waiting.pop(one) for one in late]
        self._drop(late, dropped, SILENT)

    def drop_oldest(self) -> bool:
        """Make room for one more; False when there is none."""
        with self._lock:
            oldest = next(iter(self._waiting), None)
            dropped = [] if oldest is None else [self._waiting.pop(oldest)]
        self._drop([] if oldest is None else [oldest], dropped, CROWDED)
        return oldest is not None

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _drop(self, connections: list[socket.socket], dropped: list[_Waiting], reason: str) -> None:
        for connection, waiting in zip(connections, dropped, strict=True):
            with suppress(OSError):
                # Its thread, which waits for it, ends by that and closes it.
                connection.shutdown(socket.SHUT_RDWR)
            self._on_drop(waiting.address, reason)
