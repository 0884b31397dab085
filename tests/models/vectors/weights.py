"""Deterministic weights for a published state_dict layout, so that two implementations of one network can be compared.

`keys/<layout>.txt` lists every key, shape and dtype of one published checkpoint layout. `state_dict(layout)` fills it
from the key's own name: the same numbers on every machine, nothing stored. `expected/<layout>@<shape>.npz` holds an
`image` and the `logits` that the published network computed from it in eval mode, FP32, on a CPU.

    python weights.py attu_net_leejunhyun attu.pth      # writes a plain state_dict checkpoint

Units: none. Shapes: as listed. The agreement to expect between two FP32 implementations is 1e-4 of the logits' standard
deviation; the values of `gamma`, BatchNorm statistics and PReLU slopes are far from their initial ones on purpose.
"""

from __future__ import annotations

import ast
import hashlib
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def layout_keys(layout: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key -> (shape, dtype) of a published layout."""
    rows = (line.split("\t") for line in (HERE / "keys" / f"{layout}.txt").read_text().splitlines() if line.strip())
    return {key: (tuple(ast.literal_eval(shape)), dtype) for key, shape, dtype in rows}


def state_dict(layout: str) -> dict[str, np.ndarray]:
    """Deterministic arrays for every key of the layout."""
    return filled(layout_keys(layout))


def filled(keys: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, np.ndarray]:
    """Deterministic arrays for keys that are named as a layout names them: key -> (shape, dtype)."""
    return {key: _fill(key, shape, dtype, keys) for key, (shape, dtype) in keys.items()}


def image(shape: tuple[int, ...]) -> np.ndarray:
    """A fixed smooth random image in [0, 1], float32, shape (N, C, *spatial)."""
    noise = _rng("image" + "x".join(map(str, shape))).random(shape)
    for axis in range(2, len(shape)):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 3
    return noise.astype(np.float32)


def _rng(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))


def _fill(key: str, shape: tuple[int, ...], dtype: str, keys: dict) -> np.ndarray:
    rng, leaf, parent = _rng(key), key.rsplit(".", 1)[-1], key.rsplit(".", 1)[0]
    norm = f"{parent}.running_mean" in keys
    if leaf == "num_batches_tracked":
        return np.array(100, dtype=dtype)
    if leaf == "running_var":
        values = rng.uniform(0.6, 1.4, shape)
    elif leaf == "running_mean" or leaf == "bias":
        values = 0.1 * rng.standard_normal(shape)
    elif leaf == "gamma":
        values = rng.uniform(0.3, 0.7, shape)
    elif norm:  # the last BatchNorm of a residual branch is small, so that deep networks stay in range
        values = rng.uniform(0.8, 1.2, shape) * (0.1 if parent.endswith("bn3") else 1.0)
    elif len(shape) < 2:  # PReLU slope
        values = rng.uniform(0.1, 0.4, shape)
    else:
        gain = 0.3 if key.startswith(("down", "conv_sem_", "conv8_", "fuse1")) else 1.0
        values = rng.standard_normal(shape) * gain * math.sqrt(2 / math.prod(shape[1:]))
    return np.asarray(values, dtype=dtype)


if __name__ == "__main__":
    import torch

    layout, path = sys.argv[1:3]
    torch.save({key: torch.from_numpy(value.copy()) for key, value in state_dict(layout).items()}, path)
    print(f"{path}: {len(layout_keys(layout))} keys of {layout}")
