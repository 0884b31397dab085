"""Files as other people's code writes them, and the labels that this code gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medattn_edge.volume import Volume
from tests.cli.conftest import medattn
from tests.foreign.networks import Encoder2d, Gated3d, monai_network, moved

__all__ = ["medattn"]

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def image_2d() -> Tensor:
    return torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def image_3d() -> Tensor:
    return torch.rand(1, 2, 16, 16, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def plain(image_2d: Tensor) -> nn.Module:
    torch.manual_seed(1)
    return moved(Encoder2d(), image_2d)


@pytest.fixture(scope="session")
def gated(image_3d: Tensor) -> nn.Module:
    torch.manual_seed(1)
    return moved(Gated3d(), image_3d)


@pytest.fixture(scope="session")
def owners(plain: nn.Module, image_2d: Tensor) -> Callable[[str], tuple[nn.Module, Tensor]]:
    """Name -> a network and an image that it takes."""
    return lambda name: (plain, image_2d) if name == "plain" else monai_network(name)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a network as one of the forms that people have; `options` are those of torch's own exporter."""

    def write(network: nn.Module, image: Tensor, form: str, **options: Any) -> Path:
        path = tmp_path / f"owner{_SUFFIXES[form]}"
        with warnings.catch_warnings():  # torch's exporters talk of what is deprecated, and of constants
            warnings.simplefilter("ignore")
            _WRITERS[form](network, image, path, options)
        return path

    return write


def _arguments(image: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return image if isinstance(image, tuple) else (image,)


def _script(network: nn.Module, image: Tensor, path: Path, options: dict[str, Any]) -> None:
    torch.jit.save(torch.jit.script(network), path)


def _trace(network: nn.Module, image: Tensor, path: Path, options: dict[str, Any]) -> None:
    torch.jit.save(torch.jit.trace(network, image), path)


def _exported(network: nn.Module, image: Tensor, path: Path, options: dict[str, Any]) -> None:
    torch.export.save(torch.export.export(network, _arguments(image), **options), path)


def _onnx(network: nn.Module, image: Tensor, path: Path, options: dict[str, Any]) -> None:
    torch.onnx.export(network, _arguments(image), str(path), **{"dynamo": True, "verbose": False, **options})


def _legacy(network: nn.Module, image: Tensor, path: Path, options: dict[str, Any]) -> None:
    torch.onnx.export(network, _arguments(image), str(path), **{"dynamo": False, **options})


_SUFFIXES = {"script": ".pt", "trace": ".torchscript", "exported": ".pt2", "onnx": ".onnx", "legacy": ".onnx"}
_WRITERS = {"script": _script, "trace": _trace, "exported": _exported, "onnx": _onnx, "legacy": _legacy}


def volume_of(image: Tensor) -> Volume:
    """An image (1, 1, *patch) as a scan in LPS, 1 mm; a 2-D one is the only slice."""
    voxels = image[0, 0].numpy()
    return Volume(voxels if voxels.ndim == 3 else voxels[None], np.eye(4)[[2, 1, 0, 3]])


def labels_by_owner(network: nn.Module, image: Tensor) -> np.ndarray:
    """What the owner's code labels: (D, H, W)."""
    with torch.inference_mode():
        answer = network(image)
    logits = answer if isinstance(answer, Tensor) else answer[0]
    labels = logits.argmax(1)[0].numpy()
    return labels if labels.ndim == 3 else labels[None]
