"""Pictures, through Pillow: one slice without millimetres."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import ScanError, UsageError, quoted
from medattn_edge.io.colours import label_colour
from medattn_edge.io.format import PICTURE_AFFINE, Format, unreadable
from medattn_edge.volume import Array, Volume

_PALETTE = bytes(channel for value in range(256) for channel in label_colour(value))


def read(path: Path) -> Volume:
    """Grey (1, H, W) as uint8 or uint16, colour (3, 1, H, W) as uint8, in pixels.

    A PNG with exactly the palette of `write_labels` is a label map: its indices (1, H, W).

    Raises:
        ScanError: for transparency, CMYK, 16-bit colour, an animation, and a picture too large to be one.
    """
    from PIL import Image

    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Only the decoders that the suffixes promise: Pillow has dozens, and some are old.
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                pixels = _pixels(path, picture)
    except (*too_large, OSError, EOFError, SyntaxError, ValueError, MemoryError, struct.error, zlib.error) as error:
        raise unreadable(path, "picture", error) from error
    voxels = np.moveaxis(pixels, -1, 0)[:, None] if pixels.ndim == 3 else pixels[None]
    return Volume(voxels, PICTURE_AFFINE, calibrated=False)


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """A PNG whose palette shows each label in its colour and whose indices are the label values."""
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise UsageError(
            f"{path.name!r} would change the labels: JPEG is lossy", expected="a .png", hint=quoted(f"{path.stem}.png")
        )
    if volume.shape[0] != 1 or volume.voxels.max() > 255:
        raise UsageError(
            f"labels of shape {volume.shape} up to {volume.voxels.max()} do not fit a picture",
            expected="one slice (D = 1) and values up to 255",
            hint=f"{quoted(path.stem + '.nii.gz')} for a scan, {quoted(path.stem + '.npz')} for a picture",
        )
    picture = Image.fromarray(np.ascontiguousarray(volume.voxels[0], dtype=np.uint8))
    picture.putpalette(_PALETTE)
    with replacing(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="PNG")


def _pixels(path: Path, picture: Any) -> Array:
    """(H, W) or (H, W, 3)."""
    from PIL import ImageOps

    # Pillow would drop the lower 8 bits of 16-bit colour without a word; only the decoder's raw mode shows it.
    deep = picture.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile.args) for tile in picture.tile)
    frames = getattr(picture, "n_frames", 1)
    picture.load()
    if frames > 1 or deep or picture.mode not in ("1", "L", "I;16", "I", "RGB", "P", "LA", "PA", "RGBA"):
        what = f"{frames} frames" if frames > 1 else f"{'16-bit ' if deep else ''}{picture.mode} pixels"
        raise ScanError(
            f"{path} has {what}",
            expected="one picture of 8- or 16-bit grey or 8-bit colour",
            hint="save it again as grey or RGB, without layers",
        )
    if picture.format != "PNG":
        # A camera stores its turn beside the pixels; a PNG is what a viewer made of it.
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "P" and bytes(picture.getpalette()) == _PALETTE:
        return np.array(picture)
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = _opaque(path, picture)
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGB")
    pixels: Array = np.array(picture)
    # A 1-bit picture keeps its 0 and 1; 16-bit grey is held in 32 bits by some versions of Pillow.
    return pixels.astype({"1": np.uint8, "I": np.uint16}.get(picture.mode, pixels.dtype), copy=False)


def _opaque(path: Path, picture: Any) -> Any:
    """The picture without its alpha channel, which must say that nothing is transparent."""
    if picture.mode not in ("I;16", "I") and picture.convert("RGBA").getextrema()[3] == (255, 255):
        return picture.convert("L" if picture.mode in ("L", "LA") else "RGB")
    raise ScanError(
        f"{path} has transparent pixels",
        expected="a picture that is opaque everywhere",
        hint="save it again without transparency",
    )


FORMAT = Format("image", (".png", ".jpg", ".jpeg"), "image", ("PIL",), read, write_labels, None)
