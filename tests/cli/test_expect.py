"""export and inspect of files from elsewhere: which weights, what is assumed, and the owner's logits that decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.artifact import Artifact

Run = Callable[..., Any]


@pytest.fixture
def owner(tmp_path: Path) -> tuple[Path, Path]:
    """A network of MONAI's with strides 2 and 1, averaged weights beside raw ones, and a case of the averaged."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(6)
    network = nets.AttentionUnet(2, 1, 3, (4, 8, 6), (2, 1)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.6, 1.4)
    state = network.state_dict()
    raw = {key: value * 0.9 if value.is_floating_point() else value for key, value in state.items()}
    torch.save({"state_dict": raw, "state_dict_ema": state, "epoch": 3}, tmp_path / "owner.pth")
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        np.savez(tmp_path / "case.npz", image=image.numpy(), logits=network(image).numpy())
    return tmp_path / "owner.pth", tmp_path / "case.npz"


def test_expect_finds_the_strides_and_the_manifest_says_so(medattn: Run, owner: Any, tmp_path: Path) -> None:
    path, case = owner
    output = tmp_path / "net.torchscript"
    done = medattn("export", path, "-o", output, "--patch", "32x32", "--expect", case)
    assert done.returncode == 0, done.stderr
    assert "took the weights state_dict_ema" in done.stderr
    assert "proven: strides=[2,1]" in done.stderr
    assert "so assumed" not in done.stderr
    manifest = Artifact.read(output).manifest
    assert manifest.spec.config["strides"] == [2, 1]
    assert manifest.spec.stride == (2, 2)
    assert manifest.reading["expectation"]["proven"] == {"strides": [2, 1]}
    assert manifest.reading["assumptions"] == {}
    assert "case.npz" in medattn("inspect", output).stdout


def test_nothing_is_written_when_no_settings_give_the_logits(medattn: Run, owner: Any, tmp_path: Path) -> None:
    path, case = owner
    words = ("--patch", "32x32", "--expect", case, "--weights", "state_dict", "--expect-limit", "9")
    done = medattn("export", path, "-o", tmp_path / "net.torchscript", *words)
    assert done.returncode == 1
    assert "none of 9 combinations of settings gives the logits of case.npz" in done.stderr
    assert not (tmp_path / "net.torchscript").exists()


def test_what_is_assumed_is_said_by_export_and_inspect(medattn: Run, owner: Any, tmp_path: Path) -> None:
    path, _ = owner
    done = medattn("export", path, "-o", tmp_path / "net.torchscript", "--patch", "32x32")
    assert done.returncode == 0, done.stderr
    assert "the file does not tell, so assumed: strides=2" in done.stderr
    done = medattn("export", path, "-o", tmp_path / "net.torchscript", "--patch", "32x32", "--set", "strides=[2,1]")
    assert "so assumed" not in done.stderr
    shown = medattn("inspect", path).stdout
    assert "strides=2" in shown
    assert "state_dict_ema" in shown
    document = json.loads(medattn("inspect", path, "--weights", "state_dict", "--json").stdout)
    assert document["reading"]["assumptions"] == {"strides": 2}
    assert "asked for" in document["reading"]["remarks"][0]


def test_expect_is_refused_for_our_own_checkpoints(medattn: Run, checkpoint: Path, owner: Any, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "net.torchscript", "--expect", owner[1])
    assert done.returncode == 2
    assert "carries its own settings" in done.stderr


def test_a_case_that_is_missing_is_refused(medattn: Run, owner: Any, tmp_path: Path) -> None:
    done = medattn("export", owner[0], "-o", tmp_path / "net.torchscript", "--expect", tmp_path / "none.npz")
    assert done.returncode == 4
    assert "none.npz is not a file" in done.stderr
