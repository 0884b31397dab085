"""Structured logs that hold no identifiers by construction: numbers, flags, allowed values and series keys."""

from __future__ import annotations

import ipaddress
import json
import logging
import logging.handlers
import math
import re
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, TextIO

from medattn_edge.atomic import check_folder
from medattn_edge.errors import MedattnError, OutputError
from medattn_edge.newer_python import UTC, StrEnum
from medattn_edge.scanner.observe.fields import ADDRESSES, FLAGS, NUMBERS, VALUES

if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:  # Python 3.10 takes no type there
    _Handler = logging.StreamHandler

Value = int | float | bool | str | Enum
Line = Mapping[str, Value | None]


class Level(StrEnum):
    """How bad an event is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


WITHHELD: Final = "withheld"
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_KEY: Final = re.compile(r"[0-9a-f]{32}")
_RANK: Final = {level: rank for rank, level in enumerate(Level)}


class Log:
    """JSON lines to stderr, a stream, or a file that is rotated. Several threads may write.

    Attributes:
        lost: lines that could not be written (a full disk, a closed pipe); logging never stops the node.
    """

    def __init__(
        self,
        out: Path | TextIO | None = None,
        *,
        allow: Iterable[str] = (),
        least: Level = Level.INFO,
        max_bytes: int = 10_000_000,
        backups: int = 5,
    ) -> None:
        """Open the log.

        Args:
            out: a file, or a stream; none: stderr.
            allow: what a field of VALUES may hold beside members of enumerations.
            least: events below are not written.
            max_bytes: of the file, before it is rotated.
            backups: rotated files that are kept.

        Raises:
            OutputError: for a file that cannot be written, or in a folder that does not exist.
        """
        if isinstance(out, Path):
            check_folder(out)
        self.lost, self._least, self._allowed = 0, least, frozenset(allow)
        self._handler: logging.Handler
        if not isinstance(out, Path):
            self._handler = _Stream(self, out)
            return
        try:
            self._handler = _File(self, out, max_bytes, backups)
        except OSError as error:
            raise OutputError(
                f"cannot write the log {out}: {error.strerror}",
                expected="a file, and permission to write it",
                hint=f"ls -ld '{out}'",
            ) from error

    def allow_values(self, values: Iterable[str]) -> None:
        """Let the fields of VALUES hold these too: of the configuration and of the code, never of the data."""
        self._allowed |= frozenset(values)

    def event(self, name: str, /, key: str = "", level: Level = Level.INFO, **fields: Value) -> None:
        """Write one line. name: a code. key: of a series.

        A value that a field may not hold is written as "withheld". Raises ValueError for a field that is not known, and
        for a name that is no code: bugs that the first call shows.
        """
        if not _EVENT.fullmatch(name):
            raise ValueError("the name of an event is a code of lower-case letters, digits and _")
        unknown = set(fields) - NUMBERS - FLAGS - VALUES - ADDRESSES
        if unknown:
            raise ValueError(f"fields that may not be logged: {', '.join(sorted(unknown))}")
        cleaned = {field: self._clean(field, value) for field, value in fields.items()}
        self.write(name, level, {**_keyed(key), **cleaned})

    def failure(self, name: str, error: BaseException, key: str = "", level: Level = Level.ERROR) -> None:
        """Write the type of an error and where it was raised, without its message: that may quote the data."""
        code: Line = {"code": error.code} if isinstance(error, MedattnError) else {}
        number: Line = {"errno": error.errno} if isinstance(error, OSError) else {}
        self.write(name, level, {**_keyed(key), **code, **number, **about(error, error.__traceback__)})

    def reopen(self) -> None:
        """Go on in the file of that name, if it is one: another program may have renamed the one that is open."""
        if isinstance(self._handler, _File):
            self._handler.close()  # the next line opens it again

    def close(self) -> None:
        """Close the file, if it is one; what a full disk did not take is lost, and counted."""
        with suppress(OSError):
            self._handler.close()

    def _clean(self, field: str, value: Value) -> Value | None:
        if field in VALUES:
            word = value.value if isinstance(value, Enum) else value
            known = isinstance(value, Enum) or (isinstance(value, str) and value in self._allowed)
            return word if known and isinstance(word, str) else WITHHELD
        if field in ADDRESSES:
            return value if isinstance(value, str) and _is_address(value) else WITHHELD
        if field in FLAGS:
            return value if isinstance(value, bool) else WITHHELD
        if isinstance(value, bool) or not isinstance(value, int | float):
            return WITHHELD
        return value if math.isfinite(value) else None

    def write(self, name: str, level: Level, line: Line) -> None:
        """Write a line that is known to be free of identifiers; `event` and `failure` are for everybody."""
        if _RANK[level] < _RANK[self._least]:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": now, "level": level.value, "event": name, **line})
        self._handler.handle(logging.LogRecord("node", logging.INFO, "", 0, text, (), None))


class _Stream(_Handler):
    def __init__(self, log: Log, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        self._log.lost += 1  # the library would print the line to stderr, or fail there again


class _File(logging.handlers.RotatingFileHandler):
    def __init__(self, log: Log, path: Path, max_bytes: int, backups: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
        self._log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        self._log.lost += 1


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _keyed(key: str) -> Line:
    return {"key": key if _KEY.fullmatch(key) else WITHHELD} if key else {}


def about(error: BaseException | type[BaseException], trace: TracebackType | None) -> Line:
    """The type of an error, and where it was raised."""
    kind = error if isinstance(error, type) else type(error)
    frames = traceback.extract_tb(trace)
    if not frames:
        return {"error": kind.__name__}
    return {"error": kind.__name__, "module": module_of(frames[-1].filename), "line": frames[-1].lineno}


def module_of(filename: str) -> str:
    """The last two parts of the path of a source file: no user's home, no folder of a patient."""
    path = Path(filename)
    return f"{path.parent.name}.{path.stem}" if path.suffix == ".py" else WITHHELD
