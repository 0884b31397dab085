"""Checkpoint -> network. One file per network, each with its NETWORK record.

The attention blocks are public, for networks of one's own: `AdditiveGate` (a gate on the skip's own grid, 2-D and 3-D),
`GridGate` (the 3-D gate of the article, whose signal has a coarser grid), `PositionAttention`, `ChannelAttention`,
`GuidedScale` (both of them, guided by a `SemanticAutoencoder`'s reconstruction).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import CheckpointError, UsageError
from medattn_edge.installation import upgrade_line
from medattn_edge.models.network import Network, SegmentationNetwork
from medattn_edge.nearby import nearest as nearest_name  # a module of this package is called nearest
from medattn_edge.registry import records
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    from medattn_edge.models.attention import ChannelAttention, PositionAttention
    from medattn_edge.models.attention_unet_3d import GridGate
    from medattn_edge.models.gated_unet import AdditiveGate
    from medattn_edge.models.self_guided_attention import GuidedScale, SemanticAutoencoder

# Found on first use: the files of the networks import this one.
_BLOCKS = {
    "AdditiveGate": "gated_unet",
    "ChannelAttention": "attention",
    "GridGate": "attention_unet_3d",
    "GuidedScale": "self_guided_attention",
    "PositionAttention": "attention",
    "SemanticAutoencoder": "self_guided_attention",
}

__all__ = [
    "AdditiveGate",
    "ChannelAttention",
    "GridGate",
    "GuidedScale",
    "PositionAttention",
    "SemanticAutoencoder",
    "build",
    "construct",
    "network_record",
    "networks",
]


def __getattr__(name: str) -> Any:
    if name not in _BLOCKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_BLOCKS[name]}"), name)


def networks() -> dict[str, Network]:
    """Every network by name."""
    return {record.name: record for record in records("medattn_edge.models", "NETWORK", "medattn_edge.networks")}


def network_record(name: str) -> Network:
    """The record of a network.

    Raises:
        UsageError: The name is not known.
    """
    known = networks()
    if name not in list(known):  # whatever a file says, also what has no hash
        raise UsageError(
            f"the network {name!r} is not known",
            expected=f"one of {', '.join(known)}",
            hint=f"--network {nearest_name(name, known) or next(iter(known))}",
        )
    return known[name]


def build(spec: ModelSpec) -> SegmentationNetwork:
    """The network of a spec, freshly initialised, in evaluation mode.

    Raises:
        UsageError: The spec's network is not known.
        CheckpointError: The spec's settings are not the network's.
        ShapeError: The network cannot take the spec's patch.
    """
    record = network_record(spec.network)
    surplus = sorted(set(spec.config) - set(record.settings))
    if surplus:
        raise CheckpointError(
            f"the settings {surplus} of {spec.network}",
            expected=f"some of {sorted(record.settings)}",
            hint=upgrade_line(),
        )
    network = construct(record, {**record.settings, **spec.config}, spec.in_channels, spec.outputs)
    network.check_shape(spec.patch)
    return network.eval()


def construct(record: Network, settings: Mapping[str, Any], in_channels: int, outputs: int) -> SegmentationNetwork:
    """The network of a record.

    Args:
        record: Which network.
        settings: All its settings.
        in_channels: C.
        outputs: K.

    Raises:
        CheckpointError: It cannot be built with these values.
    """
    try:
        for name, value in [*settings.items(), ("in_channels", in_channels), ("outputs", outputs)]:
            accepts = record.accepts.get(name)
            if not (accepts(value) if accepts else _fits(value, record.settings.get(name, 1))):
                raise ValueError(f"{name} is {value!r}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element", category=UserWarning)
            network = record.build(dict(settings), in_channels, outputs)
        empty = [key for key, value in network.state_dict().items() if value.numel() == 0]
        if empty:
            raise ValueError(f"{empty[0]} would have no channels")
        return network
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"the settings {dict(settings)} cannot be built: {error}",
            expected=f"settings like {dict(record.settings)}",
            hint=f"--set {next(iter(record.settings))}={next(iter(record.settings.values()))}",
        ) from error


def _fits(value: Any, default: Any) -> bool:
    """Whether a setting has its default's type; numbers count something and are at least 1."""
    if isinstance(default, list):
        return isinstance(value, list | tuple) and len(value) > 0 and all(_fits(one, default[0]) for one in value)
    return type(value) is type(default) and (type(value) is not int or value >= 1)
