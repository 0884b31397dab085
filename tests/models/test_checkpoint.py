"""A checkpoint becomes its network, whoever wrote it and however it is wrapped, or is refused with a reason."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.errors import CheckpointError, IntegrityError, MedattnError, OutputError
from medattn_edge.installation import upgrade_line
from medattn_edge.models import build, checkpoint, networks
from medattn_edge.models.resnet import BACKBONES
from medattn_edge.models.weights import recognise
from medattn_edge.spec import Intensity, ModelSpec
from tests.support.networks import randomised

GUIDED = {"width": 8, "backbone_width": 16}
# Every published layout in a small form: settings, C, K, size.
SMALL: dict[str, tuple[dict[str, Any], int, int, tuple[int, ...]]] = {
    "attu_net_leejunhyun": ({"width": 4}, 3, 1, (32, 48)),
    "attu_net_bigmb": ({"width": 4}, 1, 4, (32, 48)),
    "agn_multi_dsv": ({"width": 4}, 1, 4, (16, 32, 16)),
    "agn_single_dsv": ({"width": 4, "gates": "single"}, 2, 3, (16, 32, 16)),
    "agn_dsv": ({"width": 4, "gates": "none"}, 1, 2, (16, 32, 16)),
    "agn_grid": ({"width": 4}, 1, 3, (32, 16, 4)),
    "monai_attentionunet": ({"dims": 3, "channels": [4, 8, 6]}, 1, 2, (8, 16, 8)),
    "ms_dual_guided": ({**GUIDED, "backbone": "resnet18"}, 1, 5, (32, 48)),
    "ms_dual_guided_2019": ({**GUIDED, "backbone": "resnext50_32x4d"}, 3, 2, (32, 48)),
}


def layouts() -> dict[str, tuple[Any, Any]]:
    return {layout.name: (record, layout) for record in networks().values() for layout in record.layouts}


@pytest.fixture(scope="module")
def published() -> Any:
    """layout, further settings -> (its state_dict under the published names, an image, the network's logits)."""

    def make(name: str, **extra: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        record, layout = layouts()[name]
        small, channels, classes, size = SMALL[name]
        config = {**record.settings, **small, **extra}
        torch.manual_seed(9)
        network = randomised(record.build(config, channels, classes))
        state = network.state_dict()
        names = layout.published(state, config)
        assert len(set(names.values())) == len(state)
        image = torch.rand(2, channels, *size)
        with torch.inference_mode():
            logits = network(image)
        assert logits.std() > 0.01 * logits.abs().max()  # the weights matter
        return {names[key]: value for key, value in state.items()}, image, logits

    return make


@pytest.fixture
def attu(published: Any) -> Any:
    """The state_dict, image and logits of a small AttU_Net."""
    return published("attu_net_leejunhyun")


def logits_of(path: Path, image: torch.Tensor, **how: Any) -> torch.Tensor:
    loaded = checkpoint.load(path, **how)
    assert not loaded.network.training
    with torch.inference_mode():
        return loaded.network(image)


def refused(path: Path, **how: Any) -> MedattnError:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path, **how)
    assert path.name in error.value.found or path.stem in error.value.found
    assert error.value.hint
    assert "\x1b" not in str(error.value)
    return error.value


# ---------------------------------------------------------------------------------------------- published layouts


def test_every_layout_has_a_small_form_here():
    assert sorted(SMALL) == sorted(layouts())


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".pth") for name in SMALL), ("attu_net_bigmb", ".safetensors")])
def test_every_layout_is_recognised_with_its_settings_and_gives_the_same_logits(name, suffix, published, tmp_path):
    state, image, wanted = published(name)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = checkpoint.load(path)
    small, channels, classes, _ = SMALL[name]
    assert (loaded.layout, loaded.foreign, loaded.spec.network) == (name, True, layouts()[name][0].name)
    assert (loaded.spec.in_channels, loaded.spec.outputs) == (channels, classes)
    assert {key: loaded.spec.config[key] for key in small} == small
    assert len(loaded.sha256) == 64
    names = layouts()[name][1].published(loaded.network.state_dict(), dict(loaded.spec.config))
    assert all(torch.equal(value, state[names[key]]) for key, value in loaded.network.state_dict().items())
    assert torch.equal(logits_of(path, image), wanted)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_the_backbone_of_a_self_guided_file_is_told_from_its_shapes(backbone):
    record, layout = layouts()["ms_dual_guided"]
    config = {**record.settings, **GUIDED, "backbone": backbone}
    with torch.device("meta"):
        state = record.build(config, 1, 2).state_dict()
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in layout.published(state, config).items()}
    assert len(shapes) == len(state)
    assert recognise(shapes) == (record, layout)
    assert {**record.settings, **layout.config(shapes)} == config


@pytest.mark.parametrize("name", ["agn_multi_dsv", "agn_single_dsv", "agn_grid"])
def test_a_theta_without_stride_is_told_from_its_shape(name, published, tmp_path):
    state, image, wanted = published(name, strided_theta=False)
    torch.save(state, tmp_path / "model.pth")
    assert checkpoint.load(tmp_path / "model.pth").spec.config["strided_theta"] is False
    assert torch.equal(logits_of(tmp_path / "model.pth", image), wanted)


@pytest.mark.parametrize("channels", [[4, 8], [4, 8, 8, 16]])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_depth_of_a_monai_file_is_told_from_its_keys(dims, channels, published, tmp_path):
    record, layout = layouts()["monai_attentionunet"]
    network = record.build({"dims": dims, "channels": channels, "strides": 2}, 1, 2)
    names = layout.published(network.state_dict(), {"dims": dims, "channels": channels})
    torch.save({names[key]: value for key, value in network.state_dict().items()}, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert dict(loaded.spec.config) == {"dims": dims, "channels": channels, "strides": 2}
    assert loaded.spec.dims == dims


def test_published_layers_that_are_never_executed_are_dropped(published, tmp_path):
    state, image, wanted = published("ms_dual_guided")
    dead = {f"{name}.0.weight": torch.rand(3, 3) for name in ("attention1_1", "refine4", "conv6_1", "conv7_2")}
    torch.save(
        {**state, **{key.replace("attention1_1", "attention1"): value for key, value in dead.items()}},
        tmp_path / "model.pth",
    )
    assert torch.equal(logits_of(tmp_path / "model.pth", image), wanted)


# ------------------------------------------------------------------------------------------------------- wrappings

WRAPPED = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled DataParallel": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "state_dict": lambda state: {"state_dict": state},
    "model_state_dict": lambda state: {"epoch": 3, "model_state_dict": OrderedDict(state)},
    "network_weights": lambda state: {"network_weights": state, "trainer_name": "nnUNetTrainer"},
    "with training's things": lambda state: {
        "model": state,
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "best": np.float64(0.9),
        "iteration": np.int64(7),
        "args": argparse.Namespace(lr=1e-3, data="/data", dice=np.float32(0.5)),
    },
    "beside class weights": lambda state: {"state_dict": state, "class_weights": torch.tensor([1.0, 2.0])},
    "nested twice with a prefix": lambda state: {
        "model": {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 4}
    },
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "pytorch-lightning_version": "2.4.0",
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3},
        "callbacks": {},
    },
    "parameters": lambda state: {
        key: nn.Parameter(value) if value.is_floating_point() else value for key, value in state.items()
    },
}


@pytest.mark.parametrize("wrapping", list(WRAPPED))
@pytest.mark.parametrize("name", ["attu_net_leejunhyun", "monai_attentionunet"])
def test_weights_are_found_however_they_are_wrapped(name, wrapping, published, tmp_path):
    state, image, wanted = published(name)
    torch.save(WRAPPED[wrapping](state), tmp_path / "model.ckpt")
    assert checkpoint.load(tmp_path / "model.ckpt").layout == name
    assert torch.equal(logits_of(tmp_path / "model.ckpt", image), wanted)


@pytest.mark.parametrize(
    "how",
    [
        {"_use_new_zipfile_serialization": False},
        {"pickle_module": dill},
        {"pickle_module": dill, "_use_new_zipfile_serialization": False},
    ],
    ids=["before zip", "dill", "dill before zip"],
)
def test_every_way_of_writing_a_state_dict_is_read(how, attu, tmp_path):
    state, image, wanted = attu
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "model.pth", **how)
    assert torch.equal(logits_of(tmp_path / "model.pth", image), wanted)


def test_old_files_without_batch_counters_load(attu, tmp_path):
    state, image, wanted = attu
    torch.save({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "old.pth")
    assert torch.equal(logits_of(tmp_path / "old.pth", image), wanted)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 0.0), (torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_weights_of_another_precision_become_fp32(kind, tolerance, attu, tmp_path):
    state, image, wanted = attu
    torch.save({key: v.to(kind) if v.is_floating_point() else v for key, v in state.items()}, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert {value.dtype for value in loaded.network.parameters()} == {torch.float32}
    assert (logits_of(tmp_path / "model.pth", image) - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_a_foreign_file_gets_the_networks_defaults_and_numbered_labels(published, tmp_path):
    torch.save(published("agn_multi_dsv")[0], tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth")
    assert loaded.spec.labels == ("background", "class_1", "class_2", "class_3")
    assert (loaded.spec.patch, loaded.spec.stride) == ((96, 96, 96), (16, 16, 16))
    assert loaded.spec.intensity == Intensity.parse("zscore")
    assert dict(loaded.notes) == {}
    relabelled = loaded.with_spec(loaded.spec.with_patch((32, 32, 32)))
    assert relabelled.spec.patch == (32, 32, 32)
    assert relabelled.network is loaded.network


def test_one_output_is_the_logit_of_one_label(attu, tmp_path):
    torch.save(attu[0], tmp_path / "model.pth")
    spec = checkpoint.load(tmp_path / "model.pth").spec
    assert (spec.outputs, spec.labels) == (1, ("background", "class_1"))


# -------------------------------------------------------------------------------------------- network= and config=


def test_another_network_than_the_one_insisted_on_is_refused(attu, tmp_path):
    torch.save(attu[0], tmp_path / "model.pth")
    assert checkpoint.load(tmp_path / "model.pth", network="attention-unet-2d").layout == "attu_net_leejunhyun"
    error = refused(tmp_path / "model.pth", network="self-guided")
    assert "attention-unet-2d" in error.found
    assert error.expected == "self-guided"


def test_a_setting_that_a_file_cannot_tell_is_accepted(published, tmp_path):
    state, image, wanted = published("agn_single_dsv", align_corners=True)
    torch.save(state, tmp_path / "model.pth")
    assert checkpoint.load(tmp_path / "model.pth").spec.config["align_corners"] is False
    assert not torch.equal(logits_of(tmp_path / "model.pth", image), wanted)
    assert torch.equal(logits_of(tmp_path / "model.pth", image, config={"align_corners": True}), wanted)


@pytest.mark.parametrize("config", [{"align_corner": True}, {"gates": "double"}, {"width": 0}, {"align_corners": 1}])
def test_a_setting_that_the_network_has_not_is_refused(config, published, tmp_path):
    torch.save(published("agn_single_dsv")[0], tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=next(iter(config))):
        checkpoint.load(tmp_path / "model.pth", config=config)


def test_a_setting_that_contradicts_the_shapes_is_refused(published, tmp_path):
    torch.save(published("agn_single_dsv")[0], tmp_path / "model.pth")
    assert "of another shape" in refused(tmp_path / "model.pth", config={"width": 8}).found
    assert "missing" in refused(tmp_path / "model.pth", config={"gates": "multi"}).found


# ----------------------------------------------------------------------------------------- files that are no weights


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "in place of a weight"])
def test_pickled_code_is_never_run(place, zipped, attu, tmp_path):
    bomb = Bomb(tmp_path / "ran")
    content = {
        "alone": bomb,
        "beside the weights": {"state_dict": attu[0], "model": bomb},
        "in place of a weight": {**attu[0], "Conv1.conv.0.weight": bomb},
    }[place]
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    error = refused(tmp_path / "model.pth")
    assert "run code" in error.found
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    for protocol in range(2, 6):
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps({"state_dict": Bomb(tmp_path / "ran")}, protocol=protocol))
        refused(path)
        assert not (tmp_path / "ran").exists()


def module_tree(state: dict[str, torch.Tensor]) -> nn.Module:
    """A module of nothing but torch's own classes with this state_dict."""
    root = nn.Module()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        here = root
        for name in parents:
            if name not in here._modules:
                here.add_module(name, nn.Module())
            here = here._modules[name]
        here.register_buffer(leaf, value)
    return root


@pytest.mark.parametrize(("content", "protocol"), [("module", 2), ("dictionary", 4)])
def test_the_command_that_the_refusal_gives_converts_the_file(content, protocol, attu, tmp_path):
    state, image, wanted = attu
    path = tmp_path / "whole model.pth"
    whole = module_tree(state) if content == "module" else {"state_dict": state, "written": Path("/tmp")}
    torch.save(whole, path, pickle_protocol=protocol)
    command = "python -c " + refused(path).hint.split("python -c ")[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment, cwd="/")
    assert torch.equal(logits_of(tmp_path / "whole model.state.pth", image), wanted)


def test_a_torchscript_program_is_no_checkpoint(tmp_path):
    with torchscript_is_deprecated():
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    assert "TorchScript" in refused(tmp_path / "model.pt").found


@pytest.mark.parametrize("writer", ["zip", "before zip", "safetensors", "ours"])
def test_a_file_that_is_cut_short_is_damaged_and_not_called_code(writer, attu, tmp_path):
    path = tmp_path / ("model.pth" if "zip" in writer else "model.safetensors")
    if writer == "safetensors":
        save_file(attu[0], path)
    elif writer == "ours":
        checkpoint.save(path, *own())
    else:
        torch.save(attu[0], path, _use_new_zipfile_serialization=writer == "zip")
    whole = path.read_bytes()
    for cut in [0, 1, 2, 8, 9, 100, 300, 1000, 5000, len(whole) // 2, len(whole) - 4000, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        error = refused(path)
        assert "cannot be read" in error.found, cut
        assert "weights_only" not in str(error), cut


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ".ckpt"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text\n" * 40, b"<!DOCTYPE html><html>404</html>", b"\x89PNG\r\n", b"{}" * 50]
)
def test_a_file_that_is_something_else_is_refused(content, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    error = refused(path)
    assert "cannot be read" in error.found
    assert "weights_only" not in str(error)


def test_a_safetensors_file_under_a_torch_name_is_refused(attu, tmp_path):
    save_file(attu[0], tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pth")
    assert "its suffix saying which" in refused(tmp_path / "model.pth").expected


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path):
    assert "does not exist" in refused(tmp_path / "missing.pth").found
    (tmp_path / "folder.pth").mkdir()
    assert "is a directory" in refused(tmp_path / "folder.pth").found


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}, {"model": {"lr": 0.1}}])
def test_a_dictionary_without_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    assert "holds no tensors" in refused(tmp_path / "model.pth").found


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", None])
def test_something_else_than_a_dictionary_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    assert type(content).__name__ in refused(tmp_path / "model.pth").found


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "model.pth")
    refused(tmp_path / "model.pth")


# ------------------------------------------------------------------------------------------------- other networks


def test_another_network_is_refused_with_the_nearest_layout_and_the_keys_that_differ(attu, tmp_path):
    plain = {key: value for key, value in attu[0].items() if not key.startswith("Att")}  # the same without its gates
    torch.save(plain, tmp_path / "unet.pth")
    error = refused(tmp_path / "unet.pth")
    assert "not known" in error.found
    assert "attu_net_leejunhyun" in error.expected
    assert "nearest is attu_net_leejunhyun" in error.hint
    assert "Att2.W_g.0.bias" in error.hint


def test_a_network_that_is_like_none_is_refused_with_how_its_keys_look(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.rand(4, 4, 3, 3), "fc.weight": torch.rand(2, 4)}, tmp_path / "r.pth")
    error = refused(tmp_path / "r.pth")
    assert "no key is one of a known layout's" in error.hint
    assert "fc.weight, layer1.0.conv1.weight" in error.hint


@pytest.mark.parametrize("name", list(SMALL))
def test_a_known_layout_with_one_difference_is_refused_by_name(name, published, tmp_path):
    state, _, _ = published(name)
    victim = sorted(key for key in state if key.endswith("running_var"))[0]
    reshaped = {**state, victim: torch.rand(len(state[victim]) + 1)}
    changes = {
        f"1 missing: {victim}": {key: value for key, value in state.items() if key != victim},
        "1 unknown: decoder9.weight": {**state, "decoder9.weight": torch.rand(2)},
        f"1 of another shape: {victim} is ({len(state[victim]) + 1},), not ({len(state[victim])},)": reshaped,
    }
    for said, content in changes.items():
        torch.save(content, tmp_path / "model.pth")
        error = refused(tmp_path / "model.pth")
        assert said in str(error)
        assert name in error.found


@pytest.mark.parametrize("name", list(SMALL))
def test_a_weight_of_an_absurd_shape_is_refused(name, published, tmp_path):
    state, _, _ = published(name)
    convolutions = [key for key in state if key.endswith("weight") and state[key].dim() > 1]
    telling = [key for key in convolutions if key.split(".")[0] in {"conv1", "Conv1", "final", "down1", "Conv_1x1"}]
    telling += [key for key in convolutions if "resnext.layer1.1.0" in key or "theta" in key or "submodule" in key]
    shapes = [(), (3,), (0, 3, 3, 3), (7, 3, 3, 3, 3, 3)]
    for index, key in enumerate(dict.fromkeys([convolutions[0], convolutions[-1], *telling[:4]])):
        for shape in (shapes[index % 4], shapes[(index + 1) % 4]):
            torch.save({**state, key: torch.rand(shape)}, tmp_path / "model.pth")
            refused_somehow(tmp_path / "model.pth")


def refused_somehow(path: Path) -> None:
    with pytest.raises(MedattnError):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, attu, tmp_path):
    attu[0]["Att3.psi.0.weight"][0, 0] = value
    torch.save(attu[0], tmp_path / "model.pth")
    error = refused(tmp_path / "model.pth")
    assert "not finite in Att3.psi.0.weight" in error.found


@pytest.mark.parametrize("kind", ["complex", "sparse", "meta"])
def test_weights_that_are_no_plain_numbers_are_refused_by_name(kind, attu, tmp_path):
    key = "Att3.psi.0.weight"
    value = attu[0][key]
    odd = {"complex": value.to(torch.complex64), "sparse": value.to_sparse(), "meta": value.to("meta")}[kind]
    torch.save({**attu[0], key: odd}, tmp_path / "model.pth")
    assert key in str(refused(tmp_path / "model.pth"))


# ----------------------------------------------------------------------------------------------------- our own files

OWN = ModelSpec(
    network="attention-unet-monai",
    in_channels=1,
    labels=("background", "left_lung", "Lunge, rechts"),
    patch=(16, 24),
    stride=(2, 2),
    spacing=(0.75, 0.8),
    intensity=Intensity.window(-1000, 400),
    config={"dims": 2, "channels": [2, 4]},
)


def own() -> tuple[Any, ModelSpec]:
    torch.manual_seed(3)
    return build(OWN), OWN


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "model.safetensors", *own(), notes={"dice": 0.91, "command": "train ä"})
    return tmp_path / "model.safetensors"


def rewritten(path: Path, change: Any) -> Path:
    """The same file with other facts: text, or JSON values."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["medattn_edge"])
    new = change(facts)
    save_file(load_file(path), path, metadata={"medattn_edge": new if isinstance(new, str) else json.dumps(new)})
    return path


def test_what_was_saved_is_loaded_bit_for_bit(form, network, tmp_path):
    labels = ("background", *(f"organ_{index}" for index in range(1, max(2, form.classes))))
    spec = ModelSpec(
        form.name,
        form.channels,
        labels,
        form.size,
        network.stride,
        outputs=form.classes,
        config=form.settings,
        intensity=Intensity.parse("minmax:slice"),
    )
    checkpoint.save(tmp_path / "model.safetensors", network, spec, notes={"dice": [0.9, 0.8], "split": {"test": ["a"]}})
    loaded = checkpoint.load(tmp_path / "model.safetensors", network=form.name)
    assert loaded.spec == spec
    assert (loaded.layout, loaded.foreign) == ("medattn_edge", False)
    assert dict(loaded.notes) == {"dice": [0.9, 0.8], "split": {"test": ["a"]}}
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.network.state_dict().items())
    image = torch.rand(1, form.channels, *form.size)
    with torch.inference_mode():
        assert torch.equal(loaded.network(image), network(image))


def test_the_same_network_gives_the_same_bytes(own_file, tmp_path):
    checkpoint.save(tmp_path / "again.safetensors", *own(), notes={"command": "train ä", "dice": 0.91})
    assert (tmp_path / "again.safetensors").read_bytes() == own_file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "model.safetensors"]


def test_a_network_on_its_way_through_training_is_saved_and_left_alone(own_file, tmp_path):
    network, spec = own()
    network.train()
    checkpoint.save(tmp_path / "training.safetensors", network, spec)
    assert network.training
    assert all(value.requires_grad for value in network.parameters())
    assert checkpoint.load(tmp_path / "training.safetensors").network.training is False


def test_a_newer_schema_asks_for_an_upgrade(own_file):
    rewritten(own_file, lambda facts: {**facts, "schema": 2})
    with pytest.raises(IntegrityError, match="schema 2") as error:
        checkpoint.load(own_file)
    assert error.value.hint == upgrade_line()


@pytest.mark.parametrize(
    "facts",
    ["", "{", "null", "[]", "7", '"text"', "{}", '{"schema": 1}', '{"schema": "one", "spec": {}}', '{"schema": null}'],
)
def test_facts_that_cannot_be_read_are_refused(facts, own_file):
    assert "facts" in refused(rewritten(own_file, lambda _: facts)).found


@pytest.mark.parametrize("junk", [None, -1, 0, 1e300, "x", [], {}, [None], {"a": 1}, True, 10**400])
def test_no_value_of_a_spec_can_crash_the_reader(junk, own_file):
    network = own()[0]
    for name in OWN.to_json():
        checkpoint.save(own_file, network, OWN)
        rewritten(own_file, lambda facts, name=name: {**facts, "spec": {**facts["spec"], name: junk}})
        try:
            checkpoint.load(own_file)
        except MedattnError as error:
            assert error.message  # noqa: PT017
    for whole in (junk, {**OWN.to_json(), "new": junk}):
        rewritten(own_file, lambda facts, whole=whole: {**facts, "spec": whole})
        refused_somehow(own_file)


@pytest.mark.parametrize("junk", [7, "text", [1]])
def test_notes_that_are_no_dictionary_are_refused(junk, own_file):
    assert "facts" in refused(rewritten(own_file, lambda facts: {**facts, "notes": junk})).found


def test_our_own_file_with_another_tensor_is_refused_by_name(own_file):
    with safe_open(own_file, framework="pt") as file:
        metadata = file.metadata()
    save_file({**load_file(own_file), "extra.weight": torch.rand(2)}, own_file, metadata=metadata)
    assert "1 unknown: extra.weight" in refused(own_file).found


def test_the_settings_of_our_own_file_cannot_be_changed(own_file):
    assert checkpoint.load(own_file, config={"dims": 2}).spec == OWN
    assert "was trained with" in refused(own_file, config={"dims": 3}).found
    assert "norm" in refused_setting(own_file)


def refused_setting(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path, config={"norm": "group"})
    return str(error.value)


def test_a_folder_that_is_missing_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="mkdir"):
        checkpoint.save(tmp_path / "missing" / "model.safetensors", *own())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(own_file):
    before = own_file.read_bytes()
    program = f"""
import resource, signal, sys, torch
from pathlib import Path
from medattn_edge.errors import OutputError
from medattn_edge.models import checkpoint
path = Path({str(own_file)!r})
loaded = checkpoint.load(path)
with torch.no_grad():
    for value in loaded.network.parameters():
        value.zero_()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))
try:
    checkpoint.save(path, loaded.network, loaded.spec)
except OutputError as error:
    sys.exit(0 if "cannot write" in str(error) else 4)
sys.exit(5)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert own_file.read_bytes() == before
    assert list(own_file.parent.iterdir()) == [own_file]


# --------------------------------------------------------------------------------------------------- damaged at random


def small_file(writer: str, path: Path) -> bytes:
    network, spec = own()
    _record, layout = layouts()["monai_attentionunet"]
    names = layout.published(network.state_dict(), dict(spec.config))
    state = {names[key]: value for key, value in network.state_dict().items()}
    if writer == "ours":
        checkpoint.save(path, network, spec)
    elif writer == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=writer == "zip")
    return path.read_bytes()


# Anywhere in the file, and more often where its structure is: near the start and near the end.
PLACES = st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0, 6000), st.integers(-6000, -1))


@pytest.mark.parametrize("writer", ["zip", "before zip", "safetensors", "ours"])
def test_bytes_changed_at_random_never_crash_the_reader(writer, tmp_path):
    path = tmp_path / ("model.pth" if "zip" in writer else "model.safetensors")
    whole = small_file(writer, path)
    checkpoint.load(path)

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=3))
    def flip(changes: list[tuple[float, int]]) -> None:
        damaged = bytearray(whole)
        for place, value in changes:
            damaged[int(place * len(whole)) if isinstance(place, float) else place % len(whole)] = value
        path.write_bytes(damaged)
        try:
            checkpoint.load(path)
        except MedattnError as error:
            assert error.message  # noqa: PT017

    flip()
