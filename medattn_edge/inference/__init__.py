"""A session and a volume become labels, and a scan on disk the files that are asked for; numpy only."""

from medattn_edge.inference.outputs import Outputs
from medattn_edge.inference.preprocess import Prepared, prepare
from medattn_edge.inference.samples import sample_patches
from medattn_edge.inference.segment import Segmentation, SegmentSettings, segment
from medattn_edge.inference.workflow import OpenArtifact, Opening, Outcome, segment_to

__all__ = [
    "OpenArtifact",
    "Opening",
    "Outcome",
    "Outputs",
    "Prepared",
    "SegmentSettings",
    "Segmentation",
    "prepare",
    "sample_patches",
    "segment",
    "segment_to",
]
