"""A synthetic patient: a bright ball on the left, a smaller and dimmer one on the right, in noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medattn_edge.training import Case
from medattn_edge.volume import Volume

LPS = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def make_case(
    shape: tuple[int, int, int] = (24, 32, 32),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    name: str = "ball.npz",
) -> Case:
    rng = np.random.default_rng(seed)
    place = [(grid + 0.5) / size for grid, size in zip(np.indices(shape), shape, strict=True)]
    voxels = rng.normal(0, 10, shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    for value, (centre, radius, level) in enumerate([((0.5, 0.5, 0.7), 0.22, 100), ((0.5, 0.5, 0.25), 0.15, 60)], 1):
        # Long along D, so that every block of slices cuts both.
        distance = sum(((axis - at) / size) ** 2 for axis, at, size in zip(place, centre, (2, 1, 1), strict=True))
        ball = distance < radius**2
        voxels[ball] += level
        labels[ball] = value
    affine = LPS @ np.diag([*spacing, 1.0])
    return Case(name, Volume(voxels, affine), Volume(labels, affine))


@pytest.fixture(scope="session")
def case_of() -> Callable[..., Case]:
    return make_case


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    """Tiny networks are slower on several threads, and sums in one order are easier to compare."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
