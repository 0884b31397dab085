"""A checkpoint held to its owner's own logits, and what is assumed of it all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import UsageError

from . import console
from .options import note_scans

if TYPE_CHECKING:
    from medattn_edge.io import Scan
    from medattn_edge.models.checkpoint import Checkpoint


def fitted_to(
    loaded: Checkpoint, files: Sequence[Path], limit: int, names: tuple[str, str] = ("image", "logits")
) -> Checkpoint:
    """The checkpoint with the settings that give the logits of all files; says which they are and how near."""
    from medattn_edge.exporters import fit, read_expectation

    if not loaded.foreign:
        raise UsageError(
            "--expect for a checkpoint that carries its own settings",
            expected="this option only for foreign checkpoints",
            hint="medattn-edge inspect CHECKPOINT",
        )
    expectations = [read_expectation(path, *names) for path in files]
    fitted = fit(
        loaded,
        expectations,
        limit=limit,
        progress=lambda number, config: console.note(f"trying {number}: {in_words(config) or 'as assumed'}", level=2),
    )
    for case in fitted.cases:
        console.note(
            f"{case.source}: {case.sqnr_db:.1f} dB from FP64, {case.required_db:.1f} asked "
            f"(FP32 itself: {case.eager_db:.1f}); {fitted.tried} combinations of settings tried"
        )
    if fitted.proven:
        console.note(f"proven: {in_words(fitted.proven)}")
    return fitted.checkpoint


def fitted_to_scan(loaded: Checkpoint, scan: Scan, result: Path, limit: str, plane: str = "") -> Checkpoint:
    """The checkpoint with the way from a scan to labels that gives its owner's result; says which, and how near."""
    from medattn_edge.evaluation import ExpectedScan, fit_scan

    runs, timeout_s = parse_limit(limit)
    if not loaded.foreign:
        raise UsageError(
            "--expect-scan for a checkpoint that carries its own spec",
            expected="this option only for foreign checkpoints",
            hint="medattn-edge inspect CHECKPOINT",
        )
    expected = ExpectedScan.read(scan, result)
    note_scans([scan])
    with console.progress("searching") as progress:
        fitted = fit_scan(loaded, expected, plane=plane, limit=runs, timeout_s=timeout_s, progress=progress)
    console.note(f"gives {expected.source}, of {fitted.runs} runs: {fitted.winner}")
    if fitted.winner.absent:
        console.note(f"not judged, since {expected.source} has none of it: {', '.join(fitted.winner.absent)}", level=0)
    if fitted.runner_up is not None:
        console.note(f"runner-up: {fitted.runner_up}")
    return fitted.checkpoint


def parse_limit(text: str) -> tuple[int, float]:
    """Runs and seconds at most, of `2000` or `600s`; an empty text is the usual number of runs; raises UsageError."""
    import math
    import sys

    from medattn_edge.evaluation.expected_scan import LIMIT

    number = text.removesuffix("s")
    if not text:
        return LIMIT, math.inf
    if not (number.isascii() and number.isdigit()) or int(number) < 1:
        raise UsageError(
            f"the limit {text!r}", expected="a number of runs, or of seconds with s", hint="--expect-scan-limit 600s"
        )
    return (int(number), math.inf) if number == text else (sys.maxsize, float(number))


def note_assumptions(loaded: Checkpoint) -> None:
    """Say every setting that neither the file nor the user told."""
    if loaded.assumptions:
        console.note(
            f"the file does not tell, so assumed: {in_words(loaded.assumptions)} (--set, or --expect CASE.npz)"
        )


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as --set takes them, with semicolons."""
    import json

    return "; ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in settings.items()
    )
