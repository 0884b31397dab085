"""Several pieces of memory as one file that can be read and searched, without a copy of any."""

from __future__ import annotations

import io
import os
from typing import Any


class JoinedPieces(io.RawIOBase):
    """Read only. The pieces must not change meanwhile; closing it lets go of them."""

    name = ""  # pydicom asks every buffered file for one

    def __init__(self, *pieces: bytes | memoryview) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces]
        self._size = sum(len(piece) for piece in self._pieces)
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file; beyond the end there is nothing to read."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Copy what comes next, of one piece; 0 at the end."""
        at = self._at
        for piece in self._pieces:
            if at < len(piece):
                count = min(len(buffer), len(piece) - at)
                memoryview(buffer).cast("B")[:count] = piece[at : at + count]
                self._at += count
                return count
            at -= len(piece)
        return 0

    def close(self) -> None:
        """Let go of the pieces."""
        while self._pieces:
            self._pieces.pop().release()
        super().close()
