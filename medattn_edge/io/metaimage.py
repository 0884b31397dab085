"""MetaImage (.mha, .mhd with its raw file), through SimpleITK. The image is (x, y, z) in LPS mm."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io.format import Format, unreadable
from medattn_edge.volume import Array, Volume

_HEADER_BYTES = 2**16
_DIRECTION = {"transformmatrix", "rotation", "orientation"}
_ORIGIN = {"offset", "position", "origin"}


def read(path: Path) -> Volume:
    """A volume (D, H, W) in the file's own type; several values a voxel are channels (C, D, H, W).

    Raises:
        ScanError: for a file that cannot be read, that is not 3-D, or whose voxels lie in another folder.
        GeometryError: when the header has no direction or no origin: ITK would make them up.
    """
    sitk: Any = importlib.import_module("SimpleITK")  # it has no types
    header = _header(path)
    _check(path, header)
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("MetaImageIO")  # only the decoder that the suffix promises
        reader.SetFileName(str(path))
        image: Any = reader.Execute()
    except RuntimeError as error:
        # ITK names its source files first, and the cause last.
        raise unreadable(path, "MetaImage", RuntimeError(str(error).strip().splitlines()[-1])) from error
    stored: Array = sitk.GetArrayFromImage(image)
    voxels = np.moveaxis(stored, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else stored
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = directions[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(voxels, affine)


def _header(path: Path) -> dict[str, str]:
    """The fields of the text header, names in lower case; it ends with ElementDataFile."""
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise unreadable(path, "MetaImage", error) from error
    for line in start.split(b"\n"):
        name, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            return fields
    raise unreadable(path, "MetaImage", ValueError("its header has no ElementDataFile"))


def _check(path: Path, header: dict[str, str]) -> None:
    """Refuse what cannot be one placed 3-D scan before its voxels are read."""
    data = header["elementdatafile"]
    if data.upper() != "LOCAL" and (data.upper().startswith("LIST") or Path(data).name != data or "%" in data):
        raise ScanError(
            f"{path} keeps its voxels in {data!r}",
            expected="voxels in the same file, or in one file beside it",
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
