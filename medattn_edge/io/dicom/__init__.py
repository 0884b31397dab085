"""DICOM: files to series, series to volumes, labels to segmentations."""
