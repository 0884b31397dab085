"""The rewrites of a network: as a user chooses them, and as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import UsageError

from . import console

if TYPE_CHECKING:
    from medattn_edge.rewrites import Rewritten
    from medattn_edge.spec import ModelSpec


def chosen(runtime: str, spec: ModelSpec, requests: Sequence[str], plain: bool) -> tuple[str, ...]:
    """The names of the rewrites of a file.

    Args:
        runtime: whose defaults they are.
        spec: for the patch.
        requests: NAME or +NAME adds one, -NAME leaves one out.
        plain: start from BatchNorm folding only.

    Raises:
        UsageError: for a name that is not known or cannot be followed.
    """
    from medattn_edge.rewrites import changed, defaults

    added = [text.removeprefix("+") for text in requests if not text.startswith("-")]
    left_out = [text.removeprefix("-") for text in requests if text.startswith("-")]
    try:
        return changed(("batch-norm",) if plain else defaults(runtime, spec.patch), added, left_out)
    except UsageError as error:
        raise UsageError(error.found, expected=error.expected, hint=f"--rewrite {error.hint}") from error


def note_without_effect(rewritten: Rewritten, requests: Sequence[str]) -> None:
    """A remark for every rewrite that was added by name and found nothing to change."""
    effective = {step.name for step in rewritten.plan}
    for name in (text.removeprefix("+") for text in requests if not text.startswith("-")):
        if name not in effective:
            network = rewritten.checkpoint.spec.network
            console.note(f"--rewrite {name}: there is nothing to rewrite so in this {network}")


def show_plan(rewritten: Rewritten) -> None:
    """What was done to the network, in order, and what it cost before and costs now."""
    from rich.table import Table

    if rewritten.before is None or rewritten.after is None:
        return
    before, after = rewritten.before, rewritten.after
    table = Table(title="rewritten to the same function", show_footer=True)
    table.caption = "per patch; MB: what the operators read and write, each by itself"
    table.add_column("rewrite", "in total")
    table.add_column("sites", justify="right")
    table.add_column("GFLOP saved", f"{before.gflop:.2f} -> {after.gflop:.2f}", justify="right")
    table.add_column("MB saved", f"{before.mbytes:.0f} -> {after.mbytes:.0f}", justify="right")
    for step in rewritten.plan:
        saved = (_figure(step.gflop_saved, 2), _figure(step.mbytes_saved, 1))
        table.add_row(step.name, str(len(step.sites)), *saved)
    console.show(table)


def in_a_line(rewrites: Sequence[Mapping[str, Any]]) -> str:
    """Name and sites of each, and what they saved together, as the manifest has them."""
    names = ", ".join(f"{one['sites']} {one['name']}" for one in rewrites)
    measured = [one for one in rewrites if one.get("gflop_saved") is not None]
    if not measured:
        return names
    gflop, mbytes = (sum(one[key] for one in measured) for key in ("gflop_saved", "mbytes_saved"))
    return f"{names}; saved {_figure(gflop, 2)} GFLOP and {_figure(mbytes, 0)} MB a patch"


def _figure(saved: float | None, digits: int) -> str:
    """Without the minus zero that sums of large numbers leave."""
    return "" if saved is None else f"{round(saved, digits) + 0.0:.{digits}f}"
