"""MetaImage (.mha, .mhd with its raw file), through SimpleITK. The image is (x, y, z) in LPS mm."""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io.bounds import check_size
from medattn_edge.io.format import Format, unreadable
from medattn_edge.volume import Array, Volume

_HEADER_BYTES = 2**16
_BLOCK = 2**20
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_DIRECTION = {"transformmatrix", "rotation", "orientation"}
_ORIGIN = {"offset", "position", "origin"}


def read(path: Path) -> Volume:
    """A volume (D, H, W) in the file's own type; several values a voxel are channels (C, D, H, W).

    Raises:
        ScanError: for a file that cannot be read, that is not 3-D, or whose voxels lie in another folder.
        GeometryError: when the header has no direction or no origin: ITK would make them up.
    """
    sitk: Any = importlib.import_module("SimpleITK")  # it has no types
    header, start = _header(path)
    _check(path, header)
    data = _data_file(path, header)
    local = data == path
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("MetaImageIO")  # only the decoder that the suffix promises
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        channels = reader.GetNumberOfComponents()
        kind = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID(), channels)).dtype
        size = check_size(data, (*reader.GetSize(), channels), kind.itemsize)
        if _is_set(header, "compresseddata"):
            order = ">" if _is_set(header, "binarydatabyteordermsb") or _is_set(header, "elementbyteordermsb") else "<"
            packed = _unpacked(data, start if local else 0, size)
            stored: Array = np.frombuffer(packed, kind.newbyteorder(order)).astype(kind, copy=False)
            stored = stored.reshape(*reader.GetSize()[::-1], *((channels,) if channels > 1 else ()))
        else:
            stored = sitk.GetArrayFromImage(reader.Execute())
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, "MetaImage", error) from error
    except RuntimeError as error:
        # ITK names its source files first, and the cause last.
        raise unreadable(path, "MetaImage", RuntimeError(str(error).strip().splitlines()[-1])) from error
    voxels = np.moveaxis(stored, -1, 0) if channels > 1 else stored
    directions = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = directions[:, ::-1]
    affine[:3, 3] = reader.GetOrigin()
    return Volume(voxels, affine)


def _is_set(header: dict[str, str], name: str) -> bool:
    """A flag of the header, as MetaIO takes it: by its first letter."""
    return header.get(name, "")[:1].lower() in ("t", "1")


def _unpacked(path: Path, start: int, size: int) -> bytearray:
    """Compressed voxels, inflated here: ITK goes on where their check sum is wrong, with whatever was in its memory.

    Args:
        path: of the file that they are in.
        start: where they begin.
        size: how many bytes they have to become.

    Raises:
        zlib.error, EOFError: for data that is damaged or cut off.
        ScanError: for more or fewer bytes than the header promises.
    """
    inflate, voxels = zlib.decompressobj(_ZLIB_OR_GZIP), bytearray()
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(_BLOCK)
        while block and not inflate.eof and len(voxels) <= size:
            voxels += inflate.decompress(block, _BLOCK)
            block = inflate.unconsumed_tail or file.read(_BLOCK)
    if not inflate.eof:  # what it still holds
        voxels += inflate.decompress(b"", _BLOCK)
    if len(voxels) <= size and not inflate.eof:
        raise EOFError(f"its compressed voxels end after {len(voxels):,} of {size:,} bytes")
    if len(voxels) != size:
        raise ScanError(
            f"{path} has {'more' if len(voxels) > size else 'fewer'} bytes of voxels than its header promises",
            expected=f"{size:,} bytes",
            hint="export the scan again",
        )
    return voxels


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the text header, names in lower case, and where it ends: behind the line of ElementDataFile."""
    fields: dict[str, str] = {}
    end = 0
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise unreadable(path, "MetaImage", error) from error
    for line in start.split(b"\n"):
        end += len(line) + 1
        name, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            return fields, end
    raise unreadable(path, "MetaImage", ValueError("its header has no ElementDataFile"))


def files_of(path: Path) -> tuple[Path, ...]:
    """The header, and the file with its voxels where that is another; raises ScanError as `read` does."""
    header, _ = _header(path)
    _check(path, header)
    return tuple(dict.fromkeys((path, _data_file(path, header))))


def _data_file(path: Path, header: dict[str, str]) -> Path:
    data = header["elementdatafile"]
    return path if data.upper() == "LOCAL" else path.with_name(data)


def _check(path: Path, header: dict[str, str]) -> None:
    """Refuse what cannot be one placed 3-D scan before its voxels are read."""
    data = header["elementdatafile"]
    if data.upper() != "LOCAL" and (data.upper().startswith("LIST") or Path(data).name != data or "%" in data):
        raise ScanError(
            f"{path} keeps its voxels in {data!r}",
            expected="voxels in the same file, or in one file beside it",
            hint="save it as one .mha: SimpleITK.WriteImage(image, 'scan.mha')",
        )
    if _is_set(header, "compresseddata") and header.get("headersize", "0") != "0":
        raise ScanError(
            f"{path} has HeaderSize = {header['headersize']} in front of compressed voxels",
            expected="compressed voxels from the first byte of their file",
            hint="save it as one .mha: SimpleITK.WriteImage(image, 'scan.mha')",
        )
    if header.get("ndims") != "3":
        raise ScanError(
            f"{path} has {header.get('ndims', 'no')} dimensions",
            expected="one 3-D scan",
            hint="save one volume as .mha",
        )
    missing = [names for names in (_DIRECTION, _ORIGIN) if not names & set(header)]
    if missing:
        raise GeometryError(
            f"{path} does not say where its voxels are: no {' and no '.join(min(names) for names in missing)}",
            expected="the fields TransformMatrix and Offset",
            hint="convert it again from DICOM, or, where a viewer shows it the right way round, save it from there",
        )


FORMAT = Format("metaimage", (".mha", ".mhd"), "itk", ("SimpleITK",), read, None, None)
