"""Multi-scale self-guided attention (Sinha & Dolz 2020, arXiv:1906.02849), 2-D.

A ResNet's four feature maps meet at a quarter of the image's size. Two steps of position and channel attention follow,
each multiplied by what a semantic autoencoder makes of the same input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medattn_edge.models.attention import ChannelAttention, PositionAttention
from medattn_edge.models.blocks import NORM_EPS, conv, conv_norm, double_conv, is_eps, resize_like, restyle, stack_maps
from medattn_edge.models.network import (
    Config,
    Layout,
    Network,
    SegmentationNetwork,
    TrainingOutputs,
)
from medattn_edge.models.resnet import ResNet
from medattn_edge.models.self_guided_layouts import config_2019, config_2020, modules_2019, modules_2020
from medattn_edge.spec import Intensity

_SCALES = 4


class SelfGuidedAttentionMaps(NamedTuple):
    """What the second step looks at, scale 1 (the finest) first, at a quarter of the image's size.

    position: (N, 4, h, w), how much attention a position receives, 1 is average. channel: (N, 4, C, C), row i says
    which channels channel i is mixed with. guided: (N, 4, h, w), mean absolute guided response.
    """

    position: Tensor
    channel: Tensor
    guided: Tensor


class SemanticAutoencoder(nn.Module):
    """Two pooling encoders and two transposed-convolution decoders: 2w -> 4w -> 8w -> 4w -> 2w channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        c1, c2, c3 = 2 * width, 4 * width, 8 * width
        self.encode1 = nn.Sequential(*double_conv(2, c1, c2), nn.MaxPool2d(2))
        self.encode2 = nn.Sequential(*double_conv(2, c2, c3), nn.MaxPool2d(2))
        self.decode2 = nn.Sequential(*double_conv(2, c3, c2), nn.ConvTranspose2d(c2, c2, 2, stride=2))
        self.decode1 = nn.Sequential(*double_conv(2, c2, c1), nn.ConvTranspose2d(c1, c1, 2, stride=2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2w, h, w) -> code (N, 8w, h/4, w/4), reconstruction (N, 2w, h, w)."""
        half = self.encode1(x)
        code = self.encode2(half)
        return code, self.decode1(resize_like(self.decode2(code), half))


class AutoencoderBank(nn.Module):
    """The autoencoders of one step: one for all scales as published, or one per scale as in the article."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.members = nn.ModuleList([SemanticAutoencoder(width) for _ in range(count)])

    def forward(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The codes and the reconstructions of the scales' inputs."""
        codes: list[Tensor] = []
        reconstructions: list[Tensor] = []
        shared = len(self.members) == 1
        for index, member in enumerate(self.members):
            for x in inputs if shared else inputs[index : index + 1]:
                code, reconstruction = member(x)
                codes.append(code)
                reconstructions.append(reconstruction)
        return codes, reconstructions


class AttentionLayer(nn.Module):
    """Conv3(2w, w)+BN+PReLU, an attention, Conv3(w, w)+BN+PReLU."""

    def __init__(self, attention: PositionAttention | ChannelAttention, width: int) -> None:
        super().__init__()
        self.reduce = conv_norm(2, 2 * width, width, 3, nn.PReLU())
        self.attention = attention
        self.restore = conv_norm(2, width, width, 3, nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2w, h, w) -> (N, w, h, w)."""
        return self.restore(self.attention(self.reduce(x)))  # type: ignore[no-any-return]

    def weights(self, x: Tensor) -> Tensor:
        """The attention's weights for this input: (N, hw, hw) or (N, w, w)."""
        return self.attention.weights(self.reduce(x))


class GuidedScale(nn.Module):
    """Both attentions of one scale, guided by the semantic reconstruction."""

    def __init__(self, width: int, energy: str) -> None:
        super().__init__()
        self.position = AttentionLayer(PositionAttention(width), width)
        self.channel = AttentionLayer(ChannelAttention(energy), width)
        self.semantic = conv(2, 2 * width, width)
        self.refine = conv(2, width, width, 1)

    def guided(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """(CAM + PAM) * semantic, (N, w, h, w)."""
        return (self.channel(x) + self.position(x)) * self.semantic(reconstruction)  # type: ignore[no-any-return]

    def received(self, x: Tensor) -> Tensor:
        """(N, 1, h, w): the attention that each position receives from all others, 1 is average."""
        received: Tensor = self.position.attention.received(self.position.reduce(x))  # type: ignore[operator]
        return received.reshape(x.shape[0], 1, x.shape[2], x.shape[3])

    def response(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """(N, 1, h, w): the mean absolute guided response."""
        return self.guided(x, reconstruction).abs().mean(1, keepdim=True)

    def forward(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """(N, 2w, h, w) twice -> (N, w, h, w)."""
        return self.refine(self.guided(x, reconstruction))  # type: ignore[no-any-return]


class GuidedStep(nn.Module):
    """One attention step over the four scales."""

    def __init__(self, width: int, energy: str, autoencoders: int) -> None:
        super().__init__()
        self.autoencoders = AutoencoderBank(width, autoencoders)
        self.scales = nn.ModuleList([GuidedScale(width, energy) for _ in range(_SCALES)])

    def forward(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Refined features, codes and reconstructions, each of the four scales."""
        codes, reconstructions = self.autoencoders(inputs)
        refined: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            refined.append(scale(inputs[index], reconstructions[index]))
        return refined, codes, reconstructions


class SelfGuidedAttention(SegmentationNetwork):
    """The whole network. Lists run over the scales, the finest (scale 1) first."""

    def __init__(self, config: Config, in_channels: int, outputs: int) -> None:
        names = (f"{kind}_{scale}" for kind in ("position", "guided") for scale in range(1, _SCALES + 1))
        super().__init__((8, 8), tuple(names), (16, 16))
        width, energy = config["width"], config["channel_energy"]
        autoencoders = {"shared": 1, "per_scale": _SCALES}[config["autoencoder"]]
        self.backbone = ResNet(config["backbone"], in_channels, config["backbone_width"])
        self.down = nn.ModuleList([conv_norm(2, c, width, 1, nn.PReLU()) for c in self.backbone.channels])
        self.fuse = nn.Sequential(
            *conv_norm(2, 4 * width, width, 3, nn.PReLU()),
            *conv_norm(2, width, width, 3, nn.PReLU()),
            *conv_norm(2, width, width, 1, nn.PReLU()),
        )
        self.step1 = GuidedStep(width, energy, autoencoders)
        self.step2 = GuidedStep(width, energy, autoencoders)
        self.side_heads = nn.ModuleList([conv(2, width, outputs, 1) for _ in range(_SCALES)])
        self.heads = nn.ModuleList([conv(2, width, outputs, 1) for _ in range(_SCALES)])
        restyle(self, config["norm_eps"])

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K, H, W): the mean of the four scales' heads."""
        down, fused = self._features(image)
        refined = self._steps(down, fused)[0]
        return self._logits(refined, image)

    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same logits; position and guided attention of the second step, four scales each."""
        down, fused = self._features(image)
        refined, inputs, reconstructions = self._steps(down, fused)
        maps: list[Tensor] = []
        for index, scale in enumerate(self.step2.scales):
            maps.append(scale.received(inputs[index]))  # type: ignore[operator]
        for index, scale in enumerate(self.step2.scales):
            maps.append(scale.response(inputs[index], reconstructions[index]))  # type: ignore[operator]
        return self._logits(refined, image), stack_maps(maps, image)

    def attention(self, image: Tensor) -> SelfGuidedAttentionMaps:
        """The maps of the second step at their own resolution, channel attention included."""
        _, inputs, reconstructions = self._steps(*self._features(image))
        scales = [scale for scale in self.step2.scales if isinstance(scale, GuidedScale)]
        return SelfGuidedAttentionMaps(
            torch.cat([scale.received(x) for scale, x in zip(scales, inputs, strict=True)], 1),
            torch.stack([scale.channel.weights(x) for scale, x in zip(scales, inputs, strict=True)], 1),
            torch.cat([s.response(x, y) for s, x, y in zip(scales, inputs, reconstructions, strict=True)], 1),
        )

    def training_outputs(self, image: Tensor) -> TrainingOutputs:
        """The logits, all eight side outputs, the eight reconstructions and the four pairs of codes."""
        down, fused = self._features(image)
        inputs1 = [torch.cat((d, fused), 1) for d in down]
        attended, codes1, out1 = self.step1(inputs1)
        inputs2 = [torch.cat((d, a * fused), 1) for d, a in zip(down, attended, strict=True)]
        refined, codes2, out2 = self.step2(inputs2)
        pairs = [(head, x) for head, x in zip(self.side_heads, down, strict=True)]
        pairs += [(head, x) for head, x in zip(self.heads, refined, strict=True)]
        return TrainingOutputs(
            self._logits(refined, image),
            tuple(resize_like(head(x), image) for head, x in pairs),
            tuple(zip(inputs1 + inputs2, out1 + out2, strict=True)),
            tuple(zip(codes1, codes2, strict=True)),
        )

    def _features(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four scales (N, w, H/4, W/4) and their fusion."""
        features = self.backbone(image)
        down: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(features[index])
            down.append(resize_like(x, features[0]) if index > 0 else x)
        return down, self.fuse(torch.cat((down[3], down[2], down[1], down[0]), 1))

    def _steps(self, down: list[Tensor], fused: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Refined features of step 2, its inputs and its reconstructions."""
        attended, _, _ = self.step1([torch.cat((x, fused), 1) for x in down])
        inputs: list[Tensor] = []
        for index, x in enumerate(down):
            inputs.append(torch.cat((x, attended[index] * fused), 1))
        refined, _, reconstructions = self.step2(inputs)
        return refined, inputs, reconstructions

    def _logits(self, refined: list[Tensor], image: Tensor) -> Tensor:
        """The heads' mean before the resize: a mean of resizes is the resize of the mean."""
        total: list[Tensor] = []
        for index, head in enumerate(self.heads):
            total.append(head(refined[index]))
        mean = (total[0] + total[1] + total[2] + total[3]) * 0.25
        return F.interpolate(mean, size=image.shape[2:], mode="bilinear", align_corners=False)


# Never executed by the published network: accepted and dropped.
_DEAD = r"(attention\d|refine\d|conv6_\d|conv7_\d)\."
_SOURCE = "sinAshish/Multi-Scale-Attention"

NETWORK = Network(
    name="self-guided",
    title="Multi-scale self-guided attention, 2-D",
    build=SelfGuidedAttention,
    settings={
        "backbone": "resnext101_32x8d",
        "width": 64,
        "backbone_width": 64,
        "channel_energy": "inverted",
        "autoencoder": "shared",
        "norm_eps": NORM_EPS[0],
    },
    open_settings=lambda settings: {"channel_energy": ("inverted", "direct"), "norm_eps": NORM_EPS},
    accepts={"norm_eps": is_eps},
    patch=(256, 256),
    intensity=Intensity.parse("minmax:slice"),
    layouts=(
        Layout(
            name="ms_dual_guided",
            source=f"{_SOURCE}, 2020",
            signature=lambda shapes: "predict4_2.weight" in shapes and "pam_attention_1_1.attn.0.weight" in shapes,
            config=config_2020,
            modules=modules_2020,
            first=("backbone.stem.0.weight",),
            last=("heads.0.weight",),
            dead=_DEAD,
        ),
        Layout(
            name="ms_dual_guided_2019",
            source=f"{_SOURCE}, 2019",
            signature=lambda shapes: "predict4_2.weight" in shapes and "pam_attention_1_1.0.weight" in shapes,
            config=config_2019,
            modules=modules_2019,
            first=("backbone.stem.0.weight",),
            last=("heads.0.weight",),
            dead=_DEAD,
        ),
    ),
)
