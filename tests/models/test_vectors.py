"""Every published layout loads strictly, and computes what the published network computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.models import checkpoint

pytestmark = pytest.mark.slow

VECTORS = Path(__file__).parent / "vectors"
LAYOUTS = sorted(path.stem for path in (VECTORS / "keys").glob("*.txt"))
EXPECTED = sorted(path.stem for path in (VECTORS / "expected").glob("*.npz"))
PARAMETERS = {
    "agn_dsv": 5_888_004,
    "agn_multi_dsv": 6_473_322,
    "agn_single_dsv": 6_214_151,
    "attu_net_leejunhyun": 34_878_573,
    "attu_net_bigmb": 34_878_573,
    # 104,511,475 and 40,749,043 as published, less the 955,412 that are never executed
    "ms_dual_guided_resnext101_96d76f2": 103_556_063,
    "ms_dual_guided_resnext50": 39_793_631,
}


def write(vectors: Any, layout: str, path: Path) -> Path:
    state = vectors.state_dict(layout)
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_strictly_and_runs(layout: str, vectors: Any, tmp_path: Path) -> None:
    loaded = checkpoint.load(write(vectors, layout, tmp_path / f"{layout}.pth"))
    parameters = sum(value.numel() for value in loaded.network.parameters())
    assert parameters == PARAMETERS.get(layout, parameters)
    assert loaded.foreign
    assert layout.startswith(loaded.layout)
    size = (32,) * loaded.spec.dims if loaded.spec.network != "attention-unet-grid" else (32, 32, 4)
    with torch.inference_mode():
        logits = loaded.network(torch.rand(1, loaded.spec.in_channels, *size))
    assert logits.shape == (1, loaded.spec.outputs, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("case", EXPECTED)
def test_the_logits_are_the_published_ones(case: str, vectors: Any, tmp_path: Path) -> None:
    expected = np.load(VECTORS / "expected" / f"{case}.npz")
    layout = case.split("@")[0]
    loaded = checkpoint.load(write(vectors, layout, tmp_path / f"{layout}.pth"))
    with torch.inference_mode():
        logits = loaded.network(torch.from_numpy(expected["image"])).numpy()
    assert np.abs(logits - expected["logits"]).max() <= 1e-4 * expected["logits"].std()
