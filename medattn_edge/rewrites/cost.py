"""What a network costs: its arithmetic, and the bytes that its operators move."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medattn_edge.models.flops import counted, imagined
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec


@dataclass(frozen=True)
class Cost:
    """What one patch costs, N = 1, in FP32.

    Attributes:
        gflop: 2 x multiply-adds of convolutions and matrix products, in 1e9.
        mbytes: what the operators read and write, each by itself and weights included, in 1e6; a view moves nothing. A
            runtime that joins operators moves less.
    """

    gflop: float
    mbytes: float


def cost(network: SegmentationNetwork, spec: ModelSpec) -> Cost:
    """Of one patch of the spec; nothing is computed and no weight is copied."""
    traffic, run = _Traffic(), imagined(network, spec)

    def watched() -> None:
        with traffic:  # inside the count, which takes composite operators apart
            run()

    return Cost(counted(watched), traffic.moved / 1e6)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the tensors that every operator takes and returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            leaves = tree_leaves((args, kwargs, result))
            self.moved += sum(one.numel() * one.element_size() for one in leaves if isinstance(one, Tensor))
        return result


def _is_view(func: Any) -> bool:
    """Whether an operator's answer is its argument, looked at in another way."""
    returned = [one.alias_info for one in func._schema.returns]
    return func is torch.ops.aten._unsafe_view.default or any(one is not None and not one.is_write for one in returned)
