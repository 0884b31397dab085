"""The node beside the scanner: DICOM in, DICOM SEG out, and nothing lost on the way.

`node` wires it; `endpoints` opens the listeners, the watched folder and the deliveries. `config` is what a site
decides, `store` keeps files and rows (all through `Custody`), `observe` says what happens. `receive` takes objects,
`work` has series segmented in worker processes, `deliver` hands results over.
"""
