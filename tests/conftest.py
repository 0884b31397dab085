"""What every test may use: real networks made on the spot, and the published layouts' deterministic weights."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# The networks are too small for a second thread to help, and on a busy machine it hurts; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# OpenVINO and NNCF report to a web service when they are imported, unless this package is missing; no test may.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# ONNX Runtime does from the start, unless this says no; tests import it before our package says so.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

VECTORS = Path(__file__).parent / "models" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Any:
    """The module that fills a published layout with deterministic weights."""
    location = importlib.util.spec_from_file_location("published_weights", VECTORS / "weights.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def randomised() -> Callable[[Any], Any]:
    """Moves gamma, BatchNorm statistics and PReLU slopes away from where a fresh network has them.

    gamma starts at 0 and BatchNorm at the identity, so that an equivalence on a fresh network would prove nothing. Nor
    would it where the image does not reach the logits: the convolutions get He's scale, which torch's own is far below.
    """
    import torch

    def randomise(network: Any) -> Any:
        generator = torch.Generator().manual_seed(7)

        def uniform(like: Any, low: float, high: float) -> Any:
            return torch.rand(like.shape, generator=generator) * (high - low) + low

        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):
                    parameter.copy_(uniform(parameter, 0.3, 0.7))
            for name, module in network.named_modules():
                if getattr(module, "running_mean", None) is not None:
                    module.running_mean.copy_(uniform(module.running_mean, -0.2, 0.2))
                    module.running_var.copy_(uniform(module.running_var, 0.6, 1.4))
                if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                    gain = 0.6 if name.startswith(("down.", "fuse.", "step")) else 1.0  # products would explode
                    scale = gain * (2 / module.weight[0].numel()) ** 0.5
                    module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
                if isinstance(module, torch.nn.PReLU):
                    module.weight.copy_(uniform(module.weight, 0.1, 0.4))
        return network.eval()

    return randomise


class Form(NamedTuple):
    """A small form of one network, and two sizes that it takes."""

    name: str
    settings: dict[str, Any]
    channels: int
    classes: int
    size: tuple[int, ...]
    other: tuple[int, ...]


FORMS = {
    "attention-unet-2d": Form("attention-unet-2d", {"width": 8}, 3, 1, (64, 64), (48, 80)),
    "attention-unet-3d-multi": Form("attention-unet-3d", {"width": 4}, 1, 3, (16, 32, 16), (32, 16, 32)),
    "attention-unet-3d-single": Form(
        "attention-unet-3d", {"width": 4, "gates": "single"}, 2, 3, (16, 32, 16), (32, 16, 32)
    ),
    "attention-unet-3d-none": Form(
        "attention-unet-3d", {"width": 4, "gates": "none"}, 1, 3, (16, 32, 16), (32, 16, 32)
    ),
    "attention-unet-3d-article": Form(
        "attention-unet-3d",
        {"width": 4, "strided_theta": False, "align_corners": True},
        1,
        2,
        (32, 16, 16),
        (16, 32, 48),
    ),
    "attention-unet-grid": Form("attention-unet-grid", {"width": 4}, 1, 3, (32, 16, 6), (16, 32, 9)),
    "attention-unet-monai-2d": Form(
        "attention-unet-monai", {"dims": 2, "channels": [8, 16, 32]}, 1, 2, (32, 32), (48, 64)
    ),
    "attention-unet-monai-3d": Form(
        "attention-unet-monai", {"dims": 3, "channels": [8, 16, 32]}, 1, 2, (16, 16, 16), (24, 16, 32)
    ),
    "self-guided": Form(
        "self-guided", {"backbone": "resnet18", "width": 16, "backbone_width": 16}, 1, 3, (64, 64), (48, 72)
    ),
    "self-guided-article": Form(
        "self-guided",
        {
            "backbone": "resnet18",
            "width": 16,
            "backbone_width": 16,
            "channel_energy": "direct",
            "autoencoder": "per_scale",
        },
        1,
        3,
        (64, 64),
        (80, 72),
    ),
}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Form:
    """Every small form in turn."""
    return FORMS[request.param]


@pytest.fixture(scope="session")
def build_form(randomised: Callable[[Any], Any]) -> Callable[..., Any]:
    """Builds a form's network with its settings, or with others, its statistics away from where they start."""
    import torch

    from medattn_edge.models import build, network_record
    from medattn_edge.spec import ModelSpec

    def build_one(form: Form, **settings: Any) -> Any:
        record = network_record(form.name)
        config = {**form.settings, **settings}
        with torch.device("meta"):
            stride = record.build({**record.settings, **config}, form.channels, form.classes).stride
        labels = ("background", *(f"organ_{index}" for index in range(1, max(2, form.classes))))
        torch.manual_seed(1)
        return randomised(
            build(
                ModelSpec(
                    network=form.name,
                    in_channels=form.channels,
                    labels=labels,
                    patch=form.size,
                    stride=stride,
                    outputs=form.classes,
                    config=config,
                )
            )
        )

    return build_one


@pytest.fixture
def network(form: Form, build_form: Callable[..., Any]) -> Any:
    """The form's network."""
    return build_form(form)
