"""Files to volumes and back: one module per format, each with a FORMAT record."""

from medattn_edge.io.channels import ChannelScan, as_scan, read_channels
from medattn_edge.io.files import (
    check_regions,
    format_of,
    formats,
    read_labels,
    read_regions,
    read_volume,
    write_labels,
    write_maps,
    write_regions,
)
from medattn_edge.io.scan import Scan, find_scan, read_scan

__all__ = [
    "ChannelScan",
    "Scan",
    "as_scan",
    "check_regions",
    "find_scan",
    "format_of",
    "formats",
    "read_channels",
    "read_labels",
    "read_regions",
    "read_scan",
    "read_volume",
    "write_labels",
    "write_maps",
    "write_regions",
]
