"""Every network in small forms, which the tests of networks, rewrites and exporters run over."""

from __future__ import annotations

from typing import Any, NamedTuple

from medattn_edge.spec import ModelSpec
from tests.support.networks import checkpoint_with, randomised


class Form(NamedTuple):
    """A small form of one network, and two sizes that it takes."""

    name: str
    settings: dict[str, Any]
    channels: int
    classes: int
    size: tuple[int, ...]
    other: tuple[int, ...]

    def spec(self, network: Any) -> ModelSpec:
        """What a network of this form expects."""
        return self.spec_with(network.stride, self.settings)

    def spec_with(self, stride: tuple[int, ...], settings: dict[str, Any]) -> ModelSpec:
        """The same with another stride and other settings."""
        labels = ("background", *(f"organ_{index}" for index in range(1, max(2, self.classes))))
        return ModelSpec(self.name, self.channels, labels, self.size, stride, outputs=self.classes, config=settings)


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

# One form of each family is in every run; its relatives, which take the same paths, are with the slow tests.
EVERY_RUN = frozenset({"attention-unet-2d", "attention-unet-3d-multi", "attention-unet-monai-2d", "self-guided"})


def build_form(form: Form, **settings: Any) -> Any:
    """A form's network with its settings, or with others, its statistics away from where they start."""
    import torch

    from medattn_edge.models import build, network_record

    record = network_record(form.name)
    config = {**form.settings, **settings}
    with torch.device("meta"):
        stride = record.build({**record.settings, **config}, form.channels, form.classes).stride
    torch.manual_seed(1)
    return randomised(build(form.spec_with(stride, config)))


def form_checkpoint(form: Form) -> Any:
    """A form's network as if it had been read from a file."""
    network = build_form(form)
    return checkpoint_with(network, form.spec(network))
