"""Format: the record that every file format's module has one of, named FORMAT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.volume import Volume

# A picture's pixels as if it were an axial slice: D steps to the head, H to the back, W to the left, one unit each.
PICTURE_AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

Regions = tuple[Volume, tuple[str, ...]]  # maps (K, D, H, W) and their names
Write = Callable[[Path, Volume, Sequence[str]], None]


@dataclass(frozen=True)
class Choice:
    """What decides where a file leaves a choice.

    Attributes:
        geometry: which of the header's forms says where the voxels are, "" for what the header itself prefers.
        volume: which of several volumes, from 1; 0 when there is to be only one.
    """

    geometry: str = ""
    volume: int = 0


@dataclass(frozen=True)
class Format:
    """How one kind of file becomes a Volume and back.

    The two writers put the file in place whole or not at all, and raise OutputError and UsageError.

    Attributes:
        name: of the format, one word.
        suffixes: lower case, with the dot; of all formats the longest suffix that ends the file's name wins.
        extra: the extra of pyproject.toml that installs `packages`, "" when numpy is enough and in other packages.
        packages: the import names of what it needs.
        read: the voxels as the file stores them, no reorientation; raises ScanError and GeometryError.
        write_labels: (path, labels (D, H, W) of an unsigned type, names with index = label value), or None when the
            format needs more than that.
        write_maps: (path, float32 (C, D, H, W), one name per channel), or None when the format has no place for them.
        write_regions: (path, uint8 (K, D, H, W) of 0 and 1, one name per region), or None when the format has room for
            one label per voxel only.
        read_regions: what `write_regions` writes, and other files with a map for each region: the maps and a name for
            each, empty where the file has none; None for a file with one label per voxel.
        default: whether it owns its suffixes when another format has them too.
        read_choice: `read` for a file that leaves a choice, None for a format whose files leave none.
        claims: whether it reads a folder, or a file whose name says nothing; None when only names count.
    """

    name: str
    suffixes: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    read: Callable[[Path], Volume]
    write_labels: Write | None
    write_maps: Write | None
    default: bool = True
    claims: Callable[[Path], bool] | None = None
    read_choice: Callable[[Path, Choice], Volume] | None = None
    write_regions: Write | None = None
    read_regions: Callable[[Path], Regions | None] | None = None


def unreadable(path: Path, kind: str, error: BaseException) -> ScanError:
    """The error for a file that its own library cannot read: cut off, damaged, or of another kind."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ScanError(
        f"{path} cannot be read: {reason[:200]}",
        expected=f"a whole {kind} file",
        hint="copy or export the file again; it may be cut off, or of another kind than its suffix says",
    )


def check_calibrated(path: Path, volume: Volume) -> None:
    """Check that a grid has millimetres: a patient format would have to make them up.

    Raises:
        UsageError: when it has none.
    """
    if not volume.calibrated:
        raise UsageError(
            f"{path.name} stores positions in mm, and the scan has none",
            expected="a format without positions for what came from a picture",
            hint="end the output in .npz, or .png for labels",
        )
