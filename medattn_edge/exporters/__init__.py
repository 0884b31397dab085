"""Network -> portable artifact, written only when it agrees with the eager network. One EXPORTER record per file."""

from medattn_edge.exporters.exporter import (
    ExportSettings,
    export_fp32,
    exporter_of,
    exporters,
    manifest_of,
    random_patches,
)

__all__ = ["ExportSettings", "export_fp32", "exporter_of", "exporters", "manifest_of", "random_patches"]
