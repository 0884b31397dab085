"""Workers of this host: a child process in each slot, and a thread that waits for it."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Final

from medattn_edge.backends.isolated import TIMEOUT_S
from medattn_edge.cohort.workers import (
    MAX_STARTS,
    Event,
    Finished,
    Lost,
    WorkerOpened,
    Workers,
    check_starts,
    failed_case,
)
from medattn_edge.process import Child, ChildLost

_MODULE: Final = "medattn_edge.cohort.worker"
_JOIN_S: Final = 10.0


class LocalWorkers(Workers):
    """Child processes of this one, which end with it.

    Args:
        request: what `CaseWorker.open` takes, without the worker's name.
        count: how many.
        case_timeout_s: the limit of each case, in s.
        one_first: open the artifact once before the others do, because they share a cache of compiled models.
    """

    queue_depth = 1

    def __init__(
        self, request: Mapping[str, Any], count: int, case_timeout_s: float, *, one_first: bool = False
    ) -> None:
        super().__init__()
        self.count = count
        self._events: queue.SimpleQueue[Event | WorkerOpened | BaseException] = queue.SimpleQueue()
        self._slots = [_Slot(number, request, case_timeout_s, self._events) for number in range(count)]
        self._idle = self._slots[1:] if one_first else []
        for slot in self._slots[: 1 if one_first else count]:
            slot.start()

    def submit(self, slot: int, case: Mapping[str, Any]) -> None:
        """As `Workers.submit`."""
        self._slots[slot].tasks.put(case)

    def wait(self) -> Event:
        """As `Workers.wait`."""
        event = super().wait()
        self.peak_rss_mb = max(slot.peak_rss_mb for slot in self._slots)
        return event

    def close(self) -> None:
        """As `Workers.close`."""
        for slot in self._slots:
            slot.end()
        for slot in self._slots:
            if slot.is_alive():
                slot.join(_JOIN_S)

    def _start_rest(self) -> None:
        for slot in self._idle:
            slot.start()
        self._idle = []

    def _next(self) -> Event | None:
        told = self._events.get()
        if isinstance(told, BaseException):
            raise told
        if not isinstance(told, WorkerOpened):
            return told
        self._opened(told)
        return None


class _Slot(threading.Thread):
    """One worker at a time, and the thread that asks it."""

    def __init__(
        self, number: int, request: Mapping[str, Any], timeout_s: float, events: queue.SimpleQueue[Any]
    ) -> None:
        super().__init__(name=f"medattn-edge worker {number}", daemon=True)
        self._number, self._request, self._timeout_s, self._events = number, request, timeout_s, events
        self.tasks: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._lock, self._ended, self._child, self._worker = threading.Lock(), False, None, ""
        self.peak_rss_mb = 0.0

    _child: Child | None

    def run(self) -> None:
        """Open, then do what is submitted; called by the thread."""
        try:
            self._open()
            while (case := self.tasks.get()) is not None:
                self._do(case)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._events.put(error)

    def end(self) -> None:
        """End the worker, now and for good; the thread ends then."""
        with self._lock:
            self._ended, child = True, self._child
        self.tasks.put(None)
        if child is not None:
            child.close()

    def _open(self) -> None:
        """Start a worker that opens the artifact, or another one where that costs its process."""
        for starts in range(1, MAX_STARTS + 1):
            child, name = self._new_child(), uuid.uuid4().hex
            try:
                reply, _ = child.ask({**self._request, "do": "open", "worker": name}, timeout_s=TIMEOUT_S)
            except ChildLost as lost:
                self._check_ended()
                check_starts(starts, lost.how)
                continue
            self._worker = name
            self._events.put(WorkerOpened.from_json(reply))
            return

    def _do(self, case: Mapping[str, Any]) -> None:
        child = self._child
        assert child is not None, "it is opened first"
        try:
            reply, _ = child.ask({"do": "case", "case": case}, timeout_s=self._timeout_s)
        except ChildLost as lost:
            self._check_ended()
            self._events.put(Lost(self._number, self._worker, lost.how, lost.timed_out))
            self._open()
            return
        except Exception as error:  # noqa: BLE001 - it is raised again where it is not the case's
            self._events.put(failed_case(self._number, error))
            return
        self.peak_rss_mb = max(self.peak_rss_mb, child.peak_rss_mb)
        self._events.put(Finished(self._number, reply))

    def _new_child(self) -> Child:
        with self._lock:
            if self._ended:
                raise _Ended
            self._child = Child(_MODULE, poll_s=0.25)
            return self._child

    def _check_ended(self) -> None:
        with self._lock:
            if self._ended:
                raise _Ended


class _Ended(Exception):
    """The run ends its workers."""
