"""Scans as files, written without the code that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medattn_edge.volume import Volume


def write_nifti(path: Path, volume: Volume) -> Path:
    """A volume as NIfTI, whose axes are W, H, D and whose world is RAS."""
    import nibabel

    ras = np.diag([-1.0, -1, 1, 1]) @ volume.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), ras)  # type: ignore[no-untyped-call]
    nibabel.save(image, path)
    return path
