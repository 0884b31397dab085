"""What every rewrite is: its record, and how it finds and changes the modules of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Rewrite:
    """The record of a rewrite: the same function by other operators.

    Attributes:
        name: as `rewrite` takes it.
        title: one line for a report.
        source: the paper, or the identity it rests on.
        apply: changes a network in evaluation mode in place, logits and attention maps staying what they are, and
            returns the paths of the modules it touched (none: nothing to do, as in a network that it was applied to
            before).
        needs: what is applied first even when nobody named it.
        after: what comes first when both are applied.
        excludes: what cannot be applied beside it.
        fp32_only: numbers inside are larger than the answer and cancel, so that no lower precision may be made of the
            file.
        apply_at: the same as `apply`, where the patch is known, and only what pays there.
    """

    name: str
    title: str
    source: str
    apply: Callable[[SegmentationNetwork], list[str]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    fp32_only: bool = False
    apply_at: Callable[[SegmentationNetwork, ModelSpec], list[str]] | None = None


def sites(network: nn.Module, kind: type[Module]) -> list[tuple[str, Module]]:
    """Path and module of every module that is exactly of this class, each module once."""
    return [(path, module) for path, module in network.named_modules() if type(module) is kind]
