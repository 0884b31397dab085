"""What a network expects and what its outputs mean: the facts that travel with every file made from a checkpoint."""

from medattn_edge.spec.intensity import Intensity, Step
from medattn_edge.spec.model import ACTIVATIONS, Code, ModelSpec, check_patch, nearest_patch
from medattn_edge.spec.orientation import PLANES, plane_of, with_plane
from medattn_edge.spec.postprocessing import Cleanup

__all__ = [
    "ACTIVATIONS",
    "PLANES",
    "Cleanup",
    "Code",
    "Intensity",
    "ModelSpec",
    "Step",
    "check_patch",
    "nearest_patch",
    "plane_of",
    "with_plane",
]
