"""An encoder for lossless JPEG (process 14, first-order prediction), the usual compression of CT archives."""

from __future__ import annotations

import struct

import numpy as np

_BITS = 5  # of the code of every category: 17 categories, no code of ones only


def encode(picture: np.ndarray) -> bytes:
    """One stream of a picture (rows, columns) of unsigned words; slow, for pictures of some thousand pixels."""
    values = picture.astype(np.int64)
    precision = 8 * picture.itemsize
    before = np.empty_like(values)
    before[:, 1:] = values[:, :-1]  # the neighbour to the left
    before[1:, 0] = values[:-1, 0]  # the neighbour above, where there is none to the left
    before[0, 0] = 1 << precision - 1
    steps = (values - before + 32768) % 65536 - 32768
    body = _packed("".join(_code(int(step)) for step in steps.ravel()))
    table = bytes(17 if length == _BITS else 0 for length in range(1, 17)) + bytes(range(17))
    rows, columns = picture.shape
    return b"".join(
        (
            b"\xff\xd8",
            b"\xff\xc4" + struct.pack(">HB", 3 + len(table), 0) + table,
            b"\xff\xc3" + struct.pack(">HBHHB3B", 11, precision, rows, columns, 1, 1, 0x11, 0),
            b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0),
            body,
            b"\xff\xd9",
        )
    )


def _code(step: int) -> str:
    """The bits of one difference: its category, then its place in it; -32768 is a category of its own."""
    category = 16 if step == -32768 else abs(step).bit_length()
    if category in (0, 16):
        return f"{category:0{_BITS}b}"
    return f"{category:0{_BITS}b}" + f"{step if step > 0 else step + (1 << category) - 1:0{category}b}"


def _packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
