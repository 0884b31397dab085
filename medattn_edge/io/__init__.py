"""Files to volumes and back: one module per format, each with a FORMAT record."""

from medattn_edge.io.files import format_of, formats, read_labels, read_volume, write_labels, write_maps

__all__ = ["format_of", "formats", "read_labels", "read_volume", "write_labels", "write_maps"]
