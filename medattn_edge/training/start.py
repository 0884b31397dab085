"""Start: the weights that a training begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from medattn_edge.errors import CheckpointError, UsageError
from medattn_edge.models import build
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.resnet import ResNet, load_torchvision
from medattn_edge.nearby import missing
from medattn_edge.spec import ModelSpec


def initial_network(spec: ModelSpec, seed: int, backbone_weights: Path | None = None) -> SegmentationNetwork:
    """The network of a spec with weights drawn from the seed.

    Args:
        spec: What the network expects.
        seed: Of the weights; torch's own generator is left as it is.
        backbone_weights: A torchvision checkpoint of the backbone's name, for a network that has one.

    Raises:
        UsageError: The network has no backbone.
        CheckpointError: The file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec)
    if backbone_weights is not None:
        backbone = getattr(network, "backbone", None)
        if not isinstance(backbone, ResNet):
            raise UsageError(
                f"{spec.network} has no torchvision backbone",
                expected="a network with one",
                hint="--network self-guided, or no --backbone-weights",
            )
        load_torchvision(backbone, spec.config["backbone"], _state(Path(backbone_weights)))
    return network


def _state(path: Path) -> Mapping[str, Tensor]:
    """The state_dict in a safetensors or torch file; no pickled code is run."""
    if not path.is_file():
        raise missing(path, "a torchvision checkpoint", CheckpointError)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            expected="a state_dict in a whole safetensors or torch file",
            hint="torch.save(torchvision.models.resnet18(weights='DEFAULT').state_dict(), 'resnet18.pth')",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path.name} holds a {type(state).__name__} that is no state_dict",
            expected="names and tensors",
            hint="torch.save(torchvision.models.resnet18(weights='DEFAULT').state_dict(), 'resnet18.pth')",
        )
    return state
