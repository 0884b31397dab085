"""What a network costs: its arithmetic, and the bytes that its operators move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

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
    with FlopCounterMode(display=False) as counter, traffic:
        run()
    return Cost(counter.get_total_flops() / 1e9, traffic.moved / 1e6)


def imagined(network: SegmentationNetwork, spec: ModelSpec) -> Callable[[], None]:
    """A function that runs the network on one patch of the spec, with tensors that have sizes and no numbers."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    ghosts = {name: torch.empty(value.shape, device="meta") for name, value in tensors.items()}
    image = torch.empty(1, spec.in_channels, *spec.patch, device="meta")

    def run() -> None:
        # no_grad, not inference_mode: under the latter a counter sees composite operators, which it does not know.
        with torch.no_grad():
            functional_call(network, ghosts, (image,))

    return run


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
