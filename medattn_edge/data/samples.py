"""The real scan that the product may rely on: a package ships it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from medattn_edge.errors import MissingDependency


def sample_scan() -> Path:
    """The chest CT of slicerio (MIT): 128x128x34, 3.05 x 3.05 x 10 mm, one subject.

    Raises:
        MissingDependency: when the package is not installed.
    """
    return _slicerio("CTChest4.nrrd")


def sample_labels() -> Path:
    """Its segmentation: 1 ribs, 2 to 4 spine, 5 right lung, 6 left lung, 7 tissue.

    Raises:
        MissingDependency: when the package is not installed.
    """
    return _slicerio("Segmentation.seg.nrrd")


def _slicerio(name: str) -> Path:
    spec = find_spec("slicerio")
    if spec is None or spec.origin is None:
        raise MissingDependency.of_extra("slicerio", "export")
    return Path(spec.origin).parent / "data" / name
