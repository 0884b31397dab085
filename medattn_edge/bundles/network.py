"""A network as its owner's library builds it, filled with the owner's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.errors import CheckpointError
from medattn_edge.models.checkpoint_file import read_file
from medattn_edge.models.nearest import describe_difference
from medattn_edge.models.network import SegmentationNetwork

_NESTS = ("network_weights", "state_dict", "model_state_dict", "model", "network", "net")
_PREFIXES = ("module.", "_orig_mod.")


class OwnersNetwork(SegmentationNetwork):
    """A module of another library, from one image to logits of its size.

    Args:
        module: (N, C, *spatial) -> (N, K, *spatial).
        patch: the size that its owner shows it; a multiple of it is all that is known to fit.
    """

    def __init__(self, module: nn.Module, patch: tuple[int, ...]) -> None:
        super().__init__(patch, ())
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, *spatial)."""
        logits: Tensor = self.module(image)
        return logits

    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits and no maps, (N, 0, *spatial)."""
        return self(image), image[:, :0]


def fill(module: nn.Module, path: Path) -> nn.Module:
    """Load the weights of a file strictly, for evaluation on the CPU.

    Raises:
        CheckpointError: for a file that cannot be read, or whose keys or shapes are not the module's.
    """
    state = _weights(read_file(path)[0])
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    wrong = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or extra or wrong:
        raise CheckpointError(
            f"{path.name} does not fit the network of its folder: {describe_difference(missing, extra, wrong)}",
            expected="exactly the keys and shapes of the network that the folder defines",
            hint="take weights and definition from one training run",
        )
    if infinite := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"{path.name} has values that are not finite in {infinite[0]}",
            expected="finite weights",
            hint="take a checkpoint from before the training diverged",
        )
    module.load_state_dict({**own, **state})
    return module.float().eval()


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for nest in _NESTS:
        if isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def check_answer(network: nn.Module, channels: int, patch: tuple[int, ...], outputs: int, where: str) -> None:
    """Raise CheckpointError unless a network makes (1, outputs, *patch) of (1, channels, *patch)."""
    expected = (1, outputs, *patch)
    try:
        with torch.inference_mode():
            answer = network(torch.zeros(1, channels, *patch))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"the network of {where} fails on an image (1, {channels}, {', '.join(map(str, patch))}): {error}",
            expected=f"logits {expected}",
            hint="compare the patch and the channels of the folder with its network",
        ) from error
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != expected:
        raise CheckpointError(
            f"the network of {where} answers {shape}",
            expected=f"logits {expected}",
            hint="compare the labels of the folder with the network's outputs, and turn deep supervision off",
        )
