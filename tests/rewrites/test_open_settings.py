"""A rewritten network is the same function with every open setting, not only with the usual ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medattn_edge.models import construct, networks
from medattn_edge.rewrites import rewrite_network, rewrites
from tests.support.networks import randomised

FORMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "attention-unet-2d": ({"width": 4}, (32, 32)),
    "attention-unet-3d": ({"width": 2}, (16, 16, 32)),
    "attention-unet-grid": ({"width": 2}, (16, 32, 4)),
    "attention-unet-monai": ({"dims": 2, "channels": [4, 8, 6]}, (36, 72)),
    "self-guided": ({"backbone": "resnet18", "width": 8, "backbone_width": 16}, (32, 48)),
}
EXCLUSIVE = {"position-sdpa"}  # with position-blocks


def variants() -> list[Any]:
    found = []
    for name, (small, size) in FORMS.items():
        record = networks()[name]
        config = {**record.settings, **small}
        for key, candidates in record.open_settings(config).items():
            for value in candidates[1:4]:
                found.append(pytest.param(name, {**config, key: value}, size, id=f"{name}-{key}-{value}"))
    bilinear = {**networks()["attention-unet-2d"].settings, "width": 4, "upsampling": "bilinear", "align_corners": True}
    return [*found, pytest.param("attention-unet-2d", bilinear, (32, 32), id="attention-unet-2d-aligned")]


@pytest.mark.parametrize(("name", "config", "size"), variants())
@torch.inference_mode()
def test_every_rewrite_keeps_the_function_with_every_open_setting(name, config, size):
    torch.manual_seed(3)
    network = randomised(construct(networks()[name], config, 1, 3)).double()
    image = torch.rand(1, 1, *size, dtype=torch.float64)
    wanted = network(image)
    rewritten = rewrite_network(network, [one for one in rewrites() if one not in EXCLUSIVE]).network
    assert (rewritten(image) - wanted).abs().max() <= 1e-9 * wanted.abs().max()
