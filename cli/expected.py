"""A checkpoint held to its owner's own logits, and what is assumed of it all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import UsageError

from . import console

if TYPE_CHECKING:
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
