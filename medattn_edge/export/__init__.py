"""Network -> portable artifact, written only when it agrees with the eager network. One EXPORTER record per file."""

from medattn_edge.export.expectation import Expectation, read_expectation
from medattn_edge.export.exporter import (
    ExportSettings,
    export_network,
    exporter_of,
    exporters,
    manifest_of,
    random_patches,
)
from medattn_edge.export.search import Fitted, fit

__all__ = [
    "Expectation",
    "ExportSettings",
    "Fitted",
    "export_network",
    "exporter_of",
    "exporters",
    "fit",
    "manifest_of",
    "random_patches",
    "read_expectation",
]
