"""The autoencoder's 2x2 transposed convolutions joined with the 3x3 convolutions after them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medattn_edge.models.blocks import resize_like
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import GuidedStep, SelfGuidedAttention, SemanticAutoencoder
from medattn_edge.rewrites.open_guided import open_network
from medattn_edge.rewrites.phase_convolution import PhaseConvolution
from medattn_edge.rewrites.rewrite import Rewrite


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


def apply(network: SegmentationNetwork) -> list[str]:
    """Per autoencoder its inner pair, and per scale the last transposed convolution with the scale's `semantic`."""
    touched: list[str] = []
    if not isinstance(network, SelfGuidedAttention):
        return touched
    for name, step in (("step1", network.step1), ("step2", network.step2)):
        if not isinstance(step.autoencoders.members[0], PhaseAutoencoder):
            touched += [f"{name}.{path}" for path in _join(step)]
    if touched:
        open_network(network)
    return touched


def _join(step: GuidedStep) -> list[str]:
    members, touched = step.autoencoders.members, []
    for index, scale in enumerate(step.scales):
        up = members[index % len(members)].decode1[-1]  # type: ignore[index]
        scale.semantic = PhaseConvolution(up, scale.semantic)  # type: ignore[arg-type]
        touched.append(f"scales.{index}.semantic")
    for index, member in enumerate(members):
        members[index] = PhaseAutoencoder(member)  # type: ignore[arg-type]
        touched.append(f"autoencoders.members.{index}")
    return touched


REWRITE = Rewrite(
    name="transposed-convolution",
    title="2x2 transposed convolution and 3x3 convolution as one of 4x4, with its bias along the border",
    source="both are linear, and nothing stands between them",
    apply=apply,
    after=("batch-norm",),
)
