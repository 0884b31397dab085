"""What the tests of this folder share: an image of a form, and how far two answers are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def image() -> Callable[..., Any]:
    """A form and a spatial size -> noise (2, C, *size), in FP64 unless told."""
    import torch

    def make(form: Any, size: tuple[int, ...], dtype: torch.dtype = torch.float64, batch: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return torch.randn((batch, form.channels, *size), generator=generator, dtype=torch.float64).to(dtype)

    return make


@pytest.fixture(scope="session")
def distance() -> Callable[..., float]:
    """(found, wanted) -> the largest difference over the largest magnitude; 0 where there is nothing to compare."""

    def between(found: Any, wanted: Any) -> float:
        assert found.shape == wanted.shape
        return float((found - wanted).abs().max() / wanted.abs().max()) if wanted.numel() else 0.0

    return between
