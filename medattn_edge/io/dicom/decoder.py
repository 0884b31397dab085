"""Decoder: compressed slices, decoded in a process of its own: libraries in C may crash or hang on damaged data."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
import traceback
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.child import attach, end, ending, spawn
from medattn_edge.volume import Array

# For pydicom. The bits above the stored ones are kept for now: some writers put the padding value there.
AS_STORED: Mapping[str, Any] = MappingProxyType({"raw": True, "correct_unused_bits": False})
SECONDS = 60.0  # for one slice, the start of the process included: the slowest damaged one that was met took 4
_LOOK_SECONDS = 1.0


class DecodingError(RuntimeError):
    """A slice that cannot be decoded; the text says what happened, without values of the header."""


class Decoder:
    """One child process, started when the first slice is asked for and kept for the next series.

    Without it a damaged file could end the program that reads it: GDCM 3.2.6 dies of SIGSEGV when the bits of a
    lossless JPEG's frame header are wrong. Threads take turns, one file after the other.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        """seconds: the time limit of one slice."""
        self._seconds, self._deadline = seconds, 0.0
        self._lock = threading.Lock()
        self._held: tuple[subprocess.Popen[bytes], Channel, weakref.finalize[..., Decoder]] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, None when there is none."""
        held = self._held
        return None if held is None or held[0].poll() is not None else held[0].pid

    def frames(self, path: Path, plugin: str, wanted: Sequence[int]) -> Generator[Array]:
        """Frames of a file in the wanted order, (rows, columns), as stored; close the iterator to leave it early.

        plugin: pydicom's name of the decoder. Raises DecodingError, after which the iterator is at its end;
        HostError when no process can be started.
        """
        ask: Message = {"path": os.path.abspath(path), "plugin": plugin, "wanted": list(wanted)}  # noqa: PTH100
        with self._lock:
            process, channel = self._child()  # for the whole file: another one knows nothing of it
            for _ in wanted:
                yield self._answer(process, channel, ask)
                ask = {}

    def _answer(self, process: subprocess.Popen[bytes], channel: Channel, ask: Message) -> Array:
        self._deadline = time.monotonic() + self._seconds
        try:
            channel.send(ask)
            told, arrays = channel.receive()
        except EOFError:
            how = ending(process)
            what = f"the decoder {how}" if how else "the decoder closed its connection"
        except TimeoutError:
            what = f"no answer within {self._seconds:g} s"
        except BaseException:  # an interrupted call: its answer must not be taken for the next one's
            self._close()
            raise
        else:
            if "bug" in told:
                raise RuntimeError(f"in the process of the decoder:\n{told['bug']}")
            if "failed" in told:
                raise DecodingError(told["failed"])
            return arrays[0]
        self._close()
        raise DecodingError(what)

    def _child(self) -> tuple[subprocess.Popen[bytes], Channel]:
        """The child that is there, or a new one."""
        if self._held is not None and self._held[0].poll() is None:
            return self._held[:2]
        self._close()
        process, connection = spawn(__name__, {})
        connection.settimeout(_LOOK_SECONDS)
        channel = Channel(connection, self._look)
        self._held = process, channel, weakref.finalize(self, end, process, connection)
        return process, channel

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held[2]()

    def _look(self) -> None:
        """Called every second of waiting."""
        if time.monotonic() > self._deadline:
            raise TimeoutError


def main(descriptor: int) -> None:
    """Decode for the other end of a socket, given by its file descriptor; it never returns."""
    attach(descriptor)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError):
        _serve(Channel(connection))
    os._exit(0)


def _serve(channel: Channel) -> None:
    frames: Iterator[Array] = iter(())
    while True:
        asked, _ = channel.receive()
        arrays: list[Array] = []
        told: dict[str, Any] = {}
        try:
            # Around each slice and not around the loop: a generator would leave warnings off for its caller.
            with quiet():
                if asked:
                    frames = _read(Path(asked["path"]), asked["plugin"], asked["wanted"])
                arrays = [np.ascontiguousarray(next(frames))]
        except failures() as error:
            told = {"failed": type(error).__name__}
        except Exception:  # noqa: BLE001 - a bug, which the parent raises with this traceback
            told = {"bug": traceback.format_exc()}
        channel.send(told, arrays)


def _read(path: Path, plugin: str, wanted: Sequence[int]) -> Iterator[Array]:
    from pydicom.pixels.utils import iter_pixels

    return iter_pixels(path, indices=wanted, decoding_plugin=plugin, **AS_STORED)
