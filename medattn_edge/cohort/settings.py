"""CohortSettings: what is written of every case, under which name, and how it is segmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from medattn_edge.inference import Opening, SegmentSettings

if TYPE_CHECKING:
    from medattn_edge.inference.dicom_results import SegKind

STANDARD_NAME = "{case}_labels.nii.gz"


@dataclass(frozen=True)
class CohortSettings:
    """What is written of every case, under which name, and how it is segmented.

    The names are patterns with `{case}`, the case's own name, and `{folder}`, the name of the folder its scan lies in
    (empty for DICOM, unless paths were asked for).

    Attributes:
        name: of the labels; its suffix decides the format, `.dcm` being a DICOM segmentation.
        probabilities: of the maps of probabilities, "" to write none.
        attention: of the attention maps, "" to write none.
        overlay: of the pictures, "" to draw none.
        rtstruct: of the RT structure sets of DICOM series, "" to write none.
        sr: of the measurement reports on DICOM segmentations, "" to write none.
        key_slices: beside a DICOM segmentation, at most so many slices with outlines.
        seg_kind: of a DICOM segmentation, None for binary.
        regions: as of `Outputs`.
        resume: go on in a folder with results: what is done, by content, is not done again.
        segment: how to segment.
        opening: how to open the artifact.
    """

    name: str = STANDARD_NAME
    probabilities: str = ""
    attention: str = ""
    overlay: str = ""
    rtstruct: str = ""
    sr: str = ""
    key_slices: int = 0
    seg_kind: SegKind | None = None
    regions: Literal["maps", "label-map"] | None = None
    resume: bool = False
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    opening: Opening = field(default_factory=Opening)
