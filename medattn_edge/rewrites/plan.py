"""Which rewrites are applied to a network, in which order, and what each of them saved."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from medattn_edge.errors import UsageError
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.registry import records
from medattn_edge.rewrites.cost import Cost, cost
from medattn_edge.rewrites.rewrite import Rewrite
from medattn_edge.spec import ModelSpec

# What takes work away. The others move it, which pays in one runtime and costs in the next: they are asked for by name,
# or are the default of one runtime.
ALWAYS_GOOD = frozenset(
    {
        "batch-norm",
        "concat-sums",
        "gate-outputs",
        "linear-heads",
        "nearest-upsampling",
        "position-attention",
        "scalar-prelu",
        "shared-halves",
        "supervision-heads",
        "supervision-products",
        "training-parts",
        "transposed-convolution",
    }
)


@dataclass(frozen=True)
class Applied:
    """A rewrite that changed something. sites: the modules it touched. saved: see Cost; None when not measured.

    A negative saving is a cost. fp32_only: see Rewrite.
    """

    name: str
    title: str
    sites: tuple[str, ...]
    gflop_saved: float | None
    mbytes_saved: float | None
    fp32_only: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a manifest has it: how many sites there are, not which."""
        saved = {"gflop_saved": self.gflop_saved, "mbytes_saved": self.mbytes_saved}
        told = {"name": self.name, "title": self.title, "sites": len(self.sites), **saved}
        return told | ({"fp32_only": True} if self.fp32_only else {})


@dataclass(frozen=True)
class Fused:
    """A network that is the same function, and what was done to it, in order.

    before, after: what the network cost and costs, when that was measured.
    """

    network: SegmentationNetwork
    plan: tuple[Applied, ...]
    before: Cost | None = None
    after: Cost | None = None

    @property
    def rewrites(self) -> list[dict[str, Any]]:
        """The plan as a manifest has it."""
        return [applied.to_json() for applied in self.plan]


def rewrites() -> dict[str, Rewrite]:
    """Every rewrite by name, in the order in which they are applied."""
    waiting = {record.name: record for record in records("medattn_edge.rewrites", "REWRITE")}
    ordered: dict[str, Rewrite] = {}
    while waiting:
        ready = [name for name, one in waiting.items() if not waiting.keys() & {*one.needs, *one.after}]
        if not ready:
            raise ValueError(f"these rewrites wait for each other: {sorted(waiting)}")
        ordered |= {name: waiting.pop(name) for name in ready}
    return ordered


def fuse(network: SegmentationNetwork, names: tuple[str, ...] | None = None, spec: ModelSpec | None = None) -> Fused:
    """A copy of a network in evaluation mode, rewritten; the network itself stays as it is.

    names: of rewrites, in any order, what they need being added; None is every one that is always good.
    spec: measures what each one saves at the spec's patch, and leaves out what does not pay there. The copy answers
    `forward` and `forward_attention`; it cannot be trained. Raises UsageError for a name that is not known and for two
    that exclude each other.
    """
    chosen = _chosen(ALWAYS_GOOD if names is None else frozenset(names))
    fused = copy.deepcopy(network).eval()
    plan: list[Applied] = []
    before = now = cost(fused, spec) if spec is not None else None
    for rewrite in chosen:
        with torch.no_grad():
            if spec is not None and rewrite.apply_at is not None:
                touched = tuple(rewrite.apply_at(fused, spec))
            else:
                touched = tuple(rewrite.apply(fused))
        if not touched:
            continue
        fused.eval()  # the modules that are new
        gflop = mbytes = None
        if spec is not None and now is not None:
            after = cost(fused, spec)
            gflop, mbytes, now = now.gflop - after.gflop, now.mbytes - after.mbytes, after
        plan.append(Applied(rewrite.name, rewrite.title, touched, gflop, mbytes, rewrite.fp32_only))
    return Fused(fused, tuple(plan), before, now)


def changed(names: Iterable[str], added: Iterable[str] = (), left_out: Iterable[str] = ()) -> tuple[str, ...]:
    """A choice of rewrites, changed: names in the order in which they are applied, what they need included.

    What is added takes the place of what it excludes; with what is left out goes what needs it.
    Raises UsageError for a name that is not known, for one that is both added and left out, and for one that is added
    and needs one that is left out.
    """
    known, added, gone = rewrites(), set(added), set(left_out)
    _check_known({*names, *added, *gone})
    for name, rewrite in known.items():  # what is needed comes before what needs it
        if gone & {*rewrite.needs}:
            gone.add(name)
    if both := sorted(added & gone):
        raise UsageError(
            f"the rewrite {both[0]} is added, and it or what it needs is left out",
            expected="one or the other",
            hint=both[0],
        )
    excluded = {other for name in added for other in known[name].excludes}
    excluded |= {name for name, rewrite in known.items() if added & {*rewrite.excludes}}
    return tuple(one.name for one in _chosen(frozenset(({*names} - excluded | added) - gone)))


def _check_known(names: Iterable[str]) -> None:
    known = rewrites()
    if unknown := sorted({*names} - known.keys()):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise UsageError(
            f"the rewrites {unknown} are not known",
            expected=f"some of {', '.join(known)}",
            hint=near[0] if near else next(iter(known)),
        )


def _chosen(names: frozenset[str]) -> list[Rewrite]:
    """The rewrites of these names and those that they need, in order."""
    _check_known(names)
    known = rewrites()
    wanted, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += known[name].needs
    for name in sorted(wanted):
        if other := wanted & {*known[name].excludes}:
            raise UsageError(
                f"the rewrites {name} and {min(other)} exclude each other", expected="one of them", hint=name
            )
    return [rewrite for name, rewrite in known.items() if name in wanted]
