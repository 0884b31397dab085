"""How one DICOM file stores its voxels, as its header says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medattn_edge.installation import install_line
from medattn_edge.io.bounds import MOST_VOXELS
from medattn_edge.io.dicom.reasons import RefusedSeries

MOST_PIXELS = 1 << 26  # of a slice
MOST_FRAMES = 1 << 16

# One plug-in for each compression, the first that is there: never another one for the next slice. RLE by pydicom
# itself: pylibjpeg's decoder panics on damaged data, which is no Exception and would end the process.
_PREFERRED = ("pydicom", "pyjpegls", "pylibjpeg", "gdcm", "pillow")


@dataclass(frozen=True)
class Storage:
    """How one file stores its voxels.

    Attributes:
        syntax: the UID of the transfer syntax.
        encapsulated: whether the frames are compressed.
        rows: of a slice.
        columns: of a slice.
        frames: of the file.
        allocated: bits of a stored word.
        stored: bits of it that are used.
        signed: whether they have a sign.
        photometric: MONOCHROME1 or MONOCHROME2.
        padding: the stored values (low, high) that stand for no value, None when there are none.
        plugin: pydicom's name of the decoder, "" when none is needed or none is there.
    """

    syntax: str
    encapsulated: bool
    rows: int
    columns: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    padding: tuple[int, int] | None
    plugin: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed slice."""
        return self.rows * self.columns * self.allocated // 8

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and highest value that the stored bits can hold."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


def storage_of(dataset: Any, *, enhanced: bool) -> Storage:
    """The storage of a file's header.

    Raises:
        RefusedSeries: for what no scanner writes.
    """
    from pydicom.uid import UID

    uid = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    samples, photometric = int(dataset.SamplesPerPixel), str(dataset.PhotometricInterpretation)
    if samples != 1:
        raise RefusedSeries("rgb", f"{samples} samples a pixel")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedSeries("rgb" if "PALETTE" in photometric else "unsupported_pixels", "pixels that are not grey")
    rows, columns, allocated = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    stored, frames = int(dataset.BitsStored), int(dataset.get("NumberOfFrames") or 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or int(dataset.HighBit) != stored - 1:
        raise RefusedSeries("unsupported_pixels", f"{stored} bits in {allocated}, the highest {dataset.HighBit}")
    if int(dataset.PixelRepresentation) not in (0, 1):
        raise RefusedSeries("unsupported_pixels", f"a pixel representation of {int(dataset.PixelRepresentation)}")
    if min(rows, columns, frames) < 1 or (frames > 1 and not enhanced):
        raise RefusedSeries("unsupported_pixels", f"{frames} frames of {rows}x{columns}")
    if rows * columns > MOST_PIXELS or frames > MOST_FRAMES or rows * columns * frames > MOST_VOXELS:
        raise RefusedSeries("too_large", f"{frames} frames of {rows}x{columns}")
    known = uid.is_transfer_syntax
    return Storage(
        str(uid),
        known and bool(uid.is_encapsulated),
        rows,
        columns,
        frames,
        allocated,
        stored,
        bool(dataset.PixelRepresentation),
        photometric,
        _padding(dataset, allocated),
        _plugin(uid) if known and uid.is_encapsulated else "",
    )


def check_decoder(storage: Storage) -> None:
    """Check that something that is installed can decode the series.

    Raises:
        RefusedSeries: when nothing can; it says what to install.
    """
    from pydicom.uid import UID, AllTransferSyntaxes

    uid = UID(storage.syntax)
    if uid not in AllTransferSyntaxes:
        what = "an unknown transfer syntax" if storage.syntax else "no transfer syntax"
        raise RefusedSeries("unsupported_transfer_syntax", what, hint="send the series uncompressed")
    if storage.encapsulated and not storage.plugin:
        able = bool(_decoder(uid))
        hint = install_line("dicom-codecs") if able else "send the series uncompressed"
        raise RefusedSeries("unsupported_transfer_syntax", f"{uid.name}; {hint}", hint=hint)


def _decoder(uid: Any) -> Any:
    """pydicom's decoder for a transfer syntax, None when it has none at all."""
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return get_decoder(uid)
    except NotImplementedError:
        return None


def _plugin(uid: Any) -> str:
    decoder = _decoder(uid)
    able = decoder.available_plugins if decoder is not None and decoder.is_available else ()
    return next((name for name in _PREFERRED if name in able), "")


def _padding(dataset: Any, allocated: int) -> tuple[int, int] | None:
    """Lowest and highest padding value; writers disagree whether it has a sign, but not on its bits."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = int(value), int(value if limit is None or limit == "" else limit)
    if bool(dataset.PixelRepresentation):
        first, last = (_signed(number, allocated) for number in (first, last))
    else:
        first, last = (number % (1 << allocated) for number in (first, last))
    return min(first, last), max(first, last)


def _signed(number: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half
