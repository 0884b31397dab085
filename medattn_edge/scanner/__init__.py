"""The node beside the scanner: DICOM in, DICOM SEG out, nothing lost.

`intake` -> `storage` (files) and `state` (rows) -> `work` (segmentation in worker processes) -> `delivery`.
`node` wires them, with `doors` for the ways in and out and `crew` for the workers; `config` says what it is told,
`log` and `status` what it says of itself.
"""
