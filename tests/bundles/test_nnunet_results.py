"""A folder of nnU-Net's results gives its network and a spec, or says what has no place."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.bundles import kind_of_folder, read_folder
from medattn_edge.bundles.nnunet import spec_of
from medattn_edge.errors import CheckpointError, InputError, MissingDependency, UsageError
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.rewrites import rewrite

NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"
BUILDER = importlib.util.find_spec("dynamic_network_architectures")
with_builder = pytest.mark.skipif(BUILDER is None, reason="dynamic-network-architectures is not installed")

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Organs",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": {
            "patch_size": [32, 24],
            "spacing": [0.8, 0.8],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "architecture": ARCHITECTURE,
        },
        "3d_fullres": {
            "patch_size": [8, 32, 24],
            "spacing": [2.5, 0.8, 0.7],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "architecture": ARCHITECTURE,
        },
        "3d_child": {"inherits_from": "3d_fullres", "patch_size": [4, 16, 16]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 99.48, "std": 37.13, "percentile_00_5": -15.0, "percentile_99_5": 197.0, "median": 100.0}
    },
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "tumor": 2, "liver": 1},
    "file_ending": ".nii.gz",
    "numTraining": 3,
}


def spec(
    plans: Any = None, dataset: Any = None, name: str = "3d_fullres", orientation: str = "LAS", **plan: Any
) -> Any:
    """The spec, and the assumptions in one text, of plans some of whose entries are replaced."""
    whole = {**copy.deepcopy(PLANS), **(plans or {})}
    configuration = {**whole["configurations"][name], **plan}
    described, assumptions = spec_of(
        whole, {**DATASET, **(dataset or {})}, name, configuration, Path(f"t__p__{name}"), orientation
    )
    return described, "; ".join(assumptions)


def test_a_ct_configuration_is_a_spec() -> None:
    described, assumed = spec()
    assert (described.axes, described.orientation, described.patch) == ("DHW", "LAS", (8, 32, 24))
    assert described.spacing == (2.5, 0.8, 0.7)
    assert str(described.intensity) == "clip:-15:197,normalize:99.48:37.13"
    assert described.labels == ("background", "liver", "tumor")
    assert (described.activation, described.modality) == ("softmax", "CT")
    for words in ("stored in LAS", "cubic splines", "mirror"):
        assert words in assumed


def test_a_transposed_network_sees_the_same_axes() -> None:
    described, _ = spec({"transpose_forward": [2, 0, 1]})
    assert described.axes == "WDH"  # array axis 0 of the network is axis 2 (x) of the file
    assert described.spacing == (0.8, 0.7, 2.5)  # of z, y, x


def test_a_2d_configuration_sees_the_slices_of_the_files() -> None:
    described, _ = spec(name="2d")
    assert (described.axes, described.patch, described.spacing) == ("HW", (32, 24), (0.8, 0.8))
    with pytest.raises(InputError, match="slices along axis 1"):
        spec({"transpose_forward": [1, 0, 2]}, name="2d")


def test_regions_are_sigmoids_in_their_order() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    described, assumed = spec(dataset={"labels": labels, "regions_class_order": [1, 2, 3]})
    assert (described.activation, described.outputs) == ("sigmoid", 3)
    assert described.labels == described.region_order == ("whole", "core", "enhancing")
    assert "[1, 2, 3]" in assumed
    with pytest.raises(InputError, match="regions_class_order"):
        spec(dataset={"labels": labels})


@pytest.mark.parametrize(
    ("scheme", "mask", "text"),
    [
        ("ZScoreNormalization", False, "zscore"),
        ("ZScoreNormalization", True, "zscore:nonzero"),
        ("RescaleTo01Normalization", False, "minmax"),
        ("RGBTo01Normalization", False, "map:0:255:0:1"),
        ("NoNormalization", False, "none"),
    ],
)
def test_normalizations_are_intensities(scheme: str, mask: bool, text: str) -> None:
    described, assumed = spec(normalization_schemes=[scheme], use_mask_for_norm=[mask])
    assert str(described.intensity) == text
    assert ("is measured on" in assumed) == (scheme == "ZScoreNormalization")


def test_each_channel_has_its_own_normalization() -> None:
    described, _ = spec(
        dataset={"channel_names": {"0": "CT", "1": "PET"}},
        normalization_schemes=["CTNormalization", "ZScoreNormalization"],
        use_mask_for_norm=[False, False],
    )
    assert str(described.intensity) == "clip:-15:197,normalize:99.48:37.13;zscore"
    assert described.channels == ("CT", "PET")


def test_a_reader_that_turns_scans_says_the_orientation() -> None:
    described, _ = spec({"image_reader_writer": "NibabelIOWithReorient"}, orientation="")
    assert described.orientation == "RAS"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"orientation": ""}, UsageError, "turns no scan"),
        ({"plans": {"image_reader_writer": "NaturalImage2DIO"}}, InputError, "NaturalImage2DIO"),
        ({"plans": {"transpose_forward": [0, 1]}}, InputError, "transpose_forward"),
        ({"plans": {"foreground_intensity_properties_per_channel": {}}}, InputError, "per_channel.0"),
        ({"normalization_schemes": ["MyNormalization"]}, InputError, "MyNormalization"),
        ({"normalization_schemes": []}, InputError, "0 normalization_schemes"),
        ({"dataset": {"labels": {"background": 0, "liver": 2}}}, InputError, "label values"),
    ],
)
def test_what_has_no_place_is_named_and_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as refused:
        spec(**change)
    assert refused.value.expected  # type: ignore[attr-defined]
    assert refused.value.hint  # type: ignore[attr-defined]


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of results, its checkpoint as nnU-Net's trainer does."""

    def write(
        plans: Any = None, dataset: Any = None, name: str = NAME, weights: Any = None, folds: tuple[str, ...] = ("0",)
    ) -> Path:
        folder = tmp_path / name
        for fold in folds:
            (folder / f"fold_{fold}").mkdir(parents=True)
            content = {
                "network_weights": weights or {"a": torch.zeros(1)},
                "optimizer_state": {},
                "grad_scaler_state": None,
                "logging": {"ema_fg_dice": [np.float64(0.9)]},
                "_best_ema": np.float64(0.9),
                "current_epoch": 3,
                "init_args": {"configuration": "3d_fullres", "fold": 0},
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": (0, 1, 2),
            }
            torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
        (folder / "plans.json").write_text(json.dumps(PLANS if plans is None else plans))
        (folder / "dataset.json").write_text(json.dumps(DATASET if dataset is None else dataset))
        return folder

    return write


def network_of_the_library(plan: dict[str, Any], deep_supervision: bool) -> Any:
    """As nnU-Net builds it for training."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    own = plan["architecture"]["arch_kwargs"]
    settings = {
        **own,
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
        "deep_supervision": deep_supervision,
    }
    return PlainConvUNet(input_channels=1, num_classes=3, **settings)


@with_builder
def test_the_network_is_the_owners_and_exports(results: Callable[..., Path], tmp_path: Path) -> None:
    trained = network_of_the_library(PLANS["configurations"]["3d_fullres"], deep_supervision=True)
    read = read_folder(results(weights=trained.state_dict()), orientation="LAS")
    checkpoint = read.checkpoint
    image = torch.from_numpy(random_patches(checkpoint.spec, 1))
    with torch.inference_mode():
        expected = trained.eval()(image)[0]
        assert torch.equal(checkpoint.network(image), expected)
    assert checkpoint.notes["configuration"] == "3d_fullres"
    artifact = export_fp32(
        rewrite(checkpoint, ("batch-norm",)), tmp_path / "net.onnx", {"random": random_patches(checkpoint.spec, 1)}
    )
    assert artifact.manifest.spec.orientation == "LAS"


@with_builder
def test_results_are_the_reference_of_what_was_made_from_them(results: Callable[..., Path]) -> None:
    from medattn_edge.foreign import SourceOptions, SourceReference

    trained = network_of_the_library(PLANS["configurations"]["3d_fullres"], deep_supervision=True)
    folder = results(weights=trained.state_dict(), folds=("0", "1"))
    made = read_folder(folder, orientation="LAS", fold="1").checkpoint
    with pytest.raises(UsageError, match="2 of the folds"):
        SourceReference.read(folder, SourceOptions(), made.spec, (made.sha256,))
    reference = SourceReference.read(folder, SourceOptions(fold="1"), made.spec, (made.sha256,))
    patches = random_patches(made.spec, 1)
    with torch.inference_mode(), reference.open(threads=1) as session:
        expected = trained.eval()(torch.from_numpy(patches))[0].numpy()
        np.testing.assert_allclose(session.run(patches), expected, rtol=1e-6, atol=1e-6)
    assert any("stored in LAS" in note for note in reference.notes)


@with_builder
def test_weights_of_another_plan_are_refused(results: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="does not fit the network of its folder"):
        read_folder(results(), orientation="LAS")


def test_without_the_library_the_line_that_installs_it_is_said(
    results: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medattn_edge.bundles.nnunet.find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as refused:
        read_folder(results(), orientation="LAS")
    assert refused.value.hint == "pip install dynamic-network-architectures"


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({**ARCHITECTURE, "network_class_name": "os.system"}, "os.system"),
        ({**ARCHITECTURE, "network_class_name": "my_package.nets.Mine"}, "my_package.nets.Mine"),
        (
            {**ARCHITECTURE, "arch_kwargs": {**ARCHITECTURE["arch_kwargs"], "conv_op": "subprocess.Popen"}},  # type: ignore[dict-item]
            "subprocess.Popen",
        ),
        (None, "older than nnU-Net 2.3"),
    ],
)
def test_no_other_code_is_run(
    results: Callable[..., Path], architecture: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medattn_edge.bundles.nnunet.find_spec", lambda name: name)
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"]["architecture"] = architecture
    if architecture is None:
        del plans["configurations"]["3d_fullres"]["architecture"]
    with pytest.raises(InputError, match=words):
        read_folder(results(plans), orientation="LAS")


@pytest.mark.parametrize(
    ("name", "words"), [("t__p__3d_cascade_fullres", "takes the labels of 3d_lowres"), ("renamed", "ends in none of")]
)
def test_a_configuration_that_is_no_network_of_a_scan_is_refused(
    results: Callable[..., Path], name: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_folder(results(name=name), orientation="LAS")


def test_a_fold_must_be_one(results: Callable[..., Path]) -> None:
    folder = results(folds=("0", "1"))
    with pytest.raises(UsageError, match="2 of the folds fold_0, fold_1"):
        read_folder(folder, orientation="LAS")
    with pytest.raises(UsageError, match="0 of the folds"):
        read_folder(folder, orientation="LAS", fold="3")


def test_documents_that_are_missing_or_cut_are_named(results: Callable[..., Path]) -> None:
    folder = results()
    assert kind_of_folder(folder) == "nnunet"
    (folder / "plans.json").write_text('{"configurations": ')
    with pytest.raises(InputError, match=r"plans\.json is not valid JSON"):
        read_folder(folder)
    (folder / "dataset.json").unlink()
    (folder / "plans.json").write_text(json.dumps(PLANS))
    with pytest.raises(InputError, match=r"dataset\.json does not exist"):
        read_folder(folder)
