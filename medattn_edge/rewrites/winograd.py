"""Wide 3x3 convolutions by Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medattn_edge.models.flops import imagined
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites import winograd_convolution
from medattn_edge.rewrites.phase_convolution import is_same_3x3
from medattn_edge.rewrites.rewrite import Rewrite, sites
from medattn_edge.rewrites.winograd_convolution import WinogradConvolution
from medattn_edge.spec import ModelSpec

LEAST_CHANNELS = 128  # below, the transforms cost more than they save at any size


def apply(network: SegmentationNetwork) -> list[str]:
    """2-D convolutions of at least 128 channels in and out; at a size where it does not pay they stay what they are."""
    return _made(network, _wide(network))


def apply_at(network: SegmentationNetwork, spec: ModelSpec) -> list[str]:
    """Those of them that it pays for at one of the sizes that they see, at the patch of the spec."""
    wide, worth = _wide(network), set[nn.Module]()

    def look(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        height, width = inputs[0].shape[2:]
        if winograd_convolution.pays(conv.in_channels, conv.out_channels, height, width):
            worth.add(conv)

    hooks = [conv.register_forward_pre_hook(look) for conv in wide.values()]
    imagined(network, spec)()
    for hook in hooks:
        hook.remove()
    return _made(network, {path: conv for path, conv in wide.items() if conv in worth})


def _wide(network: SegmentationNetwork) -> dict[str, nn.Conv2d]:
    """By path, without those that are made already."""
    done = {made.direct for _, made in sites(network, WinogradConvolution)}
    return {
        path: conv
        for path, conv in sites(network, nn.Conv2d)
        if conv not in done and is_same_3x3(conv) and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
    }


def _made(network: SegmentationNetwork, convs: Mapping[str, nn.Conv2d]) -> list[str]:
    for path, conv in convs.items():
        network.set_submodule(path, WinogradConvolution(conv))
    return list(convs)


REWRITE = Rewrite(
    name="winograd",
    title="wide 3x3 convolutions by Winograd's algorithm, FP32 only",
    source="Lavin and Gray 2016, arXiv:1509.09308: F(4x4, 3x3) takes a quarter of the products",
    apply=apply,
    after=(
        "attention-inputs",
        "batch-norm",
        "batched-autoencoder",
        "concat-sums",
        "linear-heads",
        "nearest-upsampling",
        "pixel-shuffle",
        "shared-halves",
        "training-parts",
        "transposed-convolution",
    ),
    fp32_only=True,
    apply_at=apply_at,
)
