"""A sender that puts damaged data sets on the line, inside a protocol that is right."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

from tests.support.dicom_peers import AE_TITLE, CT, ENHANCED_CT, EXPLICIT


class Raw:
    """A connection that sends whatever bytes it is given; the protocol around them is right unless `write` is used."""

    CONTEXTS = ((CT, EXPLICIT), (ENHANCED_CT, EXPLICIT))

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *ended: object) -> None:
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def associate(self) -> None:
        """Ask for CT and enhanced CT. Raises EOFError when that is refused."""
        contexts = b"".join(
            _item(0x20, bytes([2 * number + 1, 0, 0, 0]) + _item(0x30, kind.encode()) + _item(0x40, syntax.encode()))
            for number, (kind, syntax) in enumerate(self.CONTEXTS)
        )
        user = _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.1"))
        titles = AE_TITLE.ljust(16).encode() + b"SCANNER".ljust(16)
        body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
        self.write(_pdu(1, body))
        kind, _ = self._read()
        if kind != 2:
            raise EOFError

    def store(self, source: Path | bytes, break_off: float = 1.0) -> int | None:
        """C-STORE the data set of a file, damaged or not; the status. break_off: the share that is sent; then None.

        Raises EOFError, or OSError, when the other side ends the association.
        """
        data = source.read_bytes() if isinstance(source, Path) else source
        sop_class, sop_uid = _element(data, 0x0016) or CT, _element(data, 0x0018) or "1.2.3"
        context = 3 if sop_class == ENHANCED_CT else 1
        command = b"".join(
            struct.pack("<HHL", 0, element, len(value)) + value
            for element, value in (
                (0x0002, _even(sop_class)),
                (0x0100, struct.pack("<H", 1)),
                (0x0110, struct.pack("<H", 7)),
                (0x0700, struct.pack("<H", 0)),
                (0x0800, struct.pack("<H", 1)),
                (0x1000, _even(sop_uid)),
            )
        )
        command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
        self.write(_pdu(4, struct.pack(">LBB", len(command) + 2, context, 3) + command))
        sent = _data_set(data)
        end = int(len(sent) * break_off)
        for start in range(0, max(end, 1), 16000):
            piece = sent[start : min(start + 16000, end)]
            last = 2 if start + 16000 >= len(sent) and break_off == 1 else 0
            self.write(_pdu(4, struct.pack(">LBB", len(piece) + 2, context, last) + piece))
        if break_off < 1:
            return None
        kind, body = self._read()
        if kind != 4:
            raise EOFError
        place = body.index(b"\0\0\x00\x09\x02\0\0\0") + 8
        return int.from_bytes(body[place : place + 2], "little")

    def _read(self) -> tuple[int, bytes]:
        head = self._exactly(6)
        return head[0], self._exactly(int.from_bytes(head[2:], "big"))

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self._socket.recv(count - len(found))
            if not piece:
                raise EOFError
            found += piece
        return found


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _even(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def _element(data: bytes, element: int) -> str:
    """A UID of group 8 in explicit VR, wherever it stands; empty when there is none that could be sent."""
    found = re.search(re.escape(struct.pack("<HH", 8, element) + b"UI") + rb"(?s:..)([0-9.]{3,64})", data)
    return found[1].decode() if found else ""


def _data_set(data: bytes) -> bytes:
    """What follows the file meta information; everything, when nobody can say where that ends."""
    if data[128:132] == b"DICM" and data[132:136] == struct.pack("<HH", 2, 0) and len(data) > 144:
        end = 144 + int.from_bytes(data[140:144], "little")
        if end < len(data):
            return data[end:]
    return data
