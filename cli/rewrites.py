"""The rewrites of a network: as a user chooses them, and as they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import UsageError

from . import console

if TYPE_CHECKING:
    from medattn_edge.models.network import SegmentationNetwork
    from medattn_edge.rewrites import Fused
    from medattn_edge.spec import ModelSpec


def chosen(runtime: str, spec: ModelSpec, asked: Sequence[str], plain: bool) -> tuple[str, ...]:
    """The names for a file of this runtime: its defaults, or with `plain` BatchNorm folding alone, changed as asked.

    asked: NAME or +NAME adds one, -NAME leaves one out. Raises UsageError for a name that is not known or cannot be
    followed.
    """
    from medattn_edge.rewrites import changed, defaults

    added = [text.removeprefix("+") for text in asked if not text.startswith("-")]
    left_out = [text.removeprefix("-") for text in asked if text.startswith("-")]
    try:
        return changed(("batch-norm",) if plain else defaults(runtime, spec.patch), added, left_out)
    except UsageError as error:
        raise UsageError(error.found, expected=error.expected, hint=f"--rewrite {error.hint}") from error


def fused_by(network: SegmentationNetwork, names: tuple[str, ...], spec: ModelSpec, asked: Sequence[str] = ()) -> Fused:
    """The network rewritten, with what each rewrite saves; a remark for every one that was asked for in vain."""
    from medattn_edge.rewrites import fuse

    fused = fuse(network, names, spec)
    done = {applied.name for applied in fused.plan}
    for name in (text.removeprefix("+") for text in asked if not text.startswith("-")):
        if name not in done:
            console.note(f"--rewrite {name}: there is nothing to rewrite so in this {spec.network}")
    return fused


def show_plan(fused: Fused) -> None:
    """What was done to the network, in order, and what it cost before and costs now."""
    from rich.table import Table

    if fused.before is None or fused.after is None:
        return
    before, after = fused.before, fused.after
    table = Table(title="rewritten to the same function", show_footer=True)
    table.caption = "per patch; MB: what the operators read and write, each by itself"
    table.add_column("rewrite", "in all")
    table.add_column("sites", justify="right")
    table.add_column("GFLOP saved", f"{before.gflop:.2f} -> {after.gflop:.2f}", justify="right")
    table.add_column("MB saved", f"{before.mbytes:.0f} -> {after.mbytes:.0f}", justify="right")
    for applied in fused.plan:
        saved = (_figure(applied.gflop_saved, 2), _figure(applied.mbytes_saved, 1))
        table.add_row(applied.name, str(len(applied.sites)), *saved)
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
