"""DICOMweb: a series from an archive (QIDO-RS, WADO-RS), and results to one (STOW-RS)."""
