"""What every network is: its base class, the record of its file, and the published layouts that it can be read from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medattn_edge.errors import ShapeError
from medattn_edge.models.blocks import stack_maps
from medattn_edge.spec import Intensity

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]
Candidates = Mapping[str, tuple[Any, ...]]


class TrainingOutputs(NamedTuple):
    """What a training step sees.

    Attributes:
        logits: (N, K, *spatial), as `forward` gives them.
        side_logits: Further predictions of the same labels, the same shape.
        reconstructions: (input, output) pairs of the autoencoders.
        latents: (step 1, step 2) pairs of their codes.
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()
    reconstructions: tuple[tuple[Tensor, Tensor], ...] = ()
    latents: tuple[tuple[Tensor, Tensor], ...] = ()


class SegmentationNetwork(nn.Module, ABC):
    """One tensor in, one logits tensor out: (N, C, *spatial) -> (N, K, *spatial), in training and in evaluation.

    Attributes:
        stride: Every spatial size must be a multiple of it.
        minimum: Every spatial size must be at least this; the stride, if not given.
        attention_names: The maps that `forward_attention` returns.
    """

    def __init__(
        self, stride: tuple[int, ...], attention_names: tuple[str, ...], minimum: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        # Not annotated in the class body: TorchScript reads those annotations and knows no tuple[int, ...].
        self.stride, self.minimum, self.attention_names = stride, minimum or stride, attention_names

    def __call__(self, image: Tensor) -> Tensor:
        """`forward` after `check_shape`; scripted and traced networks are checked by their session instead."""
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self.check_shape(tuple(image.shape[2:]))
        logits: Tensor = super().__call__(image)
        return logits

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, *spatial)."""

    @abstractmethod
    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same logits, and attention maps (N, A, *spatial) at the image's resolution."""

    def training_outputs(self, image: Tensor) -> TrainingOutputs:
        """What the loss needs; a network with more than its logits overrides it."""
        return TrainingOutputs(self(image))

    def check_shape(self, spatial: tuple[int, ...]) -> None:
        """Refuse a size that the network cannot take.

        Raises:
            ShapeError: Names the nearest size that it can take.
        """
        fits = len(spatial) == len(self.stride) and all(
            size >= low and size % step == 0 for size, step, low in zip(spatial, self.stride, self.minimum, strict=True)
        )
        if fits:
            return
        sizes = spatial if len(spatial) == len(self.stride) else tuple(16 * step for step in self.stride)
        nearest = (
            max(-(-low // step), (2 * size + step) // (2 * step)) * step
            for size, step, low in zip(sizes, self.stride, self.minimum, strict=True)
        )
        raise ShapeError(
            f"the network cannot take the size {'x'.join(map(str, spatial))}",
            expected=f"multiples of {'x'.join(map(str, self.stride))}, at least {'x'.join(map(str, self.minimum))}",
            hint="the nearest is " + "x".join(map(str, nearest)),
        )


class GatedNetwork(SegmentationNetwork):
    """A network whose attention maps are its gates' coefficients: one pass gives them and the logits."""

    @abstractmethod
    def _decode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, K, *spatial) and the gates' coefficients (N, 1, *smaller), the deepest level first."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, *spatial)."""
        return self._decode(image)[0]

    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same logits and the gates' coefficients (N, A, *spatial), the deepest level first."""
        logits, maps = self._decode(image)
        return logits, stack_maps(maps, image)


class WithAttention(nn.Module):
    """A network whose forward returns (logits, attention maps), as an artifact with maps is exported."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, *spatial) -> (N, K, *spatial), (N, A, *spatial)."""
        logits_and_maps: tuple[Tensor, Tensor] = self.network.forward_attention(image)
        return logits_and_maps


@dataclass(frozen=True)
class Layout:
    """One published state_dict layout of a network.

    Attributes:
        name: As messages and `Checkpoint.layout` have it.
        source: Where it is published.
        signature: Whether shapes have the keys that only this layout has.
        config: Shapes -> the network's settings.
        modules: Settings -> published module path to our module path, a prefix of the keys on either side.
        first: Our keys of the convolution whose shape gives C; the first one present counts.
        last: Our keys of the convolution whose shape gives K; the first one present counts.
        dead: A pattern of published keys that are never executed, and are dropped.
        usual: Settings to compare an unknown file with.
        levels: A pattern of keys whose group counts the levels, where the network has `depth` of them.
        depth: How many levels we build.
    """

    name: str
    source: str
    signature: Callable[[Shapes], bool]
    config: Callable[[Shapes], Config]
    modules: Callable[[Config], Mapping[str, str]]
    first: tuple[str, ...]
    last: tuple[str, ...]
    dead: str = "(?!)"
    usual: Mapping[str, Any] = field(default_factory=dict)
    levels: str = ""
    depth: int = 0

    def is_dead(self, key: str) -> bool:
        """Whether a published key is never executed."""
        return re.match(self.dead, key) is not None

    def to_ours(self, keys: Iterable[str], config: Config) -> dict[str, str]:
        """Published key -> our key, of the keys that are alive and known."""
        prefixes = self.modules(config)
        alive = [key for key in keys if not self.is_dead(key)]
        return {key: ours for key in alive if (ours := _translate(key, prefixes)) is not None}

    def published(self, keys: Iterable[str], config: Config) -> dict[str, str]:
        """Our key -> published key."""
        prefixes = {ours: theirs for theirs, ours in self.modules(config).items()}
        return {key: theirs for key in keys if (theirs := _translate(key, prefixes)) is not None}


def _translate(key: str, prefixes: Mapping[str, str]) -> str | None:
    """The key with its longest known prefix replaced."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        replacement = prefixes.get(".".join(parts[:length]))
        if replacement is not None:
            return ".".join([replacement, *parts[length:]])
    return None


@dataclass(frozen=True)
class Network:
    """The record of a network file. A foreign checkpoint says nothing of patch, intensity and axes: these are assumed.

    Attributes:
        name: As --network takes it.
        title: For tables.
        build: Settings, C, K -> network.
        settings: Every setting with its default.
        patch: (H, W) or (D, H, W).
        layouts: Published forms of its state_dict.
        intensity: What it was published with.
        axes: The spec's order of the spatial axes.
        patch_3d: The patch when the settings say dims 3.
        open_settings: Full settings -> those that keys and shapes cannot tell, each with its candidates, the most usual
            first.
        accepts: What a setting may be whose default does not show it by its type.
    """

    name: str
    title: str
    build: Callable[[Config, int, int], SegmentationNetwork]
    settings: Mapping[str, Any]
    patch: tuple[int, ...]
    layouts: tuple[Layout, ...]
    intensity: Intensity = field(default_factory=Intensity)
    axes: str = ""
    patch_3d: tuple[int, ...] = ()
    open_settings: Callable[[Config], Candidates] = lambda settings: {}
    accepts: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)

    def patch_for(self, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """The default patch for these settings."""
        return self.patch_3d if settings.get("dims") == 3 else self.patch


def parameter_count(network: nn.Module) -> int:
    """How many numbers a network has learnt: its parameters, without buffers such as a norm's running mean."""
    return sum(value.numel() for value in network.parameters())
