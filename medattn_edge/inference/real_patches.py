"""Real patches: what an artifact is checked on, from the scans that were given or from the CT that slicerio ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medattn_edge.data.samples import sample_scan
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.samples import sample_patches
from medattn_edge.io import as_scan, read_volume
from medattn_edge.io.channels import AnyScan
from medattn_edge.spec import ModelSpec


def real_patches(spec: ModelSpec, scans: Sequence[AnyScan], count: int) -> dict[str, Floats]:
    """Patches of real scans.

    Args:
        spec: what the network expects. The shipped CT has one channel, which is repeated for networks that want more.
        scans: files or DICOM folders, those of several channels joined by `+`; none for the CT that slicerio ships.
        count: patches of each scan, at most.

    Returns:
        Name of the scan -> float32 (n, C, *patch). Scans of one name in several folders have their whole paths.

    Raises:
        UsageError: for a count below 1, and for a scan that comes twice.
        ScanError: for a scan that cannot be read or prepared.
        MissingDependency: when there is no scan and slicerio is not installed.
    """
    if scans:
        chosen = [as_scan(scan) for scan in scans]
        places = [tuple(path.resolve() for path in scan.paths) for scan in chosen]
        if len(set(places)) < len(places):
            raise UsageError("a scan comes twice", expected="each scan once", hint="--scan SCAN --scan ANOTHER")
        names = [scan.described(spec) for scan in chosen]
        unique = len(set(names)) == len(names)
        keys = names if unique else ["+".join(map(str, paths)) for paths in places]
        return {key: sample_patches(scan.read_for(spec), spec, count) for key, scan in zip(keys, chosen, strict=True)}
    try:
        shipped = sample_scan()
    except MissingDependency as error:
        raise MissingDependency(error.found, expected=error.expected, hint=f"--scan SCAN, or {error.hint}") from error
    volume = read_volume(shipped)
    if spec.in_channels > 1:
        volume = replace(volume, voxels=np.stack([volume.voxels] * spec.in_channels))
    return {shipped.name: sample_patches(volume, spec, count)}
