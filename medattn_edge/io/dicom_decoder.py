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
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.channel import Channel, Message
from medattn_edge.child import attach, end, signal_name, spawn
from medattn_edge.io.dicom_files import failures, quiet
from medattn_edge.volume import Array

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
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._end: weakref.finalize[..., Decoder] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, None when there is none."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def frames(self, path: Path, plugin: str, wanted: Sequence[int]) -> Generator[Array]:
        """Frames of a file in the wanted order, (rows, columns), as stored; close the iterator to leave it early.

        plugin: pydicom's name of the decoder. Raises DecodingError, after which the iterator is at its end;
        EnvironmentProblem when no process can be started.
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
            what = _cause(process)
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
        if self._process is None or self._channel is None or self._process.poll() is not None:
            self._close()
            self._process, connection = spawn(__name__, {})
            connection.settimeout(_LOOK_SECONDS)
            self._channel = Channel(connection, self._look)
            self._end = weakref.finalize(self, end, self._process, connection)
        return self._process, self._channel

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._channel = self._end = None

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

    return iter_pixels(path, indices=wanted, raw=True, correct_unused_bits=False, decoding_plugin=plugin)


def _cause(process: subprocess.Popen[bytes]) -> str:
    """What ended a child."""
    try:
        code = process.wait(_LOOK_SECONDS)
    except subprocess.TimeoutExpired:  # it has closed its end: nothing will come any more
        return "the decoder closed its connection"
    return f"the decoder crashed: {signal_name(-code)}" if code < 0 else f"the decoder ended with exit code {code}"
