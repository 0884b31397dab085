"""`export FOLDER`: another tool's folder is exported as a checkpoint is, and what is assumed is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

nets = pytest.importorskip("monai.networks.nets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    definition = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    documents: dict[str, Any] = {
        "metadata": {
            "network_data_format": {
                "inputs": {"image": {"num_channels": 1, "modality": "CT"}},
                "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
            }
        },
        "inference": {
            "network_def": {"_target_": "UNet", **definition},
            "preprocessing": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "clip": True,
                 "b_min": 0, "b_max": 1},
            ],
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
            "postprocessing": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
        },
    }  # fmt: skip
    for name in ("configs", "models"):
        (tmp_path / "spleen" / name).mkdir(parents=True)
    for name, document in documents.items():
        (tmp_path / "spleen" / "configs" / f"{name}.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    torch.save(nets.UNet(**definition).state_dict(), tmp_path / "spleen" / "models" / "model.pt")
    return tmp_path / "spleen"


def test_a_bundle_is_exported_when_its_orientation_is_said(medattn: Any, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.onnx"
    refused = medattn("export", folder, "-o", output)
    assert refused.returncode == 2
    assert "--orientation RAS" in refused.stderr
    assert not output.exists()
    done = medattn("export", folder, "-o", output, "--orientation", "RAS", "--json")
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)["spec"]
    assert (spec["labels"], spec["orientation"], spec["axes"]) == (["background", "spleen"], "RAS", "WHD")
    assert "assumed: windows overlap by 0.25" in done.stderr
    assert "assumed: every scan is seen in RAS" in done.stderr


def test_options_of_a_folder_are_refused_for_a_file(medattn: Any, folder: Path, tmp_path: Path) -> None:
    file = folder / "models" / "model.pt"
    refused = medattn("export", file, "-o", tmp_path / "net.onnx", "--fold", "0")
    assert refused.returncode == 2
    assert "--fold for model.pt" in refused.stderr


def test_options_of_a_checkpoint_are_refused_for_a_folder(medattn: Any, folder: Path, tmp_path: Path) -> None:
    for option in (("--set", "width=4"), ("--labels", "background,liver")):
        refused = medattn("export", folder, "-o", tmp_path / "net.onnx", "--orientation", "RAS", *option)
        assert refused.returncode == 2
        assert option[0] in refused.stderr
