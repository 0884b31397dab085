"""AttU_Net with learned upsampling, as people write it: recognised by its keys and shapes, and the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medattn_edge.errors import CheckpointError
from medattn_edge.models import checkpoint
from medattn_edge.rewrites import defaults, rewrite
from tests.support.networks import randomised

PADDING = {2: {}, 3: {"padding": 1, "output_padding": 1}, 4: {"padding": 1}}


def _block(c_in: int, c_out: int) -> nn.Sequential:
    layers = [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())


class Named(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class AttUNet(nn.Module):
    """After Oktay et al., with the names that most projects use; `kernel` and `form` of its upsampling."""

    def __init__(self, kernel: int, form: str, width: int = 4) -> None:
        super().__init__()
        f = [width * 2**level for level in range(5)]
        for level in range(5):
            setattr(self, f"Conv{level + 1}", Named(conv=_block(f[level - 1] if level else 1, f[level])))
        for level in range(5, 1, -1):
            above, here = f[level - 1], f[level - 2]
            between = above if form == "-conv" else here
            layers: list[nn.Module] = [nn.ConvTranspose2d(above, between, kernel, stride=2, **PADDING[kernel])]
            if form:
                layers.append(nn.Conv2d(between, here, 3, padding=1))
            setattr(self, f"Up{level}", Named(up=nn.Sequential(*layers, nn.BatchNorm2d(here), nn.ReLU())))
            half = here // 2
            gate = {
                "W_g": nn.Sequential(nn.Conv2d(here, half, 1), nn.BatchNorm2d(half)),
                "W_x": nn.Sequential(nn.Conv2d(here, half, 1), nn.BatchNorm2d(half)),
                "psi": nn.Sequential(nn.Conv2d(half, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid()),
            }
            setattr(self, f"Att{level}", Named(**gate))
            setattr(self, f"Up_conv{level}", Named(conv=_block(2 * here, here)))
        self.Conv_1x1 = nn.Conv2d(f[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in range(1, 6):
            x = getattr(self, f"Conv{level}").conv(x if level == 1 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for level in range(5, 1, -1):
            up, gate, skip = getattr(self, f"Up{level}").up(x), getattr(self, f"Att{level}"), skips[level - 2]
            gated = skip * gate.psi(torch.relu(gate.W_g(up) + gate.W_x(skip)))
            x = getattr(self, f"Up_conv{level}").conv(torch.cat((gated, up), 1))
        return self.Conv_1x1(x)


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("form", ["", "-conv", "-conv-halved"])
def test_the_owners_logits_come_out_and_after_the_rewrites_too(kernel: int, form: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    owner = randomised(AttUNet(kernel, form)).eval()
    torch.save(owner.state_dict(), tmp_path / "net.pth")
    loaded = checkpoint.load(tmp_path / "net.pth")
    assert loaded.spec.config["upsampling"] == f"transposed-{kernel}{form}"
    assert "upsampling" not in loaded.assumptions
    image = torch.randn(1, 1, 32, 16)
    with torch.inference_mode():
        wanted, found = owner(image), loaded.network(image)
        rewritten = rewrite(loaded, defaults("onnx", loaded.spec.patch)).network(image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(rewritten, wanted, rtol=1e-4, atol=1e-4)


def test_it_is_written_and_read_as_our_own(tmp_path: Path) -> None:
    owner = randomised(AttUNet(2, "-conv"))
    torch.save(owner.state_dict(), tmp_path / "net.pth")
    loaded = checkpoint.load(tmp_path / "net.pth")
    checkpoint.save(tmp_path / "ours.safetensors", loaded.network, loaded.spec)
    again = checkpoint.load(tmp_path / "ours.safetensors")
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.network(image), loaded.network(image))


def test_a_kernel_that_leaves_the_padding_open_is_refused(tmp_path: Path) -> None:
    owner = AttUNet(2, "")
    state = owner.state_dict()
    for level in range(2, 6):
        key = f"Up{level}.up.0.weight"
        state[key] = torch.zeros(*state[key].shape[:2], 6, 6)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="does not fit the layout"):
        checkpoint.load(tmp_path / "net.pth")
