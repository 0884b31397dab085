"""What is measured: network, settings, channels, classes and patch, as data."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One network at one size."""

    name: str
    network: str
    settings: dict[str, Any]
    channels: int
    classes: int
    patch: tuple[int, ...]


CASES = (
    Case("attention-unet-2d-64", "attention-unet-2d", {"width": 64}, 3, 2, (256, 256)),
    Case("self-guided-resnext50", "self-guided", {"backbone": "resnext50_32x4d"}, 1, 5, (256, 256)),
    Case("attention-unet-3d-multi", "attention-unet-3d", {"gates": "multi"}, 1, 4, (64, 64, 64)),
)
