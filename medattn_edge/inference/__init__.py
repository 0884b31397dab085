"""A session and a volume become labels; numpy only."""

from medattn_edge.inference.preprocess import Prepared, prepare
from medattn_edge.inference.samples import sample_patches
from medattn_edge.inference.segment import Segmentation, SegmentSettings, segment

__all__ = ["Prepared", "SegmentSettings", "Segmentation", "prepare", "sample_patches", "segment"]
