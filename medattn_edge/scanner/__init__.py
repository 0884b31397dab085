"""The node beside the scanner: received objects, the work on them and their results survive a kill at any point.

`Spool` holds the files, `Store` the rows, `Custody` changes both in the order that a crash can be repaired from, and
`recover` repairs it. `Log` writes no identifiers.
"""
