"""Checkpoints as trainers leave them: wrapped, averaged, with all kinds of things beside the weights."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import os
import pathlib
import pickle
import random
import shlex
import subprocess
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.errors import CheckpointError, MedattnError, UsageError
from medattn_edge.models import checkpoint, networks
from medattn_edge.models.harmless import STAND_INS, Forgotten
from tests.support.networks import randomised

pytestmark = pytest.mark.slow

State = dict[str, torch.Tensor]


class Owned(nn.Module):
    """A trained network of its owner: the two-level form of MONAI's, under MONAI's names."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for key, value in state.items():
            *parents, leaf = key.split(".")
            here: nn.Module = self
            for name in parents:
                if name not in here._modules:
                    here.add_module(name, nn.Module())
                here = here._modules[name]  # type: ignore[assignment]
            here.register_buffer(leaf, value)


@pytest.fixture(scope="module")
def trained() -> tuple[State, torch.Tensor, torch.Tensor]:
    """A small network's state_dict under MONAI's names, an image and the logits."""
    record = networks()["attention-unet-monai"]
    config = {**record.settings, "dims": 2, "channels": [4, 8, 6]}
    torch.manual_seed(4)
    network = randomised(record.build(config, 1, 3))
    names = record.layouts[0].published(network.state_dict(), config)
    image = torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        return {names[key]: value for key, value in network.state_dict().items()}, image, network(image)


def moved(state: State, by: float = 0.3) -> State:
    """Other weights of the same network."""
    return {key: value + by if value.is_floating_point() else value for key, value in state.items()}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}.{key}": value for key, value in state.items()}


def logits_of(loaded: checkpoint.Checkpoint, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.network(image)


def averaged(state: State, updates: int = 2) -> State:
    """What torch's AveragedModel saves of a network."""
    average = torch.optim.swa_utils.AveragedModel(Owned(state))
    for _ in range(updates):
        average.n_averaged += 1
    return dict(average.state_dict())


# layout on disk -> how it is made of the right weights and of others
PLACES: dict[str, Any] = {
    "Lightning, compiled": lambda s, o: {"state_dict": under("model._orig_mod", s)},
    "DDP, compiled": lambda s, o: under("module._orig_mod", s),
    "a part compiled": lambda s, o: {key.replace("model.0.", "model.0._orig_mod.", 1): v for key, v in s.items()},
    "FSDP": lambda s, o: {"model": under("_fsdp_wrapped_module.module", s)},
    "activation checkpointing": lambda s, o: {
        key.replace("submodule.", "submodule._checkpoint_wrapped_module.", 1): v for key, v in s.items()
    },
    "Lightning with a loss": lambda s, o: {
        "state_dict": {**under("net", s), "criterion.pos_weight": torch.tensor([3.2]), "loss.ce.weight": torch.ones(3)}
    },
    "a loss beside the keys": lambda s, o: {
        **s,
        "criterion.pos_weight": torch.ones(1),
        "val_dice.total": torch.ones(1),
    },
    "SWA": lambda s, o: averaged(s),
    "SWA beside the raw": lambda s, o: {"epoch": 3, "swa_state_dict": averaged(s), "model_state_dict": o},
    "an average that was never updated": lambda s, o: {"swa": averaged(o, 0), "model": s},
    "EMA alone": lambda s, o: {"ema_state_dict": s, "epoch": 2},
    "EMA beside the raw": lambda s, o: {"state_dict": o, "state_dict_ema": s, "epoch": 2},
    "EMA in the same dictionary": lambda s, o: {"state_dict": {**under("model", o), **under("ema_model", s)}},
    "EMA beside bare keys": lambda s, o: {"state_dict": {**o, **under("ema", s)}},
    "model_state": lambda s, o: {"model_state": s, "epoch": 1},
    "weight": lambda s, o: {"weight": s, "val_iou": 0.5},
    "generator": lambda s, o: {"generator": s, "discriminator": {"conv.weight": torch.rand(3, 1, 3, 3)}},
    "unet prefix": lambda s, o: under("unet", s),
    "two prefixes": lambda s, o: {"state_dict": under("model.segmenter", s)},
    "Ignite": lambda s, o: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}},
        "trainer": {"epoch": 1},
    },
    "thop": lambda s, o: {
        **s,
        "total_ops": torch.zeros(1, dtype=torch.float64),
        "model.0.total_params": torch.zeros(1, dtype=torch.float64),
    },
    "a list of networks": lambda s, o: {"models": [s], "losses": [torch.ones(2), torch.ones(3)]},
    "deep": lambda s, o: {"checkpoint": {"payload": {"nets": {"seg": under("module", s)}}}},
    "the same twice": lambda s, o: {"best": s, "last": dict(s)},
    "channels last": lambda s, o: {
        key: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value for key, value in s.items()
    },
}


@pytest.mark.parametrize("place", list(PLACES))
def test_the_weights_are_found_wherever_they_lie(place, trained, tmp_path):
    state, image, wanted = trained
    torch.save(PLACES[place](state, moved(state)), tmp_path / "model.ckpt")
    loaded = checkpoint.load(tmp_path / "model.ckpt")
    assert torch.equal(logits_of(loaded, image), wanted)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("SWA beside the raw", "took the weights swa_state_dict.module (an average, as its trainer evaluates)"),
        ("EMA beside the raw", "took the weights state_dict_ema"),
        ("EMA in the same dictionary", "not taken: state_dict.model (--weights state_dict.model)"),
        ("an average that was never updated", "took the weights model (the average beside it was never updated)"),
        ("the same twice", "the weights last are the same as best"),
        ("Lightning with a loss", "left out what is not the network's: state_dict.criterion, state_dict.loss"),
        ("a loss beside the keys", "left out what is not the network's: criterion.pos_weight, val_dice.total"),
        ("generator", "left out what is not the network's: discriminator.conv"),
        ("Ignite", "optimizer.state"),
    ],
)
def test_what_was_taken_and_what_was_left_out_is_said(place, said, trained, tmp_path):
    state, _, _ = trained
    torch.save(PLACES[place](state, moved(state)), tmp_path / "model.ckpt")
    assert any(said in remark for remark in checkpoint.load(tmp_path / "model.ckpt").remarks)


def test_nothing_is_said_of_a_file_with_nothing_but_the_weights(trained, tmp_path):
    torch.save({"state_dict": trained[0]}, tmp_path / "model.pth")
    assert checkpoint.load(tmp_path / "model.pth").remarks == ()


@pytest.mark.parametrize("key", ["state_dict", "state_dict.model", "model"])
def test_weights_takes_the_other_set(key, trained, tmp_path):
    state, image, wanted = trained
    content = {
        "state_dict": {"state_dict": state, "state_dict_ema": moved(state)},
        "state_dict.model": {"state_dict": {**under("model", state), **under("ema_model", moved(state))}},
        "model": {"state_dict": {**under("model", state), **under("ema_model", moved(state))}},
    }[key]
    torch.save(content, tmp_path / "model.ckpt")
    assert not torch.equal(logits_of(checkpoint.load(tmp_path / "model.ckpt"), image), wanted)
    loaded = checkpoint.load(tmp_path / "model.ckpt", weights=key)
    assert torch.equal(logits_of(loaded, image), wanted)
    assert "asked for" in loaded.remarks[0]


def test_weights_that_a_file_has_not_are_refused_with_those_it_has(trained, tmp_path):
    state, _, _ = trained
    torch.save({"state_dict": state, "state_dict_ema": moved(state)}, tmp_path / "model.pth")
    with pytest.raises(UsageError) as refused:
        checkpoint.load(tmp_path / "model.pth", weights="ema")
    assert refused.value.expected == "one of state_dict, state_dict_ema"


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"student": s, "teacher": moved(s)},
        lambda s: {"best": s, "last": moved(s)},
        lambda s: {"ema_0": s, "ema_1": moved(s), "raw": moved(s, 0.1)},
        lambda s: {"state_dict": {**under("net_a", s), **under("net_b", moved(s))}},
        lambda s: {**s, **under("other", moved(s))},
        lambda s: {"the best": s, "the last": moved(s)},
    ],
)
def test_two_sets_with_nothing_to_prefer_are_refused_and_listed(content, trained, tmp_path):
    torch.save(content(trained[0]), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="different sets of weights that fit") as refused:
        checkpoint.load(tmp_path / "model.pth")
    _, name = shlex.split(refused.value.hint)
    assert name in refused.value.expected
    assert checkpoint.load(tmp_path / "model.pth", weights=name).layout == "monai_attentionunet"


def test_a_set_that_does_not_fit_is_left_for_the_one_that_does(trained, tmp_path):
    state, image, wanted = trained
    broken = {key: value for key, value in moved(state).items() if "merge.conv.bias" not in key}
    torch.save({"ema": broken, "model": state}, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert torch.equal(logits_of(loaded, image), wanted)
    assert "left out ema: it does not fit the layout monai_attentionunet" in loaded.remarks
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.load(tmp_path / "model.pth", weights="ema")


@pytest.mark.parametrize("extra", ["refine.weight", "model.3.conv.weight", "loss_head.weight"])
def test_a_layer_more_at_the_networks_own_level_is_refused(extra, trained, tmp_path):
    torch.save({**trained[0], extra: torch.rand(3, 3, 3, 3)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="1 unknown: " + extra):
        checkpoint.load(tmp_path / "model.pth")


# --------------------------------------------------------------------------------- kernels, depths, normalisations


def changed(state: State, pattern: str, shape: Any) -> State:
    return {key: torch.rand(shape(value)) if pattern in key else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("pattern", "kernel"), [("model.0.conv.0.conv.weight", (5, 5)), ("upconv.up.conv.weight", (2, 2))]
)
def test_a_kernel_that_is_not_built_is_named(pattern, kernel, trained, tmp_path):
    torch.save(changed(trained[0], pattern, lambda value: (*value.shape[:2], *kernel)), tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(tmp_path / "model.pth")
    size = "x".join(map(str, kernel))
    assert f"kernel {size} in " in refused.value.found
    assert "this network is built with kernel 3x3" in refused.value.found
    assert "save its state_dict again" not in refused.value.hint


@pytest.mark.parametrize(("levels", "sign"), [(4, -1), (6, 1)])
def test_a_depth_that_is_not_built_is_named(levels, sign, tmp_path):
    record = networks()["attention-unet-2d"]
    config = {**record.settings, "width": 2}
    network = record.build(config, 1, 2)
    names = record.layouts[0].published(network.state_dict(), config)
    state = {names[key]: value for key, value in network.state_dict().items()}
    deepest = {key: value for key, value in state.items() if "5" in key.split(".")[0]}
    if sign < 0:
        state = {key: value for key, value in state.items() if key not in deepest}
    else:
        state |= {key.replace("5", "6", 1): value for key, value in deepest.items()}
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"{levels} levels; this network is built with 5"):
        checkpoint.load(tmp_path / "model.pth")


def test_a_normalisation_without_running_statistics_is_named(trained, tmp_path):
    without = {key: value for key, value in trained[0].items() if "running_" not in key and "num_batches" not in key}
    torch.save(without, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="keeps no running statistics"):
        checkpoint.load(tmp_path / "model.pth")


# ------------------------------------------------------------------------------------------ beside the weights


def optimiser(kind: Any, **how: Any) -> Any:
    return kind(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), **how).state_dict()


HARMLESS: dict[str, Any] = {
    "a path in options": argparse.Namespace(data=pathlib.Path("/data"), lr=1e-3),
    "PurePosixPath": pathlib.PurePosixPath("/a/b"),
    "PureWindowsPath": pathlib.PureWindowsPath("C:\\a"),
    "datetime": datetime.datetime(2024, 1, 1, 12, 30),
    "datetime with a zone": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2024, 1, 1),
    "time": datetime.time(1, 2),
    "timedelta": datetime.timedelta(hours=2),
    "array": np.arange(5.0),
    "array of whole numbers": np.arange(6).reshape(2, 3),
    "array of texts": np.array(["a", "bc"]),
    "scalar": np.float32(2.0),
    "text of numpy": np.str_("a"),
    "datetime of numpy": np.datetime64("2024-01-01"),
    "dtype of numpy": np.dtype("float32"),
    "random state of numpy": np.random.get_state(),
    "RandomState": np.random.RandomState(1),
    "Generator": np.random.default_rng(1),
    "random state of Python": random.getstate(),
    "random state of torch": torch.get_rng_state(),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0]}),
    "deque": collections.deque([1.0, 2.0], maxlen=5),
    "Counter": collections.Counter("aab"),
    "OrderedDict": collections.OrderedDict(a=1),
    "set": {1, 2},
    "frozenset": frozenset({1, 2}),
    "slice": slice(0, 3),
    "range": range(3),
    "complex": 1j,
    "bytes": b"\x00\xffx",
    "bytearray": bytearray(b"ab"),
    "class of numbers": float,
    "torch dtype": torch.float16,
    "torch device": torch.device("cpu"),
    "torch Size": torch.Size([1, 2]),
    "UUID": uuid.UUID(int=5),
    "Decimal": decimal.Decimal("1.5"),
    "SimpleNamespace": types.SimpleNamespace(a=pathlib.Path("/x")),
    "StepLR": optimiser(torch.optim.lr_scheduler.StepLR, step_size=2),
    "CosineAnnealingLR": optimiser(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10),
    "GradScaler": torch.amp.GradScaler("cpu").state_dict(),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize("thing", list(HARMLESS))
def test_what_lies_beside_the_weights_is_no_code(thing, zipped, trained, tmp_path):
    state, image, wanted = trained
    content = {"state_dict": state, "extra": HARMLESS[thing], "list": [HARMLESS[thing]]}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(logits_of(checkpoint.load(tmp_path / "model.pth"), image), wanted)


class Phase(enum.Enum):
    """A class of the owner's own."""

    TRAIN = 1


# Python 3.11.0 to 3.11.3 write a member of an enumeration as a call of getattr, which is what the refusal then names.
needs_members_by_value = pytest.mark.skipif(
    b"getattr" in pickle.dumps(Phase.TRAIN, 2), reason="this Python pickles members of enumerations by getattr"
)


@needs_members_by_value
def test_tensors_of_monai_are_weights_like_any_other(trained, tmp_path):
    monai = pytest.importorskip("monai.data")
    state, image, wanted = trained
    meta = {key: monai.MetaTensor(value) if value.dim() == 4 else value for key, value in state.items()}
    torch.save({"state_dict": meta, "last_image": monai.MetaTensor(torch.ones(2))}, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert torch.equal(logits_of(loaded, image), wanted)
    assert {type(value) for value in loaded.network.state_dict().values()} == {torch.Tensor}


def test_every_stand_in_is_of_our_own_or_an_empty_container():
    makers = {one for one, _ in STAND_INS}
    assert Forgotten in makers
    assert all(one is dict or one.__module__ == "medattn_edge.models.harmless" for one in makers)


def test_a_stand_in_keeps_nothing_and_runs_nothing(tmp_path):
    ran = tmp_path / "ran"
    one = Forgotten(os.mkdir, str(ran), named=print)
    one.__setstate__({"__class__": int, "value": os.mkdir})
    assert not vars(one)
    assert not ran.exists()


# ------------------------------------------------------------------------------------------------ what is code


def whole_average(state: State) -> Any:
    return torch.optim.swa_utils.AveragedModel(Owned(state))


CODE: dict[str, Any] = {
    "a module": Owned,
    "a module under a key": lambda s: {"model": Owned(s), "epoch": 1},
    "a module under any key": lambda s: {"the best one": Owned(s)},
    "an average": whole_average,
    "weights beside an enumeration": lambda s: {"state_dict": s, "phase": Phase.TRAIN},
    "weights under any key beside code": lambda s: {"my weights": under("net", s), "phase": Phase.TRAIN},
    "weights at the top beside code": lambda s: {**s, "phase": Phase.TRAIN},
    "weights in a list beside code": lambda s: {"nets": [s], "phase": Phase.TRAIN},
    "weights beside a loss function": lambda s: {"state_dict": s, "loss": nn.CrossEntropyLoss()},
}


@pytest.mark.parametrize("folder", ["plain", pytest.param("it's a folder $HOME `x`", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(CODE))
def test_the_command_of_the_refusal_converts_this_very_file(kind, folder, trained, tmp_path):
    state, image, wanted = trained
    home = tmp_path / folder
    home.mkdir()
    path = home / "my model.pth"
    torch.save(CODE[kind](state), path)
    with pytest.raises(CheckpointError, match="which run code") as refused:
        checkpoint.load(path)
    command = refused.value.hint.split("code: ", 1)[1]
    assert command.startswith("python -c ")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),  # the owner's code is importable
    }
    subprocess.run(command, shell=True, check=True, env=environment, cwd="/", timeout=120)
    assert torch.equal(logits_of(checkpoint.load(home / "my model.state.pth"), image), wanted)


@needs_members_by_value
def test_the_refusal_names_the_class_that_is_code(trained, tmp_path):
    torch.save({"state_dict": trained[0], "phase": Phase.TRAIN}, tmp_path / "model.pth")
    with pytest.raises(MedattnError, match=r"test_disk_checkpoints\.Phase"):
        checkpoint.load(tmp_path / "model.pth")
