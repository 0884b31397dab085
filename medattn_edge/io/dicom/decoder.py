"""Decoder: compressed slices, decoded in a process of its own: libraries in C may crash or hang on damaged data."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.process import Child, ChildLost, Handler, Reply, serve
from medattn_edge.process.channel import Message
from medattn_edge.volume import Array

# For pydicom. The bits above the stored ones are kept for now: some writers put the padding value there.
AS_STORED: Mapping[str, Any] = MappingProxyType({"raw": True, "correct_unused_bits": False})
TIMEOUT_S = 60.0  # for one slice, the start of the process included: the slowest damaged one that was met took 4


class DecodingError(RuntimeError):
    """A slice that cannot be decoded; the text says what happened, without values of the header."""


class Decoder:
    """One child process, started when the first slice is asked for and kept for the next series.

    Without it a damaged file could end the program that reads it: GDCM 3.2.6 dies of SIGSEGV when the bits of a
    lossless JPEG's frame header are wrong. Threads take turns, one file after the other.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Start nothing yet.

        Args:
            timeout_s: the time limit of one slice, in s.
        """
        self._timeout_s, self._lock = timeout_s, threading.Lock()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    def frames(self, path: Path, plugin: str, wanted: Sequence[int]) -> Generator[Array]:
        """Frames of a file in the wanted order, (rows, columns), as stored; close the iterator to leave it early.

        Args:
            path: of the file.
            plugin: pydicom's name of the decoder.
            wanted: indices of frames.

        Raises:
            DecodingError: after which the iterator is at its end.
            HostError: when no process can be started.
        """
        opening = {"do": "open", "path": os.path.abspath(path), "plugin": plugin, "wanted": list(wanted)}  # noqa: PTH100
        with self._lock:
            child = self._alive()  # for the whole file: another one knows nothing of it
            self._ask(child, opening)
            for _ in wanted:
                [frame] = self._ask(child, {"do": "next"})
                yield frame

    def _ask(self, child: Child, request: Message) -> list[Array]:
        try:
            reply, arrays = child.ask(request, timeout_s=self._timeout_s)
        except ChildLost as lost:
            raise DecodingError(f"the decoder {lost.how}") from None
        if "failed" in reply:
            raise DecodingError(reply["failed"])
        return arrays

    def _alive(self) -> Child:
        """The child that is there, or a new one."""
        if self._child is None or not self._child.alive:
            self._child = Child(__name__)
        return self._child


def main(descriptor: int) -> NoReturn:
    """Decode for the other end of a socket, given by its file descriptor."""
    frames: Iterator[Array] = iter(())

    def start(request: Message, arrays: list[Array]) -> Reply:
        nonlocal frames
        frames = _read(Path(request["path"]), request["plugin"], request["wanted"])
        return {}, ()

    def following(request: Message, arrays: list[Array]) -> Reply:
        return {}, (next(frames),)

    serve(descriptor, {"open": _guarded(start), "next": _guarded(following)})


def _guarded(handler: Handler) -> Handler:
    """A handler whose errors of the slice are told by their type alone, without values of the header."""

    def handle(request: dict[str, Any], arrays: list[Array]) -> Reply:
        try:
            # Around each slice and not around the loop: a generator would leave warnings off for its caller.
            with quiet():
                return handler(request, arrays)
        except failures() as error:
            return {"failed": type(error).__name__}, ()

    return handle


def _read(path: Path, plugin: str, wanted: Sequence[int]) -> Iterator[Array]:
    from pydicom.pixels.utils import iter_pixels

    return iter_pixels(path, indices=wanted, decoding_plugin=plugin, **AS_STORED)
