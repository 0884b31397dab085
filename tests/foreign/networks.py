"""Networks as other people write them: plain PyTorch, and MONAI's; their weights away from where they start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder2d(nn.Module):
    """2-D, bilinear upsampling by size, BatchNorm; answers logits, or what `end` makes of them."""

    def __init__(self, outputs: int = 3, end: nn.Module | None = None) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.head = nn.Conv2d(16, outputs, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        skip = self.a(x)
        up = F.interpolate(self.b(skip), size=skip.shape[2:], mode="bilinear", align_corners=False)
        logits = self.head(torch.cat((skip, up), 1))
        if self.end is not None:
            return self.end(logits)
        return logits


class Gated3d(nn.Module):
    """3-D, strides (2, 2, 1), a transposed convolution and an attention gate; two outputs, the second of lower size."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.PReLU())
        self.b = nn.Sequential(nn.Conv3d(8, 16, 3, stride=(2, 2, 1), padding=1), nn.ReLU())
        self.up = nn.ConvTranspose3d(16, 8, (2, 2, 1), stride=(2, 2, 1))
        self.gate = nn.Conv3d(16, 1, 1)
        self.head, self.side = nn.Conv3d(8, 2, 1), nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.a(x)
        low = self.b(skip)
        up = self.up(low)
        return self.head(skip * torch.sigmoid(self.gate(torch.cat((skip, up), 1))) + up), self.side(low)


class TwoImages(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat((x, y), 1))


class Smaller(nn.Module):
    """Answers at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def moved(network: nn.Module, image: Tensor, seed: int = 5) -> nn.Module:
    """The network in evaluation mode: statistics and slopes moved, its outputs centred so that every label occurs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        network.eval()
        heads = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d)]
        named = getattr(network, "head", None)
        head = named if isinstance(named, nn.Conv2d | nn.Conv3d) else heads[-1]
        seen: list[Tensor] = []
        hook = head.register_forward_hook(lambda _m, _i, made: seen.append(made))
        network(image)
        hook.remove()
        if head.bias is not None:
            head.bias.sub_(seen[0].transpose(0, 1).flatten(1).mean(1))
    return network


def monai_network(name: str) -> tuple[nn.Module, Tensor]:
    """A small network of MONAI's, and an image that it takes."""
    from monai.networks import nets

    torch.manual_seed(2)
    built = {
        "AttentionUnet": lambda: nets.AttentionUnet(2, 1, 3, channels=(8, 16, 32), strides=(2, 2)),
        "UNet": lambda: nets.UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1),
        "SegResNet": lambda: nets.SegResNet(
            2, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 2), blocks_up=(1,)
        ),
    }[name]()
    image = torch.rand(
        1, 1, *((32, 32) if name != "UNet" else (16, 16, 16)), generator=torch.Generator().manual_seed(3)
    )
    return moved(built, image), image
