"""Candidates and scans in one list of arguments: which is which is told by what a backend opens."""

from __future__ import annotations

from pathlib import Path

from medattn_edge.errors import UsageError


def split(files: list[Path], command: str, more: str = "") -> tuple[list[Path], list[Path]]:
    """Candidates are what a backend opens; the rest are scans.

    Args:
        files: candidates, then scans.
        command: that was typed, for the hint.
        more: what else it takes, for the hint.

    Raises:
        UsageError: there are none of one kind, or they are mixed.
    """
    from medattn_edge.backends import backends

    suffixes = {suffix for backend in backends().values() for suffix in backend.suffixes}
    candidates = [path for path in files if path.suffix.lower() in suffixes]
    scans = [path for path in files if path.suffix.lower() not in suffixes]
    if not candidates or not scans or files != [*candidates, *scans]:
        raise UsageError(
            f"{len(candidates)} candidate(s) and {len(scans)} scan(s) in this order",
            expected="at least one candidate, then at least one scan",
            hint=f"medattn-edge {command} CHECKPOINT NET.onnx SCAN.nii.gz {more}".rstrip(),
        )
    return candidates, scans
