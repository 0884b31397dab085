"""Which rewrites are applied to a network, in which order, and what each of them saved."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from medattn_edge.errors import UsageError
from medattn_edge.fusion.cost import cost
from medattn_edge.fusion.rewrite import Rewrite
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.registry import records
from medattn_edge.spec import ModelSpec

# What takes work away. The others move it, which pays in one runtime and costs in the next: they are asked for by name.
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
        "training-parts",
        "transposed-convolution",
    }
)


@dataclass(frozen=True)
class Applied:
    """A rewrite that changed something. sites: the modules it touched. saved: see Cost; None when not measured.

    A negative saving is a cost.
    """

    name: str
    title: str
    sites: tuple[str, ...]
    gflop_saved: float | None
    mbytes_saved: float | None


@dataclass(frozen=True)
class Fused:
    """A network that is the same function, and what was done to it, in order."""

    network: SegmentationNetwork
    plan: tuple[Applied, ...]


def rewrites() -> dict[str, Rewrite]:
    """Every rewrite by name, in the order in which they are applied."""
    waiting = {record.name: record for record in records("medattn_edge.fusion", "REWRITE")}
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
    spec: measures what each one saves at the spec's patch. The copy answers `forward` and `forward_attention`; it
    cannot be trained. Raises UsageError for a name that is not known and for two that exclude each other.
    """
    chosen = _chosen(ALWAYS_GOOD if names is None else frozenset(names))
    fused = copy.deepcopy(network).eval()
    plan: list[Applied] = []
    before = cost(fused, spec) if spec is not None else None
    for rewrite in chosen:
        with torch.no_grad():
            touched = tuple(rewrite.apply(fused))
        if not touched:
            continue
        fused.eval()  # the modules that are new
        gflop = mbytes = None
        if spec is not None and before is not None:
            after = cost(fused, spec)
            gflop, mbytes, before = before.gflop - after.gflop, before.mbytes - after.mbytes, after
        plan.append(Applied(rewrite.name, rewrite.title, touched, gflop, mbytes))
    return Fused(fused, tuple(plan))


def _chosen(names: frozenset[str]) -> list[Rewrite]:
    """The rewrites of these names and those that they need, in order."""
    known = rewrites()
    unknown = sorted(names - known.keys())
    if unknown:
        raise UsageError(
            f"the rewrites {unknown} are not known", expected=f"some of {', '.join(known)}", hint=f"{next(iter(known))}"
        )
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
