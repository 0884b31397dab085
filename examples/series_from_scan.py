"""A DICOM series of a CT volume, to try a node with: `python series_from_scan.py chest.nrrd FOLDER`.

One file per axial slice in Hounsfield units, of a patient called TRIAL. For a trial only: a real series has what the
scanner knows and this does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import medattn_edge as me


def write_series(scan: Path, folder: Path) -> int:
    """The number of slices that were written."""
    volume = me.read_volume(scan).to_lps()
    voxels = np.round(volume.voxels).astype("<i2")
    # The columns of the affine are the steps along D, H and W in mm, and the last is the place of the first voxel.
    along_d, along_h, along_w, origin = volume.affine[:3].T
    row_mm, column_mm = np.linalg.norm(along_h), np.linalg.norm(along_w)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "TRIAL", "TRIAL", "", ""
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.StudyDate, one.StudyTime, one.StudyID, one.AccessionNumber = "20260101", "120000", "1", ""
        one.Modality, one.BodyPartExamined, one.SeriesNumber, one.InstanceNumber = "CT", "CHEST", 1, index + 1
        one.Manufacturer, one.ReferringPhysicianName, one.PatientPosition = "none", "", "HFS"
        one.ImageType, one.PositionReferenceIndicator = ["DERIVED", "SECONDARY", "AXIAL"], ""
        one.ImagePositionPatient = [round(float(value), 6) for value in origin + index * along_d]
        one.ImageOrientationPatient = [round(float(v), 6) for v in (*along_w / column_mm, *along_h / row_mm)]
        one.PixelSpacing = [round(float(row_mm), 6), round(float(column_mm), 6)]
        one.SliceThickness = round(float(np.linalg.norm(along_d)), 6)
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows, one.Columns = pixels.shape
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, 0, "HU"
        one.PixelData = pixels.tobytes()
        one.save_as(folder / f"slice-{index:03}.dcm", enforce_file_format=True)
    return len(voxels)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("found other arguments, expected SCAN FOLDER; try: python series_from_scan.py chest.nrrd series")
    print(f"{write_series(Path(sys.argv[1]), Path(sys.argv[2]))} slices")
