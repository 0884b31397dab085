"""Damaged DICOM files from whole ones: the same seed gives the same damage."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

# Elements whose values steer a reader: sizes, counts, geometry, identity, pixels.
_STEERING = (
    *(0x00020010, 0x00080016, 0x00080018, 0x0020000E, 0x0020000D, 0x00200052, 0x00080060, 0x00080008, 0x00280002),
    *(0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101, 0x00280102, 0x00280103),
    *(0x00281052, 0x00281053, 0x00200032, 0x00200037, 0x00209113, 0x00209116, 0x52009229, 0x52009230, 0x7FE00010),
)
_NASTY = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff",
    b"\0\0",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"SQ",
    b"UN",
)


def mutations(files: Sequence[Path], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, damaged bytes), `count` times, each made of one of the files; one to three damages each."""
    random = np.random.default_rng(seed)
    wholes = [Path(file).read_bytes() for file in files]
    # Where bytes are lost or added, a reader ends early: the damages that keep every place are asked for more often.
    kinds = sorted(DAMAGES) + 3 * sorted(_IN_PLACE)
    for number in range(count):
        data = bytearray(wholes[int(random.integers(len(wholes)))])
        done = [kinds[int(index)] for index in random.integers(len(kinds), size=int(random.integers(1, 4)))]
        for kind in done:
            if data:
                DAMAGES[kind](data, random)
        yield f"{number} of seed {seed}: {', '.join(done)}", bytes(data)


def _flip_bits(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(len(data), size=int(random.integers(1, 30))):
        data[place] ^= 1 << int(random.integers(8))


def _damage_header(data: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(min(len(data), 2500), size=int(random.integers(1, 12))):
        data[place] = int(random.integers(256))


def _cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(len(data))) :]


def _drop_bytes(data: bytearray, random: np.random.Generator) -> None:
    start = int(random.integers(len(data)))
    del data[start : start + int(random.integers(1, 300))]


def _add_bytes(data: bytearray, random: np.random.Generator) -> None:
    place = int(random.integers(len(data)))
    data[place:place] = random.bytes(int(random.integers(1, 300)))


def _repeat_bytes(data: bytearray, random: np.random.Generator) -> None:
    start = int(random.integers(len(data)))
    data[start:start] = data[start : start + int(random.integers(1, 2000))]


def _nasty_words(data: bytearray, random: np.random.Generator) -> None:
    for _ in range(int(random.integers(1, 4))):
        word = _NASTY[int(random.integers(len(_NASTY)))]
        place = int(random.integers(min(len(data), 4000)))
        data[place : place + len(word)] = word


def _damage_value(data: bytearray, random: np.random.Generator) -> None:
    """The value of one steering element becomes another of the same length, or digits."""
    place = _find(data, random)
    if place is None:
        return
    start = place + 8
    length = int(random.integers(1, 17))
    value = bytes(random.choice(list(b"0123456789.-e\\"), length).tolist()) if random.random() < 0.5 else None
    data[start : start + length] = value or random.bytes(length)


def _damage_length(data: bytearray, random: np.random.Generator) -> None:
    """The two and four bytes behind a tag, where its kind and length are."""
    place = _find(data, random)
    if place is not None:
        number = int(random.choice([0, 1, 2, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]))
        data[place + 4 : place + 8] = struct.pack("<L", number)


def _rename(data: bytearray, random: np.random.Generator) -> None:
    """One steering element becomes another one."""
    place = _find(data, random)
    if place is not None:
        data[place : place + 4] = _tag(_STEERING[int(random.integers(len(_STEERING)))])


def _find(data: bytearray, random: np.random.Generator) -> int | None:
    places = [place for tag in _STEERING if (place := data.find(_tag(tag))) >= 0]
    return places[int(random.integers(len(places)))] if places else None


def _damage_pixels(data: bytearray, random: np.random.Generator) -> None:
    """Some bytes far behind the header, where a codestream or a raw image is."""
    start = len(data) // 2
    for place in random.integers(start, len(data), size=int(random.integers(1, 40))):
        data[place] = int(random.integers(256))


def _damage_digits(data: bytearray, random: np.random.Generator) -> None:
    """Digits of the texts in the header: numbers stay numbers, UIDs stay UIDs."""
    places = [place for place in range(132, min(len(data), 2500)) if 48 <= data[place] <= 57]
    for place in random.choice(places, size=int(random.integers(1, 4))) if places else ():
        data[place] = 48 + int(random.integers(10))


def _tag(number: int) -> bytes:
    return struct.pack("<HH", number >> 16, number & 0xFFFF)


DAMAGES: dict[str, Callable[[bytearray, np.random.Generator], None]] = {
    "flipped bits": _flip_bits,
    "bytes of the header": _damage_header,
    "cut off": _cut,
    "bytes dropped": _drop_bytes,
    "bytes added": _add_bytes,
    "bytes repeated": _repeat_bytes,
    "nasty words": _nasty_words,
    "digits": _damage_digits,
    "pixels": _damage_pixels,
    "a value": _damage_value,
    "a length": _damage_length,
    "a tag": _rename,
}
_IN_PLACE = ("flipped bits", "digits", "pixels", "a value")
