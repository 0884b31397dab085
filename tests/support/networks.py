"""Small real networks, made on the spot: as modules, as checkpoints and as artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.spec import ModelSpec


def gated_spec(
    patch: tuple[int, ...] = (32, 32), widths: tuple[int, ...] = (4, 8, 16), *, channels: int = 1,
    labels: tuple[str, ...] = ("background", "organ"), **more: Any,
) -> ModelSpec:  # fmt: skip
    """What a 2-D MONAI Attention U-Net of some widths expects: the network that is built and exported fastest."""
    config = {"dims": 2, "channels": list(widths)}
    return ModelSpec("attention-unet-monai", channels, labels, patch, (4, 4), config=config, **more)


SMALL = gated_spec()


def randomised(network: Any) -> Any:
    """The network with gamma, BatchNorm statistics and PReLU slopes away from where a fresh one has them.

    gamma starts at 0 and BatchNorm at the identity, so that an equivalence on a fresh network would prove nothing. Nor
    would it where the image does not reach the logits: the convolutions get He's scale, which torch's own is far below.
    """
    import torch

    generator = torch.Generator().manual_seed(7)

    def uniform(like: Any, low: float, high: float) -> Any:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(uniform(parameter, 0.3, 0.7))
        for name, module in network.named_modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.copy_(uniform(module.running_mean, -0.2, 0.2))
                module.running_var.copy_(uniform(module.running_var, 0.6, 1.4))
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                gain = 0.6 if name.startswith(("down.", "fuse.", "step")) else 1.0  # products would explode
                scale = gain * (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
            if isinstance(module, torch.nn.PReLU):
                module.weight.copy_(uniform(module.weight, 0.1, 0.4))
    return network.eval()


def random_network(spec: ModelSpec = SMALL, seed: int = 1, *, balanced: bool = False) -> Any:
    """The network of a spec with random weights.

    Args:
        spec: what it expects.
        seed: the same gives the same weights.
        balanced: move the bias of the last layer so that no class wins everywhere; labels that are empty, or full,
            prove nothing.
    """
    import torch

    from medattn_edge.models import build

    torch.manual_seed(seed)
    network = randomised(build(spec))
    if balanced:
        with torch.no_grad():
            logits = network(torch.rand(8, spec.in_channels, *spec.patch))
            list(network.parameters())[-1].sub_(logits.mean([axis for axis in range(logits.ndim) if axis != 1]))
    return network


def checkpoint_with(network: Any, spec: ModelSpec) -> Any:
    """A network as if it had been read from a file whose SHA-256 is 64 times c."""
    from medattn_edge.models.checkpoint import Checkpoint

    return Checkpoint(network, spec, "c" * 64, "medattn_edge", foreign=False, notes={})


def random_checkpoint(spec: ModelSpec = SMALL, seed: int = 1, *, balanced: bool = False) -> Any:
    """A `random_network` as if it had been read from a file."""
    return checkpoint_with(random_network(spec, seed, balanced=balanced), spec)


def save_checkpoint(path: Path, spec: ModelSpec = SMALL, seed: int = 1, *, balanced: bool = False) -> Path:
    """A `random_network` written to a file of our own layout."""
    from medattn_edge.models.checkpoint import save

    save(path, random_network(spec, seed, balanced=balanced), spec)
    return path


def export_checkpoint(
    checkpoint: Any, path: Path, *, rewrites: Sequence[str] = (), samples: Mapping[str, Any] | None = None,
    batch: int | None = None, attention: bool = False,
) -> Artifact:  # fmt: skip
    """The artifact of a checkpoint, which is a file or has been read; without samples, held to noise."""
    from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
    from medattn_edge.models.checkpoint import load
    from medattn_edge.rewrites import rewrite

    loaded = load(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    noise = {"random": random_patches(loaded.spec, 2)} if samples is None else samples
    settings = ExportSettings(batch=batch, attention=attention)
    return export_fp32(rewrite(loaded, tuple(rewrites)), path, noise, settings=settings)


def with_other_weights(artifact: Path, path: Path, factor: float = 1.01) -> Path:
    """An ONNX artifact with its largest weight a little larger, under a manifest that was made to fit."""
    import numpy as np
    import onnx

    model = onnx.load(str(artifact))
    weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    values = onnx.numpy_helper.to_array(weights) * np.float32(factor)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, str(path))
    replace(Artifact.read(artifact).manifest, sha256=sha256(path)).write(manifest_path(path))
    return path
