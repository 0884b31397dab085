"""export and inspect say what nobody gave, take a spec by options or from a file, and ask for the background."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medattn_edge.artifact import Artifact
from medattn_edge.spec import SPEC_OPTIONS, is_background

Run = Callable[..., Any]
GIVEN = (
    *("--patch", "32x32", "--set", "strides=2", "--orientation", "rsa", "--axes", "WH", "--spacing", "1.5x2"),
    *("--intensity", "percentile:0.5:99.5,zscore:nonzero", "--labels", "WT,TC,ET", "--activation", "sigmoid"),
    *("--region-order", "WT,TC,ET", "--after", "largest:WT", "--after", "drop-below:*:0.5", "--mirror", "h"),
    *("--modality", "mr", "--body-part", "BRAIN"),
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of MONAI's: one channel, three outputs, and nothing said of them."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(2)
    network = nets.AttentionUnet(2, 1, 3, (4, 8), (2, 2)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
    path = tmp_path_factory.mktemp("foreign") / "net.pth"
    torch.save(network.state_dict(), path)
    return path


def test_every_fact_that_nobody_gave_is_said_with_its_option(medattn: Run, foreign: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.torchscript"
    done = medattn("export", foreign, "-o", output, "--patch", "32x32", "--orientation", "RAS")
    assert done.returncode == 0, done.stderr
    reading = Artifact.read(output).manifest.reading
    said = reading["spec_assumptions"]
    assert set(said) == set(SPEC_OPTIONS.values()) - {"--patch", "--orientation", "--region-order", "--channels"}
    assert said["--intensity"] == "none"
    assert said["--labels"] == "background,class_1,class_2"
    shown = medattn("inspect", output).stdout
    for option, value in said.items():
        assert f"{option:<14} {value}" in done.stderr
        assert f"{option:<14} {value}" in shown
    assert "--orientation" not in done.stderr
    document = json.loads(medattn("inspect", foreign, "--json").stdout)
    assert document["reading"]["spec_assumptions"]["--orientation"] == "LPS (axial slices)"


def test_a_whole_spec_by_options_leaves_nothing_assumed(medattn: Run, foreign: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.torchscript"
    done = medattn("export", foreign, "-o", output, *GIVEN, "--json")
    assert done.returncode == 0, done.stderr
    assert "assumed" not in done.stderr
    manifest = Artifact.read(output).manifest
    assert manifest.reading["spec_assumptions"] == {}
    values = json.loads(done.stdout)["spec"]
    assert values == manifest.spec.to_json()
    assert (values["orientation"], values["axes"], values["mirror"], values["modality"]) == ("RSA", "WH", "H", "MR")
    assert values["labels"] == values["region_order"] == ["WT", "TC", "ET"]
    assert values["cleanup"] == ["largest:WT", "drop-below:*:0.5"]
    shown = medattn("inspect", output).stdout
    for words in ("RSA", "0 WT, 1 TC, 2 ET", "largest:WT", "BRAIN"):
        assert words in shown


def test_a_spec_goes_through_a_file_and_options_override_it(medattn: Run, foreign: Path, tmp_path: Path) -> None:
    output, file = tmp_path / "net.torchscript", tmp_path / "spec.json"
    assert medattn("export", foreign, "-o", output, *GIVEN).returncode == 0
    spec = Artifact.read(output).manifest.spec
    file.write_text(medattn("inspect", output, "--spec").stdout, encoding="utf-8")
    done = medattn("export", foreign, "-o", output, "--spec", file)
    assert done.returncode == 0, done.stderr
    assert "assumed" not in done.stderr
    assert Artifact.read(output).manifest.spec == spec
    done = medattn("export", foreign, "-o", output, "--spec", file, "--orientation", "LPS", "--mirror", "h")
    assert done.returncode == 0, done.stderr
    assert "--orientation LPS (axial slices), instead of RSA (coronal slices) as spec.json has it" in done.stderr
    assert "--mirror" not in done.stderr  # as the file has it
    assert Artifact.read(output).manifest.spec.orientation == "LPS"


def test_what_a_printed_spec_only_assumes_is_said_beside_it(medattn: Run, foreign: Path) -> None:
    done = medattn("inspect", foreign, "--spec")
    assert "nobody gave these" in done.stderr
    assert "strides" in done.stderr
    assert "--orientation" in done.stderr


def test_a_plane_orders_the_letters_of_an_orientation(medattn: Run, foreign: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.torchscript"
    words = ("--patch", "32x32", "--plane", "sagittal", "--orientation", "RAS")
    assert medattn("export", foreign, "-o", output, *words).returncode == 0
    assert Artifact.read(output).manifest.spec.orientation == "ASR"


@pytest.mark.parametrize("first", ["liver", "WT", "1", "grounds"])
def test_labels_without_a_background_are_asked_about(medattn: Run, foreign: Path, tmp_path: Path, first: str) -> None:
    output = tmp_path / "net.torchscript"
    words = ("export", foreign, "-o", output, "--patch", "32x32", "--labels", f"{first},TC,ET")
    done = medattn(*words)
    assert done.returncode == 2
    assert f"begin with '{first}'" in done.stderr
    for way in ("--labels background,TC,ET", "--activation sigmoid", "--first-label-is-background"):
        assert way in " ".join(done.stderr.split())
    assert not output.exists()
    assert medattn(*words, "--first-label-is-background").returncode == 0
    assert Artifact.read(output).spec.labels[0] == first
    assert medattn(*words, "--activation", "sigmoid").returncode == 0
    assert Artifact.read(output).spec.overlapping


@pytest.mark.parametrize(
    "name", ["background", "Background", "BG", "_background_", "__background__", "0", "none", "void"]
)
def test_usual_names_of_the_background_are_known(name: str) -> None:
    assert is_background(name)
    assert not is_background(name + "_organ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"later": 1}, "unknown fields"),
        ({"intensity": "log"}, "the step 'log' is not known"),
        ({"cleanup": ["smooth:WT"]}, "the step 'smooth:WT'"),
        ({"network": "self-guided"}, "a network with network self-guided"),
        ({"in_channels": 4}, "in_channels 4"),
        ({"labels": "WTE"}, "not a list of names"),
        ({"stride": [1, 1], "patch": [33, 33]}, "multiples of"),
        ({"orientation": "RAR"}, "orientation 'RAR'"),
        ({"config": {"eps": 1}}, "settings"),
    ],
)
def test_a_spec_file_that_does_not_fit_is_refused(
    medattn: Run, foreign: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    values = json.loads(medattn("inspect", foreign, "--spec").stdout)
    values |= {"activation": "sigmoid", "labels": ["WT", "TC", "ET"], "region_order": ["WT", "TC", "ET"], **change}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    done = medattn("export", foreign, "-o", tmp_path / "net.torchscript", "--spec", file)
    assert done.returncode == 4, done.stderr
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "net.torchscript").exists()


@pytest.mark.parametrize("text", ["[", "[1]", '{"labels": 1, "labels": 2}', "\x00"])
def test_a_file_that_is_no_spec_is_refused(medattn: Run, foreign: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text, encoding="utf-8")
    assert medattn("export", foreign, "-o", tmp_path / "net.torchscript", "--spec", file).returncode == 4
    assert medattn("export", foreign, "-o", tmp_path / "net.torchscript", "--spec", tmp_path).returncode == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--orientation", "RAR"), "orientation 'RAR'"),
        (("--plane", "oblique"), "the plane 'oblique'"),
        (("--activation", "relu"), "the activation 'relu'"),
        (("--region-order", "WT,TC"), "of regions"),
        (("--after", "largest:liver"), "a label that the network does not find"),
        (("--mirror", "D"), "mirroring along 'D'"),
        (("--channels", "t1,t2"), "the channels t1, t2"),
        (("--intensity", "zscore;zscore"), "an intensity for 2 channels"),
    ],
)
def test_an_option_that_does_not_fit_the_network_is_refused(
    medattn: Run, foreign: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = medattn("export", foreign, "-o", tmp_path / "net.torchscript", "--patch", "32x32", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_our_own_checkpoint_takes_what_is_done_after_it_and_nothing_it_carries(
    medattn: Run, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "net.torchscript"
    done = medattn("export", checkpoint, "-o", output, "--after", "largest:right_lung", "--modality", "CT")
    assert done.returncode == 0, done.stderr
    assert "assumed" not in done.stderr
    assert str(Artifact.read(output).spec.cleanup[0]) == "largest:right_lung"
    done = medattn("export", checkpoint, "-o", output, "--orientation", "RAS", "--activation", "softmax")
    assert done.returncode == 2
    assert "--activation, --orientation for a checkpoint that carries its own spec" in done.stderr


def test_the_names_of_a_case_may_be_others(medattn: Run, foreign: Path, tmp_path: Path) -> None:
    import numpy as np

    nets = pytest.importorskip("monai.networks.nets")
    network = nets.AttentionUnet(2, 1, 3, (4, 8), (2, 2)).eval()
    network.load_state_dict(torch.load(foreign, weights_only=True))
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        np.savez(tmp_path / "case.npz", x=image.numpy(), y=network(image).numpy())
    words = ("--patch", "32x32", "--expect", tmp_path / "case.npz", "--expect-image", "x", "--expect-logits", "y")
    done = medattn("export", foreign, "-o", tmp_path / "net.torchscript", *words)
    assert done.returncode == 0, done.stderr
    assert medattn("export", foreign, "-o", tmp_path / "net.torchscript", *words[:-2]).returncode == 4
