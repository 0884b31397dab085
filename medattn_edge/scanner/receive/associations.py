"""Which series an association that is still open has delivered to: they are not complete."""

from __future__ import annotations

import threading
from collections import Counter


class Associations:
    """Counts in memory: after a restart nobody is open, which is true. Several threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[int, set[str]] = {}
        self._open: Counter[str] = Counter()
        self._next = 0

    def opened(self) -> int:
        """A new association; the number to name it by."""
        with self._lock:
            self._next += 1
            self._series[self._next] = set()
            return self._next

    def delivered(self, association: int, key: str) -> None:
        """An association delivered an object of a series. Nothing happens for one that is closed."""
        with self._lock:
            series = self._series.get(association)
            if series is not None and key not in series:
                series.add(key)
                self._open[key] += 1

    def closed(self, association: int) -> None:
        """An association was released, aborted or lost; telling it twice does no harm."""
        with self._lock:
            for key in self._series.pop(association, set()):
                self._open[key] -= 1
                if self._open[key] == 0:
                    del self._open[key]

    def busy(self) -> frozenset[str]:
        """The keys of the series that an open association has delivered to; for `Store.complete`."""
        with self._lock:
            return frozenset(self._open)

    @property
    def count(self) -> int:
        """How many associations are open."""
        with self._lock:
            return len(self._series)
