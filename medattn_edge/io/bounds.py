"""How much one file may ask for, before anything is reserved for it; and compressed data read to its last check sum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from medattn_edge.errors import ScanError

MOST_VOXELS = 1 << 31  # of a scan
MOST_INFLATED = 1 << 30  # bytes of a scan that may come out of a file of any size
_MOST_RATIO = 100  # above that: scans shrink to a half or a third, deflated zeros to a thousandth
_MOST_BEHIND = 1 << 20  # bytes behind the voxels that are read for the check sum's sake
_BLOCK = 1 << 20


def check_size(path: Path, sizes: Iterable[int], itemsize: int) -> int:
    """Check what a header promises.

    Args:
        path: of the file.
        sizes: along every axis.
        itemsize: bytes of a voxel.

    Returns:
        The bytes of all voxels.

    Raises:
        ScanError: for an axis without voxels, and for more than a scan has or the file can hold.
    """
    sizes = [int(size) for size in sizes]
    voxels = math.prod(sizes)
    if not sizes or min(sizes) < 1:
        raise ScanError(f"{path} has the shape {sizes}", expected="1 or more along every axis", hint="export it again")
    most = max(MOST_INFLATED, _MOST_RATIO * path.stat().st_size)
    if voxels > MOST_VOXELS or voxels * itemsize > most:
        raise ScanError(
            f"{path} promises {voxels:,} voxels, {voxels * itemsize:,} bytes, in a file of {path.stat().st_size:,}",
            expected=f"at most {MOST_VOXELS:,} voxels, and {most:,} bytes in a file of this size",
            hint="look for a damaged header, or split the scan",
        )
    return voxels * itemsize


def read_to_end(path: Path, stream: BinaryIO) -> None:
    """Read what is behind the voxels, so that the stream's own check sum is compared.

    Args:
        path: of the file, for the error.
        stream: decompresses, and raises when the check sum at its end is another.

    Raises:
        ScanError: when there is more than any writer leaves there.
    """
    behind = 0
    while block := stream.read(_BLOCK):
        behind += len(block)
        if behind > _MOST_BEHIND:
            raise ScanError(
                f"{path} has more than {_MOST_BEHIND:,} bytes behind its voxels",
                expected="a file that ends with its voxels",
                hint="export the scan again",
            )
