"""NIfTI compressed with bzip2 or Zstandard: read only. What is in the file is what `nifti` reads."""

from __future__ import annotations

import importlib
from pathlib import Path

from medattn_edge.io import nifti
from medattn_edge.io.format import Format, unreadable
from medattn_edge.volume import Volume


def _read_zst(path: Path) -> Volume:
    try:
        return nifti.read(path)
    except importlib.import_module(nifti.ZSTD).ZstdError as error:
        raise unreadable(path, "NIfTI .nii.zst", error) from error


FORMAT = (
    Format("nifti-bz2", (".nii.bz2",), "nifti", ("nibabel",), nifti.read, None, None),
    Format("nifti-zst", (".nii.zst",), "zstd", ("nibabel", nifti.ZSTD), _read_zst, None, None),
)
