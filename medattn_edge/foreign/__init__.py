"""Networks from elsewhere: ONNX, TorchScript and torch.export files, and modules of the user's own -> artifact."""

from medattn_edge.foreign.describe import describe
from medattn_edge.foreign.network import ForeignNetwork, export_foreign
from medattn_edge.foreign.read import read_foreign
from medattn_edge.foreign.reference import SourceOptions, SourceReference, is_source
from medattn_edge.foreign.source import is_foreign, kind_of

__all__ = [
    "ForeignNetwork",
    "SourceOptions",
    "SourceReference",
    "describe",
    "export_foreign",
    "is_foreign",
    "is_source",
    "kind_of",
    "read_foreign",
]
