"""A scan, and what its owner's own code made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import Scan, read_volume
from medattn_edge.io.scan import read_labels_of
from medattn_edge.volume import Volume

SUM_OF_ONE = 0.02  # probabilities of a softmax sum up to 1, those kept in 8 bits nearly so


@dataclass(frozen=True)
class ExpectedScan:
    """A scan, and what the owner's code made of it.

    Attributes:
        scan: (D, H, W) or (C, D, H, W).
        result: on the same grid: labels (D, H, W), or a map for every output (M, D, H, W), probabilities or masks.
        source: where the result is from, for messages.
    """

    scan: Volume
    result: Volume
    source: str

    @classmethod
    def read(cls, scan: Path | Scan, result: Path) -> ExpectedScan:
        """From two files, the scan of any kind.

        Raises:
            InputError: one cannot be read, or the result has nothing in it.
            GeometryError: they do not lie on one grid.
        """
        volume = (scan if isinstance(scan, Scan) else Scan(scan)).read()
        found = _result_on(volume, Path(result))
        if not np.isfinite(found.voxels).all() or not _structures(found.voxels).any():
            raise ScanError(
                f"{Path(result).name} is empty, or has values that are not finite",
                expected="labels or probabilities with every structure in them",
                hint="give a scan in which the network finds something",
            )
        return cls(volume, found, Path(result).name)


def _result_on(scan: Volume, path: Path) -> Volume:
    """Labels, or maps, on the grid of their scan."""
    try:
        found = read_volume(path)
    except GeometryError:
        return read_labels_of(path, scan)  # the header of its scan, which needed a choice
    return read_labels_of(path, scan) if found.voxels.ndim == 3 else found.like(scan)


def _structures(result: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a result has a structure (D, H, W); of a softmax's maps the first is the background."""
    if result.ndim == 3:
        return np.asarray(result > 0)
    if len(result) > 1 and np.allclose(result.sum(axis=0, dtype=np.float32), 1, rtol=0, atol=SUM_OF_ONE):
        return np.asarray(result.argmax(axis=0) > 0)
    return np.asarray((result > 0.5).any(axis=0))
