"""Whether several series are of one patient, in one system of coordinates: only then are their voxels at one place."""

from __future__ import annotations

from collections.abc import Sequence

from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.series import Series


def check_one_patient(series: Sequence[Series], names: Sequence[str]) -> None:
    """Check that the channels of a network lie in one patient.

    Args:
        series: of each channel, accepted or not.
        names: of the channels, for what is said of them.

    Raises:
        RefusedSeries: `other_patient` when their PatientIDs differ, `other_frame_of_reference` when their
            FrameOfReferenceUIDs do; it names the first channel that differs, and no identifier.
    """
    for one, name in zip(series[1:], names[1:], strict=True):
        if one.patient_id != series[0].patient_id:
            raise RefusedSeries("other_patient", f"{name} has another PatientID than {names[0]}")
        if one.frame_of_reference_uid != series[0].frame_of_reference_uid:
            raise RefusedSeries("other_frame_of_reference", f"{name} has another FrameOfReferenceUID than {names[0]}")
