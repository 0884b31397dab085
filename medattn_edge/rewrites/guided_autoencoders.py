"""The self-guided network's autoencoders: shared halves convolved once, scales as one batch, upsampling joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.blocks import resize_like
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import GuidedStep, SelfGuidedAttention, SemanticAutoencoder
from medattn_edge.rewrites.decomposed_guided import (
    DecomposedAutoencoders,
    FirstConvolutions,
    decompose_autoencoders,
    decompose_guided,
)
from medattn_edge.rewrites.linear import input_parts
from medattn_edge.rewrites.record import Rewrite
from medattn_edge.rewrites.upsampling import PhaseConvolution


class SharedFirstConvolution(nn.Module):
    """conv(cat(own, common)) = conv_own(own) + conv_common(common), the second computed once; see FirstConvolutions."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.split = conv.in_channels // 2
        self.own, self.common = input_parts(conv, [self.split, conv.in_channels - self.split])
        self.batched = False

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """The hidden maps of inputs (N, C, h, w) that share their second half of channels."""
        common = self.common(inputs[0][:, self.split :])
        own = [x[:, : self.split] for x in inputs]
        if self.batched:
            hidden = self.own(torch.cat(own, 0))
            scales = hidden.reshape(len(own), -1, hidden.shape[1], hidden.shape[2], hidden.shape[3])
            return [(scales + common).reshape(hidden.shape)]
        return [self.own(x) + common for x in own]


def share_first_convolution(network: SegmentationNetwork) -> list[str]:
    """The first step of the self-guided network, when its scales share one autoencoder."""
    if not isinstance(network, SelfGuidedAttention) or len(network.step1.autoencoders.members) != 1:
        return []
    bank = network.step1.autoencoders
    if isinstance(bank, DecomposedAutoencoders) and not isinstance(bank.first, FirstConvolutions):
        return []
    bank = decompose_autoencoders(network.step1)
    first = SharedFirstConvolution(bank.first.convs[0])  # type: ignore[arg-type, index]
    first.batched = bank.batched
    bank.first = first
    return ["step1.autoencoders"]


SHARED_HALVES = Rewrite(
    name="shared-halves",
    title="the half of the first step's autoencoder input that every scale has, convolved once",
    source="conv(cat(a, b)) = conv_a(a) + conv_b(b)",
    apply=share_first_convolution,
    after=("batch-norm",),
)


def batch_autoencoders(network: SegmentationNetwork) -> list[str]:
    """Both steps of the self-guided network: a quarter of the operators, each on four times the data."""
    paths: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return paths
    for name, step in (("step1", network.step1), ("step2", network.step2)):
        if len(step.autoencoders.members) != 1:
            continue
        bank = decompose_autoencoders(step)
        if not bank.batched:
            bank.batched = True
            bank.first.batched = True  # type: ignore[assignment]
            paths.append(f"{name}.autoencoders")
    return paths


BATCHED_AUTOENCODER = Rewrite(
    name="batched-autoencoder",
    title="one call of the autoencoder per step, the four scales as its batch",
    source="a convolution sees every sample of a batch alone",
    apply=batch_autoencoders,
    after=("shared-halves", "attention-inputs"),
)


class PhaseAutoencoder(SemanticAutoencoder):
    """A SemanticAutoencoder without its last transposed convolution, the inner one joined with what follows it.

    The published network resizes between the two where the code's size was rounded down, which is where a quarter of
    the image's size is no multiple of 4. There, and while tracing, they stay apart.
    """

    def __init__(self, autoencoder: SemanticAutoencoder) -> None:
        nn.Module.__init__(self)
        self.encode1, self.encode2 = autoencoder.encode1, autoencoder.encode2
        *before, up = autoencoder.decode2
        conv, *after, _ = autoencoder.decode1
        self.decode2, self.decode1 = nn.Sequential(*before), nn.Sequential(*after)
        self.up, self.conv = up, conv
        self.up_conv = PhaseConvolution(up, conv)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2w, h, w) -> code (N, 8w, h/4, w/4), what the reconstruction is made from (N, 2w, h/2, w/2)."""
        half = self.encode1(x)
        code = self.encode2(half)
        small = self.decode2(code)
        if torch.jit.is_tracing() or not _is_half(small, half):  # type: ignore
            return code, self.decode1(self.conv(resize_like(self.up(small), half)))
        return code, self.decode1(self.up_conv(small))


def _is_half(small: Tensor, large: Tensor) -> bool:
    return 2 * small.shape[2] == large.shape[2] and 2 * small.shape[3] == large.shape[3]


def join_transposed_convolutions(network: SegmentationNetwork) -> list[str]:
    """Per autoencoder its inner pair, and per scale the last transposed convolution with the scale's `semantic`."""
    paths: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return paths
    for name, step in (("step1", network.step1), ("step2", network.step2)):
        if not isinstance(step.autoencoders.members[0], PhaseAutoencoder):
            paths += [f"{name}.{path}" for path in _join(step)]
    if paths:
        decompose_guided(network)
    return paths


def _join(step: GuidedStep) -> list[str]:
    members, paths = step.autoencoders.members, []
    for index, scale in enumerate(step.scales):
        up = members[index % len(members)].decode1[-1]  # type: ignore[index]
        scale.semantic = PhaseConvolution(up, scale.semantic)  # type: ignore[arg-type]
        paths.append(f"scales.{index}.semantic")
    for index, member in enumerate(members):
        members[index] = PhaseAutoencoder(member)  # type: ignore[arg-type]
        paths.append(f"autoencoders.members.{index}")
    return paths


TRANSPOSED_CONVOLUTION = Rewrite(
    name="transposed-convolution",
    title="2x2 transposed convolution and 3x3 convolution as one of 4x4, with its bias along the border",
    source="both are linear, and nothing stands between them",
    apply=join_transposed_convolutions,
    after=("batch-norm",),
)

REWRITES = (
    SHARED_HALVES,
    BATCHED_AUTOENCODER,
    TRANSPOSED_CONVOLUTION,
)
