"""Channel: what two processes of this program say to each other: a JSON object, and arrays of numbers behind it.

No pickle: what arrives can be wrong, but it cannot be code. Arrays are sent from where they lie and received where they
will stay.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medattn_edge.volume import Array

_LENGTH = struct.Struct("<I")
Message = Mapping[str, Any]


class Channel:
    """One end of a connected stream socket. Every method raises EOFError once the other end is gone.

    Attributes:
        waiting: called whenever the socket's own time limit has passed without progress; it may raise to give up.
    """

    def __init__(self, end: socket.socket, waiting: Callable[[], None] = lambda: None) -> None:
        self._end, self.waiting = end, waiting

    def send(self, message: Message, arrays: Sequence[Array] = ()) -> None:
        """Send JSON values, and C-contiguous arrays of any shape and any numbers."""
        kinds = [(array.dtype.str, array.shape) for array in arrays]
        text = json.dumps({"message": message, "arrays": kinds}).encode()
        self._write(memoryview(_LENGTH.pack(len(text)) + text))
        for array in arrays:
            if array.size:  # a view without bytes cannot be cast
                self._write(array.data.cast("B"))

    def receive(self) -> tuple[dict[str, Any], list[Array]]:
        """Wait for what the other end sends; the arrays are new ones."""
        (length,) = _LENGTH.unpack(self._read(memoryview(bytearray(_LENGTH.size))))
        head = json.loads(bytes(self._read(memoryview(bytearray(length)))))
        arrays = [np.empty(shape, np.dtype(kind)) for kind, shape in head["arrays"]]
        for array in arrays:
            if array.size:
                self._read(array.data.cast("B"))
        return head["message"], arrays

    def _write(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[self._end.send(rest) :]
            except TimeoutError:
                self.waiting()
            except ConnectionError as error:
                raise EOFError from error

    def _read(self, whole: memoryview) -> memoryview:
        rest = whole
        while rest:
            try:
                count = self._end.recv_into(rest)
            except TimeoutError:
                self.waiting()
                continue
            except ConnectionError as error:
                raise EOFError from error
            if count == 0:
                raise EOFError
            rest = rest[count:]
        return whole
