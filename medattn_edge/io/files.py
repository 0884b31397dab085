"""Files to volumes and back, whatever the format."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medattn_edge.errors import MissingDependency, ScanError, UsageError, quoted
from medattn_edge.io.format import Choice, Format, Regions
from medattn_edge.nearby import missing
from medattn_edge.registry import records
from medattn_edge.volume import Volume


def formats() -> tuple[Format, ...]:
    """Every FORMAT record, ordered by name."""
    return records("medattn_edge.io", "FORMAT", "medattn_edge.formats")


def format_of(path: Path) -> Format:
    """The format that a file's name asks for.

    Raises:
        UsageError: naming the known suffixes, for any other.
    """
    owners = {suffix: form for form in formats() if form.default for suffix in form.suffixes}
    fitting = [suffix for suffix in owners if Path(path).name.lower().endswith(suffix)]
    if not fitting:
        raise UsageError(
            f"{Path(path).name!r} has no suffix that is known",
            expected=f"one of {', '.join(sorted(owners))}",
            hint=quoted(f"{Path(path).name.split('.')[0] or 'scan'}.nii.gz"),
        )
    return owners[max(fitting, key=len)]


def read_volume(path: Path, geometry: str = "", volume: int = 0) -> Volume:
    """The scan in a file or a DICOM folder, on its own grid: voxels (D, H, W) or (C, D, H, W), affine to LPS mm.

    Values are the file's own, scaled as its header says, and may be NaN.

    Args:
        path: its name decides the format; a folder is DICOM.
        geometry: for a NIfTI file whose two forms contradict each other, the one that is right: `sform` or `qform`.
        volume: for data of several volumes, which one, from 1; 0 expects a single one.

    Raises:
        UsageError: for an unknown suffix, and for a choice that the format does not leave.
        ScanError: for a file that cannot be used.
        GeometryError: for a file that does not say where its voxels are.
        MissingDependency: when a package that reads it is not installed.
    """
    path = Path(path)
    form = _claiming(path) or format_of(path)
    if not path.exists():
        raise missing(path, "a scan", ScanError)
    _require(form)
    if not geometry and not volume:
        return form.read(path)
    if form.read_choice is None:
        asked = f"--geometry {geometry}" if geometry else f"--volume {volume}"
        able = [other.name for other in formats() if other.read_choice is not None]
        raise UsageError(f"{asked} with {path.name!r}", expected=f"a scan of {' or '.join(able)}", hint="leave it out")
    return form.read_choice(path, Choice(geometry, volume))


def read_labels(path: Path, geometry: str = "") -> Volume:
    """The labels (D, H, W) in a file, as the smallest unsigned type that holds them.

    Args:
        path: as for `read_volume`.
        geometry: as for `read_volume`, for labels whose header is their scan's.

    Raises:
        ScanError: when a value is not a whole number from 0 up; and whatever `read_volume` raises.
    """
    return _as_labels(read_volume(path, geometry), str(path))


def read_regions(path: Path) -> Regions | None:
    """The maps uint8 (K, D, H, W) of 0 and 1 of a file with one for each region, and a name for each.

    A name is empty where the file has none. None for a file with one label per voxel, which `read_labels` reads.

    Raises:
        ScanError: when a map has other values than 0 and 1; and whatever `read_volume` raises.
    """
    path = Path(path)
    form = _claiming(path) or format_of(path)
    if form.read_regions is None:
        return None
    if not path.exists():
        raise missing(path, "labels", ScanError)
    _require(form)
    regions = form.read_regions(path)
    if regions is None:
        return None
    volume, names = regions
    if not np.isin(volume.voxels, (0, 1)).all():
        raise ScanError(
            f"{path} has maps with other values than 0 and 1",
            expected="a map of 0 and 1 for each region",
            hint="give regions, not probabilities or several scans",
        )
    return volume.with_voxels(volume.voxels.astype(np.uint8)), names


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Write labels on their own grid; the file appears whole or not at all.

    Args:
        path: its name decides the format.
        volume: the labels (D, H, W).
        names: names[value] is the name of a label value.

    Raises:
        UsageError: when the format cannot hold these labels.
        ScanError: when the values are not labels.
        OutputError: when the file cannot be written.
        MissingDependency: when a package that writes it is not installed.
    """
    form = format_of(path)
    check_labels_format(path)
    labels = _as_labels(volume, "the volume")
    _require(form)
    assert form.write_labels is not None
    form.write_labels(Path(path), labels, names)


def check_labels_format(path: Path) -> None:
    """Check that a name asks for a format that holds labels by themselves; worth saying before the work.

    Raises:
        UsageError: naming those that do, for any other.
    """
    form = format_of(path)
    if form.write_labels is None:
        able = [suffix for other in formats() if other.write_labels for suffix in other.suffixes]
        raise UsageError(
            f"{Path(path).name!r} needs the series that the labels belong to"
            if form.name == "dicom"
            else f"the format {form.name} of {Path(path).name!r} is only read",
            expected=f"one of {', '.join(able)}",
            hint="end the output in .nii.gz",
        )


def check_regions(path: Path) -> None:
    """Raise UsageError when the format of a file has room for one label per voxel only."""
    if format_of(path).write_regions is None:
        able = [suffix for other in formats() if other.write_regions for suffix in other.suffixes]
        raise UsageError(
            f"{Path(path).name!r} cannot hold regions that overlap",
            expected=f"one of {', '.join(able)}",
            hint="end the output in .nii.gz, or export the network with --region-order to make a label map",
        )


def write_regions(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Write regions that may overlap on their own grid; the file appears whole or not at all.

    Args:
        path: its name decides the format.
        volume: (K, D, H, W), 1 where a region is and 0 elsewhere.
        names: one per region.

    Raises:
        UsageError: when the format has room for one label per voxel only, or the names do not fit.
        OutputError: when the file cannot be written.
        MissingDependency: when a package that writes it is not installed.
    """
    check_regions(path)
    form = format_of(path)
    if volume.voxels.ndim != 4 or len(names) != volume.channels or not np.isin(volume.voxels, (0, 1)).all():
        raise UsageError(
            f"{len(names)} names for regions of shape {volume.voxels.shape}",
            expected="(K, D, H, W) of 0 and 1, and K names",
            hint="give one name per region",
        )
    _require(form)
    assert form.write_regions is not None
    form.write_regions(Path(path), volume.with_voxels(volume.voxels.astype(np.uint8, copy=False)), names)


def check_maps_format(path: Path) -> Format:
    """The format of a path that can hold maps; raises UsageError for one that cannot."""
    form = format_of(path)
    if form.write_maps is None:
        able = [suffix for other in formats() if other.write_maps for suffix in other.suffixes]
        raise UsageError(
            f"{Path(path).name!r} cannot hold maps", expected=f"one of {', '.join(able)}", hint="end the output in .npz"
        )
    return form


def write_maps(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Write maps, probabilities or attention, as float32 on their own grid; the file appears whole or not at all.

    Args:
        path: its name decides the format.
        volume: (C, D, H, W).
        names: one per channel.

    Raises:
        UsageError: when the format has no place for maps or the names do not fit.
        OutputError: when the file cannot be written.
        MissingDependency: when a package that writes it is not installed.
    """
    form = check_maps_format(path)
    assert form.write_maps is not None
    if volume.voxels.ndim != 4 or len(names) != volume.channels:
        raise UsageError(
            f"{len(names)} names for maps of shape {volume.voxels.shape}",
            expected="(C, D, H, W) and C names",
            hint="give one name per channel",
        )
    _require(form)
    form.write_maps(Path(path), volume.with_voxels(volume.voxels.astype(np.float32)), names)


def _claiming(path: Path) -> Format | None:
    """The format of a folder, or of a file whose suffix nobody knows; None when the name has to decide."""
    name = path.name.lower()
    if not path.is_dir() and any(name.endswith(suffix) for form in formats() for suffix in form.suffixes):
        return None
    return next((form for form in formats() if form.claims is not None and form.claims(path)), None)


def _as_labels(volume: Volume, where: str) -> Volume:
    """The same volume as the smallest unsigned type; raises ScanError when the values are not labels."""
    values = volume.voxels
    if values.ndim != 3:
        raise ScanError(
            f"{where} has {volume.channels} channels",
            expected="labels of one channel, the value of a voxel being its label",
            hint="save a label map, not a picture of one: grey values 0, 1, 2, ...",
        )
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise ScanError(
            f"{where} has values that are not whole numbers",
            expected="labels 0, 1, 2, ...",
            hint="give a label map, not a scan; resample labels with nearest neighbour",
        )
    low, high = (int(values.min()), int(values.max()))
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise ScanError(
            f"{where} has values {low}..{high}", expected="labels 0, 1, 2, ...", hint="give a label map, not a scan"
        )
    return volume.with_voxels(values.astype(np.min_scalar_type(high)))


def _require(form: Format) -> None:
    for package in form.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependency.of_extra(package, form.extra) from error
