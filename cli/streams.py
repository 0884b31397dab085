"""stdout and stderr that may be closed, full, or a pipe that nobody reads: the work goes on; the exit code tells."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Guarded(io.TextIOBase):
    """A text stream whose failures are kept and not raised: what is said never stops what is done.

    Attributes:
        error: the first failure; None while all that was written has arrived.
    """

    def __init__(self, stream: TextIO | None, *, whole: bool) -> None:
        """Write to a stream, or to nothing where there is none.

        Args:
            stream: sys.stdout or sys.stderr; None when it was closed before the start.
            whole: nothing is written behind a gap: half a document is worth nothing. Otherwise every text is tried,
                because a disk may have room again.
        """
        self._stream, self._whole, self.error = stream, whole, None if stream else OSError(errno.EBADF, "it is closed")
        self._wrote = stream is not None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the bytes that come of the text."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What becomes of text that the encoding does not have."""
        return getattr(self._stream, "errors", None)

    @property
    def failure(self) -> OSError | None:
        """The first failure of something that was to be said."""
        return self.error if self._wrote else None

    def write(self, text: str) -> int:
        """Take all of it, whatever arrives."""
        self._wrote = self._wrote or bool(text)
        if self._stream is not None and not (self._whole and self.error):
            self._attempt(lambda: self._stream.write(text))  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Send what was buffered."""
        if self._stream is not None and not (self._whole and self.error):
            self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of what is written to; raises OSError when there is none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    def settle(self) -> None:
        """Flush, and where that fails leave nothing behind that Python would stumble over at its end."""
        self.flush()
        if self.error and self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                _lead_nowhere(self._stream.fileno())
                self._stream.flush()

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except OSError as error:
            self.error = self.error or error
        except ValueError:
            if self._stream is None or not self._stream.closed:
                raise  # about the text
            self.error = self.error or OSError(errno.EBADF, "it is closed")


@contextmanager
def guarded() -> Iterator[Guarded]:
    """sys.stdout and sys.stderr guarded, and the former given; both as before when the block ends."""
    _occupy()
    before = sys.stdout, sys.stderr
    out, err = Guarded(sys.stdout, whole=True), Guarded(sys.stderr, whole=False)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.settle()
        err.settle()
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Put nothing under 0, 1 and 2 where these are closed.

    The next file that is opened would get the number, and what libraries in C print would land in it.
    """
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(free, True)
    os.close(free)


def _lead_nowhere(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
