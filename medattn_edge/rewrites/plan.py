"""Rewriting a network: which rewrites are applied, in which order, and what each of them saved."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from medattn_edge.errors import UsageError
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.nearby import nearest
from medattn_edge.registry import records
from medattn_edge.rewrites.cost import Cost, cost
from medattn_edge.rewrites.record import Rewrite
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
class RewriteStep:
    """A rewrite that changed a network.

    Attributes:
        name: of the rewrite.
        title: one line for a report.
        sites: the modules that it touched.
        gflop_saved: see Cost; a negative saving is a cost. None when not measured.
        mbytes_saved: as `gflop_saved`.
        fp32_only: see Rewrite.
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
        values = {"name": self.name, "title": self.title, "sites": len(self.sites), **saved}
        return values | ({"fp32_only": True} if self.fp32_only else {})


@dataclass(frozen=True)
class RewrittenNetwork:
    """A network that is the same function, and what was done to it.

    Attributes:
        network: in evaluation mode; it answers `forward` and `forward_attention`, and cannot be trained.
        plan: the rewrites that changed something, in order.
        before: what the network cost at first, when that was measured.
        after: what it costs now, when that was measured.
    """

    network: SegmentationNetwork
    plan: tuple[RewriteStep, ...]
    before: Cost | None = None
    after: Cost | None = None

    @property
    def rewrites(self) -> list[dict[str, Any]]:
        """The plan as a manifest has it."""
        return [step.to_json() for step in self.plan]


@dataclass(frozen=True)
class Rewritten(RewrittenNetwork):
    """A checkpoint's network rewritten: what `export` takes as it is.

    Attributes:
        checkpoint: whose own network the rewritten one must agree with.
    """

    checkpoint: Checkpoint = field(kw_only=True)


def rewrites() -> dict[str, Rewrite]:
    """Every rewrite by name, in the order in which they are applied."""
    waiting = {record.name: record for record in records("medattn_edge.rewrites", "REWRITES")}
    ordered: dict[str, Rewrite] = {}
    while waiting:
        ready = [name for name, one in waiting.items() if not waiting.keys() & {*one.needs, *one.after}]
        if not ready:
            raise ValueError(f"these rewrites wait for each other: {sorted(waiting)}")
        ordered |= {name: waiting.pop(name) for name in ready}
    return ordered


def rewrite(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> Rewritten:
    """A checkpoint's network as the same function with less work; the checkpoint stays as it is.

    Args:
        checkpoint: what it saves is measured at the patch of its spec, and what does not pay there is left out.
        names: of rewrites, in any order, what they need being added; None is every one that is always good.

    Returns:
        The network, the plan and its costs, for `export`.

    Raises:
        UsageError: for a name that is not known and for two that exclude each other.
        ShapeError: for a patch of the spec that the network cannot take.
    """
    result = rewrite_network(checkpoint.network, names, checkpoint.spec)
    return Rewritten(result.network, result.plan, result.before, result.after, checkpoint=checkpoint)


def rewrite_network(
    network: SegmentationNetwork, names: Iterable[str] | None = None, spec: ModelSpec | None = None
) -> RewrittenNetwork:
    """A copy of a network in evaluation mode, rewritten; the network itself stays as it is.

    Args:
        network: any of ours.
        names: as `rewrite` takes them.
        spec: measures what each rewrite saves at its patch, and leaves out what does not pay there. None measures
            nothing and leaves nothing out.

    Returns:
        The copy, the plan, and the costs when there is a spec.

    Raises:
        UsageError: for a name that is not known and for two that exclude each other.
        ShapeError: for a patch of the spec that the network cannot take.
    """
    if spec is not None:
        network.check_shape(spec.patch)
    chosen = _chosen(ALWAYS_GOOD if names is None else frozenset(names))
    copied = copy.deepcopy(network).eval()
    plan: list[RewriteStep] = []
    before = now = cost(copied, spec) if spec is not None else None
    for record in chosen:
        with torch.no_grad():
            if spec is not None and record.apply_at is not None:
                sites = tuple(record.apply_at(copied, spec))
            else:
                sites = tuple(record.apply(copied))
        if not sites:
            continue
        copied.eval()  # the modules that are new
        gflop = mbytes = None
        if spec is not None and now is not None:
            after = cost(copied, spec)
            gflop, mbytes, now = now.gflop - after.gflop, now.mbytes - after.mbytes, after
        plan.append(RewriteStep(record.name, record.title, sites, gflop, mbytes, record.fp32_only))
    return RewrittenNetwork(copied, tuple(plan), before, now)


def changed(names: Iterable[str], added: Iterable[str] = (), left_out: Iterable[str] = ()) -> tuple[str, ...]:
    """A choice of rewrites, changed.

    Args:
        names: the choice.
        added: these take the place of what they exclude.
        left_out: with these goes what needs them.

    Returns:
        Names in the order in which they are applied, what they need included.

    Raises:
        UsageError: for a name that is not known, for one that is both added and left out, and for one that is added
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
        raise UsageError(
            f"the rewrites {unknown} are not known",
            expected=f"some of {', '.join(known)}",
            hint=nearest(unknown[0], known) or next(iter(known)),
        )


def _chosen(names: frozenset[str]) -> list[Rewrite]:
    """The rewrites of these names and those that they need, in order."""
    _check_known(names)
    known = rewrites()
    selected, waiting = set[str](), list(names)
    while waiting:
        name = waiting.pop()
        selected.add(name)
        waiting += known[name].needs
    for name in sorted(selected):
        if other := selected & {*known[name].excludes}:
            raise UsageError(
                f"the rewrites {name} and {min(other)} exclude each other", expected="one of them", hint=name
            )
    return [rewrite for name, rewrite in known.items() if name in selected]
