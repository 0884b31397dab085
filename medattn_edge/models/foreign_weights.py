"""Weights of a published layout -> a network without numbers, whose keys and shapes they are known to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medattn_edge.errors import CheckpointError
from medattn_edge.models import build, construct
from medattn_edge.models.nearest import Misfit, nearest_layout
from medattn_edge.models.network import Config, Layout, Network, SegmentationNetwork
from medattn_edge.models.weights import WeightSet, is_measure
from medattn_edge.spec import ModelSpec, nearest_patch


@dataclass(frozen=True)
class Reading:
    """A set of weights as a network that has no numbers yet.

    Attributes:
        network: on the meta device.
        spec: its default spec.
        names: our keys -> the layout's.
        measures: keys of losses and metrics among the network's.
    """

    network: SegmentationNetwork
    spec: ModelSpec
    names: Mapping[str, str]
    measures: list[str]


def read_weights(path: Path, weights: WeightSet, config: Mapping[str, Any]) -> Reading:
    """A set of weights as a network of its layout, with the settings that a user gave.

    Raises CheckpointError unless the set has exactly the keys and shapes of its layout.
    """
    record, layout, shapes = weights.record, weights.layout, weights.shapes
    try:
        settings = {**record.settings, **layout.config(shapes)}
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path.name} lacks {error} of the layout {layout.name}",
            expected="every key of it",
            hint=nearest_layout(shapes),
        ) from error
    channels = _channels(shapes, layout, settings)
    settings |= checked_settings(record, config)
    spec = _default_spec(record, settings, *channels)
    network = outline(spec)
    names = layout.published(network.state_dict(), settings)
    unknown = [key for key in weights.state if key not in layout.to_ours([key], settings) and not layout.is_dead(key)]
    measures = [key for key in unknown if is_measure(key, weights.state[key])]
    alive = {key: value for key, value in weights.state.items() if key not in measures and not layout.is_dead(key)}
    wanted = {names[key]: value for key, value in network.state_dict().items()}
    misfit = Misfit.between(alive, wanted)
    if misfit:
        raise CheckpointError(
            f"{path.name} does not fit the layout {layout.name}: {misfit.describe(layout)}",
            expected="exactly its keys and shapes",
            hint=misfit.hint(),
        )
    return Reading(network, spec, names, measures)


def outline(spec: ModelSpec) -> SegmentationNetwork:
    """The network of a spec without numbers: a file that claims a huge network must not make us allocate one."""
    with torch.device("meta"):
        return build(spec)


def checked_settings(record: Network, config: Mapping[str, Any]) -> Config:
    """The settings that a user gave; raises CheckpointError for one that the network has not."""
    unknown = sorted(set(config) - set(record.settings))
    if unknown:
        raise CheckpointError(
            f"the settings {unknown} of {record.name}",
            expected=f"some of {sorted(record.settings)}",
            hint=f"--set {next(iter(record.settings))}=...",
        )
    return dict(config)


def _channels(shapes: Mapping[str, tuple[int, ...]], layout: Layout, settings: Config) -> tuple[int, int]:
    """C of the first convolution and K of the output's, by their place in our network."""
    ours = {mine: shapes[theirs] for theirs, mine in layout.to_ours(shapes, settings).items()}
    try:
        first = next(ours[key] for key in layout.first if key in ours)
        last = next(ours[key] for key in layout.last if key in ours)
    except StopIteration:
        raise CheckpointError(
            f"no input or output convolution in the layout {layout.name}",
            expected="every key of it",
            hint=nearest_layout(shapes),
        ) from None
    if len(first) < 2 or len(last) < 1:
        raise CheckpointError(
            f"an input convolution of shape {first} and an output convolution of shape {last}",
            expected="(channels, C, ...) and (K, channels, ...)",
            hint=nearest_layout(shapes),
        )
    return first[1], last[0]


def _default_spec(record: Network, settings: Config, in_channels: int, outputs: int) -> ModelSpec:
    with torch.device("meta"):
        stride = construct(record, settings, in_channels, outputs).stride
    patch = nearest_patch(record.patch_for(settings), stride)
    names = ("background", *(f"class_{index}" for index in range(1, max(outputs, 2))))
    return ModelSpec(
        network=record.name,
        in_channels=in_channels,
        labels=names,
        patch=patch,
        stride=stride,
        intensity=record.intensity,
        axes=record.axes,
        outputs=outputs,
        config=settings,
    )
