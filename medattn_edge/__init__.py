"""medattn_edge: attention networks for medical image segmentation, from a checkpoint to a verified artifact.

A checkpoint becomes a network, a network becomes an artifact, an artifact opens as a session, a session turns a scan
into labels; every step carries its proof that the answer did not change.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medattn_edge.backends import open_session
    from medattn_edge.errors import MedattnError
    from medattn_edge.evaluation import compare
    from medattn_edge.exporters import ExportSettings
    from medattn_edge.foreign import read_foreign
    from medattn_edge.inference.samples import sample_patches
    from medattn_edge.inference.segment import segment
    from medattn_edge.inference.segmenter import load
    from medattn_edge.inference.workflow import segment_to
    from medattn_edge.io import read_labels, read_regions, read_volume, write_labels, write_maps, write_regions
    from medattn_edge.models.checkpoint import load as load_checkpoint
    from medattn_edge.precision import CalibrationSettings, calibrate
    from medattn_edge.precision.export import export
    from medattn_edge.rewrites import rewrite
    from medattn_edge.rewrites.norms_and_activations import fold_batch_norms
    from medattn_edge.spec import ModelSpec
    from medattn_edge.volume import Volume

# ONNX Runtime 1.32 gathers events for a web service from its import on, on Linux too, and keeps them and an identity in
# the home folder; it looks at this variable when it is loaded. Children of this process inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Found on first use, so that a host without torch imports what it can run.
_HOME = {
    "MedattnError": ("errors", "MedattnError"),
    "ModelSpec": ("spec", "ModelSpec"),
    "Volume": ("volume", "Volume"),
    "CalibrationSettings": ("precision", "CalibrationSettings"),
    "calibrate": ("precision", "calibrate"),
    "compare": ("evaluation", "compare"),
    "ExportSettings": ("exporters", "ExportSettings"),
    "export": ("precision.export", "export"),
    "fold_batch_norms": ("rewrites.norms_and_activations", "fold_batch_norms"),
    "load": ("inference.segmenter", "load"),
    "load_checkpoint": ("models.checkpoint", "load"),
    "open_session": ("backends", "open_session"),
    "read_foreign": ("foreign", "read_foreign"),
    "read_labels": ("io", "read_labels"),
    "read_regions": ("io", "read_regions"),
    "read_volume": ("io", "read_volume"),
    "rewrite": ("rewrites", "rewrite"),
    "sample_patches": ("inference", "sample_patches"),
    "segment": ("inference", "segment"),
    "segment_to": ("inference", "segment_to"),
    "write_labels": ("io", "write_labels"),
    "write_maps": ("io", "write_maps"),
    "write_regions": ("io", "write_regions"),
}

__all__ = [  # noqa: RUF022 - the order of the work
    "load",
    "load_checkpoint",
    "read_foreign",
    "rewrite",
    "fold_batch_norms",
    "sample_patches",
    "export",
    "ExportSettings",
    "CalibrationSettings",
    "calibrate",
    "open_session",
    "read_volume",
    "segment",
    "segment_to",
    "compare",
    "write_labels",
    "write_maps",
    "write_regions",
    "read_labels",
    "read_regions",
    "ModelSpec",
    "Volume",
    "MedattnError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
