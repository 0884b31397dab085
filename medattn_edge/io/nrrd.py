"""NRRD, through pynrrd, and 3D Slicer's segmentations (.seg.nrrd). Header axes run from the fastest to the slowest."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io.bounds import check_size, read_to_end
from medattn_edge.io.colours import RGB, colour_of
from medattn_edge.io.format import Format, Regions, check_calibrated, unreadable
from medattn_edge.io.organs import label_colours
from medattn_edge.volume import Array, Volume

_TO_LPS = {
    ("left-posterior-superior", "lps"): (1, 1, 1),
    ("right-anterior-superior", "ras"): (-1, -1, 1),
    ("left-anterior-superior", "las"): (1, -1, 1),
}
_SIGNS = {spelling: signs for spellings, signs in _TO_LPS.items() for spelling in spellings}
# What pynrrd raises for damaged files, beside its own error.
_FAILURES = (
    *(OSError, EOFError, zlib.error, MemoryError, StopIteration),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
)
_UNPACK: Mapping[str, Callable[[BinaryIO], Any]] = MappingProxyType(
    {name: lambda file: gzip.GzipFile(fileobj=file) for name in ("gzip", "gz")}
    | {name: lambda file: bz2.BZ2File(file) for name in ("bzip2", "bz2")}
)
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
_SIZES = {"char": 1, "short": 2, "long": 8, "double": 8}  # float and int are 4
_SEGMENTATION = {
    "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
    "Segmentation_MasterRepresentation": "Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset": "0 0 0",
}
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}


def read(path: Path) -> Volume:
    """One scan on three spatial axes; an axis without a direction is the channel axis of (C, D, H, W).

    Raises:
        ScanError: for data in another file, overlapping segments and time series.
        GeometryError: when the header does not say where the patient's left is.
    """
    return _read(path, _check)


def read_regions(path: Path) -> Regions | None:
    """The segments of a segmentation of 3D Slicer, in whatever layers, or the maps of a list axis and their `names`."""
    volume, header = _read(path, _check_whole), _pairs(path)
    try:
        segments = [_segment(header, number) for number in range(_count_segments(header))]
    except ValueError as error:
        raise unreadable(path, "segmentation", error) from error
    if segments:
        layers = volume.voxels.reshape(-1, *volume.shape)
        beyond = [name for name, layer, _ in segments if not 0 <= layer < len(layers)]
        if beyond:
            raise ScanError(
                f"{path} has the segment {beyond[0]} in a layer that is not there",
                expected=f"{len(layers)} layers at most",
                hint="save it again from 3D Slicer",
            )
        maps = np.stack([layers[layer] == value for _, layer, value in segments]).astype(np.uint8)
        return volume.with_voxels(maps), tuple(name for name, _, _ in segments)
    if volume.voxels.ndim != 4:
        return None
    names = tuple(header.get("names", "").split("|"))
    return volume, names if len(names) == volume.channels else ("",) * volume.channels


def _read(path: Path, check: Callable[[Path, Mapping[str, Any]], None]) -> Volume:
    import nrrd

    try:
        with path.open("rb") as file:
            header = nrrd.read_header(file)
            check(path, header)
            voxels = _voxels(path, header, file)
        directions = _directions(header)
        channel = _channel_axis(path, header, directions)
        affine = _affine(path, header, directions)
    except (*_FAILURES, nrrd.NRRDError) as error:
        raise unreadable(path, "NRRD", error) from error
    if channel is not None:
        voxels = np.moveaxis(voxels, voxels.ndim - 1 - channel, 0)
    return Volume(voxels.astype(voxels.dtype.newbyteorder("="), copy=False), affine)


def _pairs(path: Path) -> dict[str, str]:
    """The header's keys and values: pynrrd leaves out the letters that are not ASCII."""
    with path.open("rb") as file:
        header = takewhile(lambda line: line.strip(), file)
        lines = [line.decode("utf-8", "replace").rstrip("\r\n") for line in header]
    return dict(line.split(":=", 1) for line in lines if ":=" in line)


def _count_segments(header: Mapping[str, str]) -> int:
    return sum(re.fullmatch(r"Segment\d+_ID", key) is not None for key in header)


def _segment(header: Mapping[str, str], number: int) -> tuple[str, int, int]:
    """The name, the layer and the value in it of a segment."""
    of = f"Segment{number}_"
    return header.get(of + "Name", ""), int(header.get(of + "Layer", 0)), int(header.get(of + "LabelValue", 1))


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Labels; a name that ends in .seg.nrrd also gets the names and colours that 3D Slicer shows."""
    segments = _segments(volume.voxels, names) if path.name.lower().endswith(".seg.nrrd") else {}
    _write(path, volume, segments)


def write_maps(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """(C, D, H, W) with the channels as the slowest axis, a list; their names are the key `names`."""
    _write(path, volume, {"names": "|".join(map(_one_line, names))})


def write_regions(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Maps along a list axis: 3D Slicer's layers, each with one segment, in .seg.nrrd; else with the key `names`."""
    if not path.name.lower().endswith(".seg.nrrd"):
        _write(path, volume, {"names": "|".join(map(_one_line, names))})
        return
    pairs, colours = dict(_SEGMENTATION), label_colours(["", *names])
    for number, (mask, name) in enumerate(zip(volume.voxels, names, strict=True)):
        segment = (_one_line(name), colours[number + 1])
        pairs |= _segment_fields(number, segment, number + 1, mask, layer=number)
    _write(path, volume, pairs, layers_first=True)


def _check(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse what cannot be one scan before its voxels are read."""
    _check_whole(path, header)
    layers = {value for key, value in header.items() if re.fullmatch(r"Segment\d+_Layer", key)}
    if len(layers) > 1 or (header["dimension"] > 3 and any(key.startswith("Segment0_") for key in header)):
        raise ScanError(
            f"{path} has segments that overlap, in {max(len(layers), 1)} layers",
            expected="one label per voxel",
            hint="in 3D Slicer: Segmentations, Export to new labelmap, and save that as .nrrd",
        )


def _check_whole(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse voxels that lie elsewhere, and time series."""
    if "data file" in header or "datafile" in header:
        raise ScanError(
            f"{path} keeps its voxels in another file",
            expected="header and voxels in one file",
            hint="save it from 3D Slicer as .nrrd",
        )
    kinds = {kind.lower() for kind in header.get("kinds", ())}
    if kinds & {"time", "complex"}:
        raise ScanError(
            f"{path} has an axis of the kind {', '.join(sorted(kinds & {'time', 'complex'}))}",
            expected="one 3-D scan, or its channels as a list axis",
            hint="export one time point",
        )
    skips = {key: header[key] for key in _SKIPS if int(header.get(key, 0)) not in (0, -1)}
    if skips:
        raise ScanError(
            f"{path} has {', '.join(f'{key}: {value}' for key, value in skips.items())} in front of its voxels",
            expected="voxels that begin behind the header",
            hint="save it from 3D Slicer as .nrrd",
        )


def _voxels(path: Path, header: Mapping[str, Any], file: BinaryIO) -> Array:
    """The array, slowest axis first; of compressed voxels no more than the header says, and their check sum."""
    import nrrd

    size = check_size(path, header["sizes"], _itemsize(header["type"]))
    fields, source = header, file
    if unpack := _UNPACK.get(str(header["encoding"]).lower()):
        with unpack(file) as stream:
            data = stream.read(size)
            read_to_end(path, stream)
        if len(data) < size:
            raise EOFError(f"{len(data):,} bytes of voxels where {size:,} are needed")
        fields, source = {**header, "encoding": "raw"}, io.BytesIO(data)
    voxels: Array = nrrd.read_data(fields, source, str(path), index_order="C")
    return voxels


def _itemsize(kind: str) -> int:
    """Bytes of one of NRRD's many names of types, such as `short int`, `uint8_t` or `double`."""
    if bits := re.search(r"\d+", kind):
        return int(bits[0]) // 8
    return next((size for word, size in _SIZES.items() if word in kind), 4)


def _directions(header: Mapping[str, Any]) -> Array:
    """(axes, 3): the step of every header axis, fastest first; a row of NaN where it has none."""
    rows = header.get("space directions")
    rows = () if rows is None else rows
    return np.array([(np.nan,) * 3 if row is None else row for row in rows], dtype=np.float64).reshape(-1, 3)


def _channel_axis(path: Path, header: Mapping[str, Any], directions: Array) -> int | None:
    """The header axis that is not in space, or None."""
    without = [axis for axis, row in enumerate(directions) if np.isnan(row).all()]
    if len(directions) and (len(directions) - len(without) != 3 or len(without) > 1):
        sizes = " x ".join(str(size) for size in header["sizes"])
        raise ScanError(
            f"{path} has {len(directions)} axes, {sizes}, {len(without)} of them not in space",
            expected="three axes in space, and at most one of channels",
            hint="export one 3-D scan",
        )
    return without[0] if without else None


def _affine(path: Path, header: Mapping[str, Any], directions: Array) -> Array:
    """(d, h, w) to LPS mm."""
    space = str(header.get("space", "")).lower()
    units = [unit.lower() for unit in header.get("space units", ("mm",) * 3)]
    if space not in _SIGNS or not len(directions) or "space origin" not in header or set(units) - set(_MM):
        fields = [f"{key}: {header[key]}" for key in ("space", "space units", "spacings") if key in header]
        raise GeometryError(
            f"{path} does not say where the patient's left is ({', '.join(fields) or 'no space'})",
            expected="the fields space (LPS, RAS or LAS), space directions and space origin, in mm",
            hint="load it in 3D Slicer, check which side is left, and save it as .nrrd",
        )
    affine = np.eye(4)
    affine[:3, :3] = directions[~np.isnan(directions).all(axis=1)][::-1].T
    affine[:3, 3] = header["space origin"]
    affine[:3] *= np.multiply(_SIGNS[space], [_MM[unit] for unit in units])[:, None]
    return affine


def _segments(labels: Array, names: Sequence[str]) -> dict[str, str]:
    """3D Slicer's fields, for every named label and every label in use but the background."""
    fields = dict(_SEGMENTATION)
    values = sorted({*range(1, len(names)), *np.unique(labels).tolist()} - {0})
    colours = label_colours(names)
    for number, value in enumerate(values):
        name = _one_line(names[value]) if value < len(names) else f"label_{value}"
        fields |= _segment_fields(number, (name, colour_of(colours, value)), value, labels == value)
    return fields


def _segment_fields(
    number: int, segment: tuple[str, RGB], value: int, mask: Array, layer: int | None = None
) -> dict[str, str]:
    """Of the segment `number`, from 0, with its name and colour, which has a label's value or a layer of its own."""
    fields = {
        "ID": f"Segment_{value}",
        "Name": segment[0],
        "LabelValue": str(value if layer is None else 1),
        "Layer": str(layer or 0),
        "Extent": _extent(mask),
        "Color": " ".join(f"{channel / 255:.6g}" for channel in segment[1]),
    }
    return {f"Segment{number}_{key}": text for key, text in fields.items()}


def _extent(mask: Array) -> str:
    """First and last index of i, j, k that the mask touches; last before first when it is empty."""
    ends = []
    for axis in (2, 1, 0):
        touched = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        ends += [touched[0], touched[-1]] if len(touched) else [0, -1]
    return " ".join(map(str, ends))


def _one_line(name: str) -> str:
    """A name that cannot end its header line."""
    return " ".join(name.split())


def _write(path: Path, volume: Volume, pairs: Mapping[str, str], layers_first: bool = False) -> None:
    """Written here, not by pynrrd: its header holds the time of writing and only ASCII names.

    layers_first: channels are the fastest axis, as 3D Slicer keeps the layers of a segmentation; else the slowest.
    """
    check_calibrated(path, volume)
    ordered = np.moveaxis(volume.voxels, 0, -1) if layers_first else volume.voxels
    voxels = np.ascontiguousarray(ordered, dtype=volume.voxels.dtype.newbyteorder("<"))
    vectors = ["(" + ",".join(f"{value:.17g}" for value in column) + ")" for column in volume.affine[:3].T]
    space, lists = vectors[2::-1], ["none"] * (voxels.ndim - 3)
    kinds, list_kinds = ["domain"] * 3, ["list"] * len(lists)
    fields = {
        "type": {"f": "float", "u": f"uint{8 * voxels.itemsize}"}[voxels.dtype.kind],
        "dimension": voxels.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels.shape[::-1])),
        "space directions": " ".join(lists + space if layers_first else space + lists),
        "kinds": " ".join(list_kinds + kinds if layers_first else kinds + list_kinds),
        "endian": "little",
        "encoding": "gzip",
        "space origin": vectors[3],
    }
    lines = ["NRRD0005", *(f"{key}: {value}" for key, value in fields.items())]
    lines += [f"{key}:={value}" for key, value in pairs.items()]
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            packed.write(voxels.data)


FORMAT = Format(
    "nrrd",
    (".nrrd", ".seg.nrrd"),
    "nrrd",
    ("nrrd",),
    read,
    write_labels,
    write_maps,
    write_regions=write_regions,
    read_regions=read_regions,
)
