"""What libraries log, warn about and die of goes into our log, without what they say: that may quote a data set."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from medattn_edge.scanner.observe.log import WITHHELD, Level, Line, Log, about, module_of


@contextmanager
def captured(log: Log) -> Iterator[None]:
    """Take over the logging library, warnings and the ends of threads, for as long as the block lasts.

    Of each only where it comes from is written. A library's message never comes into being: not even a handler that
    somebody adds to pynetdicom's or pydicom's logger can print a data set.
    """

    def on_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        about_it: Line = {"error": category.__name__, "module": module_of(filename), "line": lineno}
        log.write("warning", Level.WARNING, about_it)

    def on_end(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        log.write("uncaught", Level.ERROR, about(kind if error is None else error, trace))

    root, handler = logging.getLogger(), _Library(log)
    factory, shown = logging.getLogRecordFactory(), warnings.showwarning
    hooks = threading.excepthook, sys.excepthook, sys.unraisablehook
    logging.setLogRecordFactory(_without_message)
    root.addHandler(handler)
    warnings.showwarning = on_warning
    threading.excepthook = lambda ended: on_end(ended.exc_type, ended.exc_value, ended.exc_traceback)
    sys.excepthook = on_end
    sys.unraisablehook = lambda ended: on_end(ended.exc_type, ended.exc_value, ended.exc_traceback)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.setLogRecordFactory(factory)
        warnings.showwarning = shown
        threading.excepthook, sys.excepthook, sys.unraisablehook = hooks


class _Library(logging.Handler):
    """Writes where a library's record comes from."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = Level.ERROR if record.levelno >= logging.ERROR else Level.WARNING
        error: Line = {"error": record.error} if hasattr(record, "error") else {}
        self._log.write("library", level, {"module": module_of(record.pathname), "line": record.lineno, **error})


def _without_message(name: str, level: int, path: str, line: int, *rest: Any, **more: Any) -> logging.LogRecord:
    """A record of the logging library that holds neither its message nor its error, only the error's type."""
    record = logging.LogRecord(name, level, path, line, WITHHELD, (), None)
    error = rest[2] if len(rest) > 2 else None  # after the message and its arguments
    if error and error[0] is not None:
        record.error = error[0].__name__
    return record
