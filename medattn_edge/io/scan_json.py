"""Scans as JSON, for another process of this program: what was found in their headers goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medattn_edge.errors import UsageError
from medattn_edge.io.channels import ChannelScan
from medattn_edge.io.dicomweb.address import Archive, Credentials
from medattn_edge.io.dicomweb.query import ListedSeries
from medattn_edge.io.dicomweb.scan import ArchivedScan
from medattn_edge.io.listed_channels import ListedChannels
from medattn_edge.io.scan import Scan

if TYPE_CHECKING:
    from medattn_edge.io.dicom.geometry import Grid
    from medattn_edge.io.dicom.planes import ImagePlane
    from medattn_edge.io.dicom.series import Series

_FILES: Final = ("ca", "certificate", "key")
_OF_ARCHIVE: Final = ("url", "timeout_s", *_FILES)  # the credentials are written as what is sent


def scan_to_json(scan: Scan) -> dict[str, Any]:
    """A scan as plain JSON values, of a DICOM series with its identifiers: for a process of ours only.

    Of an archive's series its credentials are in it too, and nothing of what was retrieved.

    Raises:
        UsageError: for a kind of scan that another process cannot be told of.
    """
    if type(scan) is Scan:
        series = scan.wanted if isinstance(scan.wanted, str) else _plain(scan.wanted)
        return {
            "kind": "scan",
            "path": str(scan.path),
            "series": series,
            "pixel_spacing": list(scan.pixel_spacing),
            "geometry": scan.geometry,
            "volume": scan.volume,
        }
    if type(scan) is ListedChannels:
        first, *others = map(scan_to_json, scan.scans)
        names = scan.called[1:]
        return {
            "kind": "listed",
            "first": first,
            "others": dict(zip(names, others, strict=True)),
            "resample_to_first": scan.resample_to_first,
        }
    if type(scan) is ChannelScan:
        parts: Any = scan.given_parts
        if scan.called:
            parts = dict(zip(scan.called, map(scan_to_json, scan.scans), strict=True))
        return {
            "kind": "channels",
            "parts": parts,
            "pixel_spacing": list(scan.pixel_spacing),
            "resample_to_first": scan.resample_to_first,
        }
    if type(scan) is ArchivedScan:
        return {
            "kind": "archived",
            "archive": archive_to_json(scan.archive),
            "listed": asdict(scan.listed),
            "notes": list(scan.chosen_notes),
            "volume": scan.volume,
        }
    raise UsageError(
        f"a scan of the kind {type(scan).__name__} for several workers",
        expected="files or DICOM series, which another process can read",
        hint="--workers 1",
    )


def scan_from_json(value: Mapping[str, Any]) -> Scan:
    """The scan that `scan_to_json` wrote."""
    if value["kind"] == "listed":
        others = {name: scan_from_json(one) for name, one in value["others"].items()}
        return ListedChannels(scan_from_json(value["first"]), others, resample_to_first=value["resample_to_first"])
    if value["kind"] == "channels":
        parts, resample = value["parts"], value["resample_to_first"]
        if isinstance(parts, Mapping):
            scans = {name: scan_from_json(one) for name, one in parts.items()}
            return ChannelScan(scans, value["pixel_spacing"], resample_to_first=resample)
        return ChannelScan(parts, value["pixel_spacing"], resample_to_first=resample)
    if value["kind"] == "archived":
        listed = ListedSeries(**value["listed"])
        return ArchivedScan(archive_from_json(value["archive"]), listed, tuple(value["notes"]), volume=value["volume"])
    series = value["series"]
    return Scan(
        value["path"],
        series if isinstance(series, str) else _series(series),
        value["pixel_spacing"],
        geometry=value["geometry"],
        volume=value["volume"],
    )


def archive_to_json(archive: Archive) -> dict[str, Any]:
    """An archive as plain JSON values, with what it knows us by."""
    header = "" if archive.credentials is None else archive.credentials.header
    return {**{name: _plain(getattr(archive, name)) for name in _OF_ARCHIVE}, "authorization": header}


def archive_from_json(value: Mapping[str, Any]) -> Archive:
    """The archive that `archive_to_json` wrote."""
    given = {**value, **{name: None if value[name] is None else Path(value[name]) for name in _FILES}}
    header = given.pop("authorization")
    return Archive(**given, credentials=Credentials(header) if header else None)


def _plain(value: Any) -> Any:
    """A record of ours as JSON values: records become objects, paths texts, arrays and tuples lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _series(value: Mapping[str, Any]) -> Series:
    from medattn_edge.io.dicom.series import Series

    grid = None if value["grid"] is None else _grid(value["grid"])
    rest = {"files": tuple(map(Path, value["files"])), "grid": grid, "notes": tuple(value["notes"])}
    return Series(**{**value, **rest})


def _grid(value: Mapping[str, Any]) -> Grid:
    from medattn_edge.io.dicom.geometry import Grid

    affine = np.array(value["affine"], np.float64)
    affine.setflags(write=False)
    return Grid(tuple(map(_plane, value["planes"])), affine)


def _plane(value: Mapping[str, Any]) -> ImagePlane:
    from medattn_edge.io.dicom.planes import ImagePlane
    from medattn_edge.io.dicom.storage import Storage

    storage = value["storage"]
    padding = None if storage["padding"] is None else tuple(storage["padding"])
    vectors = {name: tuple(value[name]) for name in ("position", "right", "down", "spacing")}
    pairs = {name: tuple(map(tuple, value[name])) for name in ("kinds", "orders")}
    rest = {"path": Path(value["path"]), "storage": Storage(**{**storage, "padding": padding})}
    return ImagePlane(**{**value, **vectors, **pairs, **rest})
