"""A network gets every number from its file, or is refused: nothing that is missing becomes zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medattn_edge.errors import CheckpointError
from medattn_edge.models import checkpoint, networks
from medattn_edge.models.nearest import Misfit
from tests.support.forms import FORMS, build_form
from tests.support.networks import random_network, randomised, save_checkpoint

COUNTER = "num_batches_tracked"
SETTINGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "attu_net_leejunhyun": ({"width": 4}, 3, 1),
    "attu_net_bigmb": ({"width": 4}, 1, 4),
    "agn_multi_dsv": ({"width": 4}, 1, 4),
    "agn_grid": ({"width": 4}, 1, 3),
    "monai_attentionunet": ({"dims": 2, "channels": [4, 8]}, 1, 2),
    "ms_dual_guided": ({"width": 8, "backbone_width": 16, "backbone": "resnet18"}, 1, 5),
}


def published(name: str) -> dict[str, torch.Tensor]:
    """The state_dict of a small network under a layout's own names."""
    record, layout = next((net, one) for net in networks().values() for one in net.layouts if one.name == name)
    small, channels, classes = SETTINGS[name]
    config = {**record.settings, **small}
    state = randomised(record.build(config, channels, classes)).state_dict()
    names = layout.published(state, config)
    return {names[key]: value for key, value in state.items()}


def kinds(state: dict[str, torch.Tensor]) -> list[str]:
    """The last key of each kind: its last name, and how many axes the weight beside it has."""
    found: dict[tuple[str, int], str] = {}
    for key in state:
        if not key.endswith(COUNTER):
            beside = state.get(key.rpartition(".")[0] + ".weight", state[key])
            found[key.rpartition(".")[2], beside.dim()] = key
    return sorted(found.values())


@pytest.mark.parametrize("form", list(FORMS))
def test_every_kind_of_tensor_but_a_counter_is_missed(form: str) -> None:
    state = build_form(FORMS[form]).state_dict()
    assert any(key.endswith("bias") for key in state)
    for key in (*kinds(state), *(key for key in list(state)[:40] if key.endswith(COUNTER))):
        rest = {other: value for other, value in state.items() if other != key}
        assert Misfit.between(rest, state).missing == (() if key.endswith(COUNTER) else (key,))


SLOW = pytest.param("ms_dual_guided", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [SLOW if name == "ms_dual_guided" else name for name in SETTINGS])
def test_a_published_file_without_one_of_its_tensors_is_refused(name: str, tmp_path: Path) -> None:
    state = published(name)
    torch.save(state, tmp_path / "model.pth")
    checkpoint.load(tmp_path / "model.pth")
    tried = kinds(state)
    assert any(key.endswith("bias") for key in tried)
    for key in tried:
        torch.save({other: value for other, value in state.items() if other != key}, tmp_path / "model.pth")
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path / "model.pth")
        assert caught.value.hint


def test_our_own_file_without_one_of_its_tensors_is_refused_by_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "network.safetensors")
    metadata = metadata_of(path)
    state = load_file(path)
    for key in kinds(state):
        save_file({other: value for other, value in state.items() if other != key}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
            checkpoint.load(path)


def test_what_is_loaded_is_what_the_file_has_and_only_counters_start_at_zero(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "network.safetensors")
    metadata, state = metadata_of(path), load_file(path)
    save_file({key: value for key, value in state.items() if not key.endswith(COUNTER)}, path, metadata=metadata)
    loaded = checkpoint.load(path).network.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in loaded.items():
        assert torch.equal(value, torch.zeros_like(value) if key.endswith(COUNTER) else state[key]), key
    assert random_network().state_dict().keys() == loaded.keys()


def metadata_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())
