"""Network -> portable artifact, written only when it agrees with the eager network. One EXPORTER record per file."""

from medattn_edge.exporters.expectation import Expectation, read_expectation
from medattn_edge.exporters.exporter import (
    ExportSettings,
    export_fp32,
    exporter_of,
    exporters,
    manifest_of,
    random_patches,
)
from medattn_edge.exporters.search import Fitted, fit

__all__ = [
    "Expectation",
    "ExportSettings",
    "Fitted",
    "export_fp32",
    "exporter_of",
    "exporters",
    "fit",
    "manifest_of",
    "random_patches",
    "read_expectation",
]
