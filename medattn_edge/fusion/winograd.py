"""Wide 3x3 convolutions by Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medattn_edge.fusion import winograd_convolution
from medattn_edge.fusion.cost import imagined
from medattn_edge.fusion.phase_convolution import is_same_3x3
from medattn_edge.fusion.rewrite import Rewrite, sites
from medattn_edge.fusion.winograd_convolution import WinogradConvolution
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec

LEAST_CHANNELS = 128  # below, the transforms cost more than they save at any size


def apply(network: SegmentationNetwork) -> list[str]:
    """2-D convolutions of at least 128 channels in and out; at a size where it does not pay they stay what they are."""
    touched = []
    done = {id(made.direct) for _, made in sites(network, WinogradConvolution)}
    for path, conv in sites(network, nn.Conv2d):
        wide = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
        if id(conv) not in done and is_same_3x3(conv) and wide:
            network.set_submodule(path, WinogradConvolution(conv))
            touched.append(path)
    return touched


def settle(network: SegmentationNetwork, spec: ModelSpec) -> list[str]:
    """Convolutions that it does not pay for at any of the sizes they see go back to what they were."""
    made = dict(sites(network, WinogradConvolution))
    worth: set[str] = set()

    def seeing(path: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
            channels, height, width = inputs[0].shape[1:]
            if winograd_convolution.pays(channels, made[path].outputs, height, width):
                worth.add(path)

        return look

    hooks = [module.register_forward_pre_hook(seeing(path)) for path, module in made.items()]
    imagined(network, spec)()
    for hook in hooks:
        hook.remove()
    for path, module in made.items():
        if path not in worth:
            network.set_submodule(path, module.direct)
    return [path for path in made if path in worth]


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
    settle=settle,
)
