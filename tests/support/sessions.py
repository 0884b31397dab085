"""A network of one line of numpy, and scans to show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.volume import Volume

Function = Callable[[np.ndarray], np.ndarray]


class FakeSession(Session):
    """function: patches (N, C, *patch) -> logits (N, K, *patch); attention: the same for maps (N, A, *patch)."""

    def __init__(
        self, spec: ModelSpec, function: Function, batch: int | None = None, attention: Function | None = None
    ):
        super().__init__(spec, batch=batch, attention_names=() if attention is None else ("gate",))
        self.function, self.attention = function, attention
        self.seen: list[int] = []

    def _run(self, patches: np.ndarray) -> np.ndarray:
        self.seen.append(patches.shape[0])
        return np.stack([self.function(patch[None])[0] for patch in patches]).astype(np.float32)

    def _run_with_attention(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert self.attention is not None
        return self._run(patches), self.attention(patches).astype(np.float32)


def make_spec(patch: tuple[int, ...], classes: int = 3, channels: int = 1, **settings: Any) -> ModelSpec:
    labels = tuple(f"label_{value}" for value in range(max(classes, 2)))
    settings.setdefault("intensity", Intensity())
    return ModelSpec("fake", channels, labels, patch, (1,) * len(patch), outputs=classes, **settings)


def make_volume(voxels: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), **settings: Any) -> Volume:
    """On the LPS grid: D to the head, H to the back, W to the left."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.array(spacing)
    return Volume(voxels, affine, **settings)


def positional(classes: int) -> Function:
    """Logits that depend on where in the patch a voxel lies, as those of a network with padding do."""

    def function(patches: np.ndarray) -> np.ndarray:
        place = np.indices(patches.shape[2:], dtype=np.float32)
        place = np.sin(sum((axis + 1) * grid for axis, grid in enumerate(place)))
        mixed = [np.sin((k + 1) * patches.sum(axis=1)) + 0.3 * (k + 1) * place for k in range(classes)]
        return np.stack(mixed, axis=1).astype(np.float32)

    return function
