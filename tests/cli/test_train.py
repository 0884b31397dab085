"""medattn-edge train, as it is typed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.cli.options import parse_settings, parse_sizes, parse_spacing
from medattn_edge.errors import UsageError
from medattn_edge.io import write_labels, write_maps
from medattn_edge.models import checkpoint
from medattn_edge.training import resume_path
from medattn_edge.volume import Volume

pytestmark = pytest.mark.slow

SCRIPT = str(Path(sys.executable).with_name("medattn-edge"))
NETWORK = ("--network", "attention-unet-2d", "--set", "width=4", "--patch", "32x32", "--threads", "1")
SHORT = ("--epochs", "2", "--steps", "2", "--batch", "2", "--label", "1=ball:7")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "train", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scan.npz, labels.npz with a ball of the value 7, and moved.npz, the same labels elsewhere."""
    folder = tmp_path_factory.mktemp("scans")
    affine = np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    place = np.indices((12, 32, 32)) - np.array([6, 16, 20])[:, None, None, None]
    ball = (place**2 * np.array([0.2, 1, 1])[:, None, None, None]).sum(0) < 49
    noise = np.random.default_rng(0).normal(0, 20, ball.shape)
    labels = Volume(ball.astype(np.uint8) * 7, affine)
    moved = affine.copy()
    moved[0, 3] += 5
    write_maps(folder / "scan.npz", Volume((noise + ball * 200)[None], affine), ["ct"])
    write_labels(folder / "labels.npz", labels, [str(value) for value in range(8)])
    write_labels(folder / "moved.npz", Volume(labels.voxels, moved), [str(value) for value in range(8)])
    return folder


def test_what_the_scans_are_and_what_follows_the_network_travel_with_the_checkpoint(folder: Path) -> None:
    words = ("--after", "largest:ball", "--modality", "ct", "--body-part", "CHEST")
    done = run(folder, *NETWORK, *SHORT, *words, "-o", "facts.safetensors", "scan.npz", "labels.npz")
    assert done.returncode == 0, done.stderr
    spec = checkpoint.load(folder / "facts.safetensors").spec
    assert (spec.modality, spec.body_part, [str(step) for step in spec.cleanup]) == ("CT", "CHEST", ["largest:ball"])


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "told"),
    [
        (("scan.npz",), "usage", 2, "has no labels"),
        (("scan.npz", "labels.npz", "scan.npz"), "usage", 2, "a labels file after every scan"),
        (("scan.npz", "labels.npz", "--label", "2=other:9"), "scan", 4, "no voxel has the value 9"),
        (("scan.npz", "labels.npz", "--label", "3=other:1"), "usage", 2, "without a gap"),
        (("scan.npz", "moved.npz"), "geometry", 4, "expected the same voxels"),
        (("scan.npz", "labels.npz", "--network", "u-net"), "usage", 2, "attention-unet-2d"),
        (("scan.npz", "labels.npz", "--set", "width"), "usage", 2, "KEY=VALUE"),
        (("scan.npz", "labels.npz", "--patch", "32"), "usage", 2, "HxW"),
        (("scan.npz", "labels.npz", "--resume"), "usage", 2, "a.safetensors.resume"),
        (("scan.npz", "labels.npz", "--after", "largest:liver"), "usage", 2, "the network does not find"),
        (("scan.npz", "labels.npz", "--channels", "t1,t2"), "usage", 2, "the channels t1, t2"),
        (("scan.npz", "labels.npz", "-o", "a.onnx"), "usage", 2, "NAME.safetensors"),
    ],
)
def test_bad_input_is_told_from_bad_options(
    folder: Path, words: tuple[str, ...], code: str, exit_code: int, told: str
) -> None:
    done = run(folder, *NETWORK, *SHORT, "-o", "a.safetensors", "--json", *words)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], done.returncode) == (code, exit_code)
    assert told in error["message"]
    assert error["hint"]
    assert not (folder / "a.safetensors").exists()


def test_a_checkpoint_is_written_with_a_table_and_the_next_step(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "ball.safetensors"
    done = run(folder, str(folder / "scan.npz"), "./labels.npz", f"--output={output}", *NETWORK, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "held-out Dice" in done.stdout
    assert "intensity zscore" in done.stderr
    assert "modality unknown: the files do not say it" in done.stderr
    said = [line.split() for line in done.stderr.split("labels in labels.npz:\n")[1].splitlines()]
    voxels = int(np.count_nonzero(np.load(folder / "labels.npz")["voxels"]))
    assert said[1] == ["7", f"{voxels:,}", f"{2 * voxels / 1000:,.1f}", "ball"]
    head, ball = done.stderr.split("label        voxels")[1].splitlines()[:2]
    assert head.split() == ["ml", "training", "held", "out", "scans", "name", "(values)"]
    assert ball.split()[:3] == ["1", f"{voxels:,}", f"{2 * voxels / 1000:,.1f}"]
    assert ball.split()[-3:] == ["1", "ball", "(7)"]
    assert re.search(r"epoch 1: .*\(\d+(\.\d)? s, about \d+(\.\d)? s left\)", done.stderr)
    assert f"next: medattn-edge export {output} -o ball.onnx" in done.stderr
    loaded = checkpoint.load(output)
    assert loaded.spec.labels == ("background", "ball")
    assert loaded.spec.spacing == (1.0, 1.0)
    # No folder: it may name people.
    assert loaded.notes["command"].startswith(
        "medattn-edge train scan.npz labels.npz --output=ball.safetensors --network"
    )
    assert str(tmp_path) not in json.dumps(dict(loaded.notes))


def _interruptible() -> None:
    """A shell starts background jobs deaf to Ctrl-C, and a child inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_ctrl_c_loses_less_than_an_epoch(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "ball.safetensors"
    words = ["scan.npz", "labels.npz", "-o", str(output), *NETWORK, "--label", "1=ball:7", "--steps", "4"]
    words += ["--epochs", "6", "--json"]
    with subprocess.Popen(
        [SCRIPT, "train", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    ) as process:
        assert process.stderr is not None
        said = ""
        while "epoch 1:" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["error"]["code"] == "interrupted"
    assert "--resume goes on" in stderr
    assert checkpoint.load(output).notes["best_epoch"] >= 1
    assert resume_path(output).is_file()

    other = run(folder, *words, "--resume", "--seed", "5")
    assert other.returncode == 2
    assert "settings.seed was 0, is 5" in json.loads(other.stdout)["error"]["message"]

    done = run(folder, *words, "--resume")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["checkpoint"] == str(output)
    assert document["notes"] == json.loads(json.dumps(dict(checkpoint.load(output).notes)))
    assert "--resume" not in document["notes"]["command"]
    assert "epoch 1:" not in done.stderr
    assert "epoch 6:" in done.stderr
    assert "stays: --resume --epochs 12 goes on from it" in done.stderr

    longer = run(folder, *words, "--resume", "--epochs", "7")
    assert longer.returncode == 0, longer.stderr
    assert "6 epochs were trained for an end at 6, which is now 7" in longer.stderr
    assert json.loads(longer.stdout)["notes"]["extensions"] == [{"after_epoch": 6, "planned_epochs": 6}]


def test_options_are_read_alike_by_every_command() -> None:
    assert parse_sizes("96x96x32") == (96, 96, 32)
    assert parse_sizes("256X128") == (256, 128)
    assert parse_spacing("5x0.7x0.7") == (5.0, 0.7, 0.7)
    pairs = ["width=16", "align_corners=true", "backbone=resnet18", "channels=[8, 16]", "a=b=c"]
    assert parse_settings(pairs) == {
        "width": 16,
        "align_corners": True,
        "backbone": "resnet18",
        "channels": [8, 16],
        "a": "b=c",
    }


@pytest.mark.parametrize("text", ["", "96", "96x", "96x0", "96x-1", "96.0x96", "1x2x3x4", "96 x 96"])
def test_a_size_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="DxHxW"):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["", "1", "1x0", "1x-1", "1xnan", "1xinf", "1x1x1x1", "1mmx1mm"])
def test_a_spacing_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="in mm"):
        parse_spacing(text)


@pytest.mark.parametrize("pairs", [["width"], ["=16"], ["width="], ["width=16", "width=8"]])
def test_a_setting_that_cannot_be_read_is_refused(pairs: list[str]) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_settings(pairs)
