"""export --precision fp16, as typed: both shipped networks, what inspect then says, and what cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.data import shipped_checkpoints

Run = Callable[..., Any]


_QUICK = "lungs-attention-unet-2d"
_SHIPPED = [
    name if name == _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(shipped_checkpoints())
]


@pytest.fixture(scope="module", params=_SHIPPED)
def shipped(request: pytest.FixtureRequest) -> str:
    """A shipped network's name."""
    return str(request.param)


@pytest.fixture(scope="module")
def halved(shipped: str, medattn: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Its FP16 artifact, and what the command said of it."""
    path = tmp_path_factory.mktemp("halved") / f"{shipped}.fp16.onnx"
    done = medattn("export", shipped_checkpoints()[shipped], "-o", path, "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_a_shipped_network_keeps_its_answer_on_the_packaged_ct(halved: tuple[Path, str], shipped: str) -> None:
    manifest = Artifact.read(halved[0]).manifest
    assert manifest.precision == "fp16"
    emulated, itself = manifest.recipe["emulated"][0], manifest.agreement[0]
    for case in (emulated, itself):
        assert (case["input"], case["patches"], case["finite"]) == ("CTChest4.nrrd", 8, True)
        assert min(case["dice"].values()) >= 0.9995
        assert 65 < case["sqnr_db"] < 100
    (full,) = [case for case in manifest.recipe["parent_agreement"] if case["input"] == "CTChest4.nrrd"]
    assert full["sqnr_db"] > 120
    rules = {"lungs-attention-unet-2d": {"gate", "output"}, "lungs-self-guided": {"energy", "softmax", "output"}}
    assert {island["rule"] for island in manifest.recipe["islands"]} == rules[shipped]
    assert manifest_path(halved[0]).stat().st_size < 200_000


def test_the_command_tells_both_figures_and_where_to_look(halved: tuple[Path, str]) -> None:
    path, said = halved
    count = len(Artifact.read(path).manifest.recipe["islands"])
    assert f"{count} of its nodes stay FP32: medattn-edge inspect {path}" in said
    assert "fp16 against fp32" in said
    assert "CTChest4.nrrd, emulated" in said
    assert "random" in said


def test_inspect_tells_the_precision_the_islands_by_rule_and_the_largest_value(
    halved: tuple[Path, str], shipped: str, medattn: Run
) -> None:
    done = medattn("inspect", halved[0])
    assert done.returncode == 0, done.stderr
    lines = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in done.stdout.splitlines() if "│" in line}
    assert lines["precision"] == "fp16"
    islands = {
        "lungs-attention-unet-2d": "9: 8 gate, 1 output",
        "lungs-self-guided": "49: 24 energy, 16 softmax, 9 output",
    }
    assert lines["FP32 islands"] == islands[shipped]
    assert lines["largest value"].endswith("on CTChest4.nrrd; a half ends at 65504")
    told = json.loads(medattn("inspect", halved[0], "--json").stdout)
    modules = {island["module"] for island in told["recipe"]["islands"]}
    assert {"lungs-attention-unet-2d": "head", "lungs-self-guided": "heads.3"}[shipped] in modules
    largest = max(told["recipe"]["magnitudes"].values())
    assert lines["largest value"].startswith(f"{largest:g} in ")


def test_inspect_says_nothing_of_islands_where_there_are_none(artifact: Path, checkpoint: Path, medattn: Run) -> None:
    for path in (artifact, checkpoint):
        assert "FP32 islands" not in medattn("inspect", path).stdout


def test_infer_takes_the_file_as_any_other(halved: tuple[Path, str], scan: Path, medattn: Run, tmp_path: Path) -> None:
    done = medattn("infer", halved[0], scan, "-o", tmp_path / "labels.nii.gz", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.nii.gz").is_file()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--precision", "bf16", "-o", "net.onnx"), "--precision fp16 -o net.onnx"),
        (("--precision", "FP16", "-o", "net.onnx"), "--precision fp16 -o net.onnx"),
        (("--precision", "", "-o", "net.onnx"), "--precision fp16 -o net.onnx"),
        (("--precision", "int8", "-o", "net.onnx"), "calibrate NET.onnx SCAN -o NET.int8.onnx --profile cpu"),
        (("--precision", "fp16", "-o", "net.torchscript"), "--precision fp16 -o net.onnx"),
        (("--precision", "fp16", "-o", "net.onnx", "--samples", "0"), "--help"),
    ],
)
def test_a_precision_that_cannot_be_made_is_refused_before_anything_is_read(
    words: tuple[str, ...], hint: str, medattn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = medattn("export", "no-such-checkpoint.pth", *words)
    assert done.returncode == 2
    assert hint in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_network_that_half_precision_would_change_is_a_verdict_and_writes_nothing(
    checkpoint: Path, scan: Path, medattn: Run, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    words = ("export", checkpoint, "-o", path, "--precision", "fp16", "--scan", scan, "--json")
    done = medattn(*words, "--samples", "2")
    told = json.loads(done.stdout)
    assert done.returncode == 1, told
    assert "the emulated fp16 network does not agree with fp32: on scan.nii.gz input" in told["error"]["message"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_samples_that_were_asked_for_are_measured(medattn: Run, tmp_path: Path) -> None:
    path, trained = tmp_path / "small.onnx", shipped_checkpoints()["lungs-attention-unet-2d"]
    done = medattn("export", trained, "-o", path, "--precision", "fp16", "--samples", "1", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert told["recipe"]["measured_on"] == {"CTChest4.nrrd": 1}
    assert told["precision"] == "fp16"


@pytest.mark.slow
def test_a_higher_gate_than_half_precision_holds_is_exit_code_1_and_no_file(medattn: Run, tmp_path: Path) -> None:
    checkpoint = shipped_checkpoints()["lungs-self-guided"]
    done = medattn("export", checkpoint, "-o", tmp_path / "net.onnx", "--precision", "fp16", "--gate", 1)
    assert done.returncode == 1
    assert "emulated fp16" in done.stderr
    assert "below 1" in done.stderr
    assert list(tmp_path.iterdir()) == []
