"""What a network expects and what its outputs mean: the facts that travel with every file made from a checkpoint."""

from medattn_edge.spec.assumptions import SPEC_OPTIONS, assumed_values, is_background
from medattn_edge.spec.file import read_spec, spec_schema
from medattn_edge.spec.intensity import Intensity, Step
from medattn_edge.spec.modality import dicom_modality, modalities_of
from medattn_edge.spec.model import ACTIVATIONS, OVERLAP, Code, ModelSpec, check_patch, nearest_patch
from medattn_edge.spec.orientation import PLANES, plane_of, with_plane
from medattn_edge.spec.postprocessing import Cleanup

__all__ = [
    "ACTIVATIONS",
    "OVERLAP",
    "PLANES",
    "SPEC_OPTIONS",
    "Cleanup",
    "Code",
    "Intensity",
    "ModelSpec",
    "Step",
    "assumed_values",
    "check_patch",
    "dicom_modality",
    "is_background",
    "modalities_of",
    "nearest_patch",
    "plane_of",
    "read_spec",
    "spec_schema",
    "with_plane",
]
