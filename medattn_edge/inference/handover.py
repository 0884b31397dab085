"""Work handed from one thread to another through a bounded queue, so that neither runs far before the other.

What is raised on either side is raised in the caller, as itself. When the caller goes on, whatever the reason, the
other thread has ended: it is asked to stop, finishes what it has in hand, and is waited for.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
QUEUE_DEPTH = 2  # one in use and one in the making: more would cost memory and win nothing
_END = object()


def prefetch(source: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The items of a generator, which a thread makes while the caller works on the one before.

    QUEUE_DEPTH items exist at any time, with the one that the caller holds: a source may
    fill that many buffers in turn. Close it where it may be left before its end.
    """
    line: _Line[Item] = _Line()
    worker = _Worker("medattn-edge prefetch", lambda: line.fill(source), line)
    try:
        yield from line.items()
    except _Stopped:
        pass  # by the worker, whose error says why
    finally:
        line.stop()
        worker.join()
    worker.check()


def consume_in_thread(source: Generator[Item, None, None], use: Callable[[Iterator[Item]], None]) -> None:
    """Call use(items) in a thread, while this one makes them: the items of a generator, which is closed in the end.

    QUEUE_DEPTH items exist at any time, with the one in use. When both sides fail, the error of this thread is raised.
    """
    line: _Line[Item] = _Line()

    def work() -> None:
        use(line.items())
        line.stop()  # it may have had enough before the end

    worker = _Worker("medattn-edge consume", work, line)
    try:
        line.fill(source)
        worker.join()
    finally:
        line.stop()
        worker.join()
    worker.check()


class _Stopped(Exception):
    """The other side has left: nothing more will come, and nobody waits for an answer."""


class _Line(Generic[Item]):
    """A bounded line from one thread to another, which either end may leave at any time."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(QUEUE_DEPTH)
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped = False

    def fill(self, source: Generator[Item, None, None]) -> None:
        """Put everything on the line; the next item is made only when there is a place for it."""
        with closing(source):
            while self._has_place():
                item = next(source, _END)
                self._waiting.put(item)
                if item is _END:
                    return
                del item  # kept here, it would live until the next one is made

    def items(self) -> Generator[Item, None, None]:
        """Take everything off the line; raises _Stopped when its end will never come."""
        while True:
            item = self._waiting.get()
            if self._stopped:
                raise _Stopped
            if item is _END:
                return
            yield item
            del item
            self._free.release()

    def stop(self) -> None:
        """Wake both ends, and send them away."""
        self._stopped = True
        self._free.release()
        self._waiting.put(_END)

    def _has_place(self) -> bool:
        self._free.acquire()
        return not self._stopped


class _Worker(threading.Thread):
    """A thread that stops its line when it fails, and keeps the error."""

    def __init__(self, name: str, work: Callable[[], None], line: _Line[Any]) -> None:
        super().__init__(name=name, daemon=True)  # a runtime that never answers must not keep the process
        self._work, self._line = work, line
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Work; called by the thread."""
        try:
            self._work()
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
            self._line.stop()

    def check(self) -> None:
        """Raise what was raised in the thread."""
        if self._error is not None:
            raise self._error
