"""release: write, sign, verify, show and diff; and every command that takes an artifact takes a release."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.io import read_labels
from tests.support.busy_host import check_measured
from tests.support.networks import with_other_weights


@pytest.fixture(scope="module")
def released(artifact, medattn, tmp_path_factory):
    """A folder with versions 1 and 2 of a release, signed by KEY; the second has other weights."""
    folder = tmp_path_factory.mktemp("released")
    assert medattn("release", "keygen", "-o", folder / "KEY", "--signer", "A Team").returncode == 0
    other = with_other_weights(artifact, folder / "small.onnx", 1.3)
    for source, output, version in ((artifact, "one", 1), (artifact, "one.zip", 1), (other, "two", 2)):
        words = ("-o", folder / output, "--name", "lungs", "--release-version", version)
        done = medattn("release", "write", source, *words)
        assert done.returncode == 0, done.stderr
        done = medattn("release", "sign", folder / output, "--key", folder / "KEY")
        assert done.returncode == 0, done.stderr
    return folder


def test_what_verify_and_show_say(released, medattn, artifact):
    done = medattn("release", "verify", released / "one", "--trusted", released / "KEY.pub")
    assert done.returncode == 0, done.stderr
    assert "release lungs 1, signed by A Team" in done.stdout
    shown = medattn("release", "show", released / "one.zip").stdout
    for line in ("whose signature was not checked", "small.onnx", "checkpoint", "held to", "SHA-256", "sbom.cdx.json"):
        assert line in shown
    document = json.loads(medattn("release", "show", released / "one", "--json").stdout)
    assert (document["signed"], document["signed_by"]) == (True, None)
    assert document["manifest"]["artifacts"]["small.onnx"]["precision"] == "fp32"


def test_write_says_what_it_assumes(artifact, medattn, tmp_path):
    done = medattn("release", "write", artifact, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "not signed: whole, but anybody may have made it" in done.stdout
    assert "assumed: the name small" in done.stderr
    assert "next: medattn-edge release sign" in done.stderr


@pytest.mark.parametrize("name", ["one", "one.zip", "one#small.onnx"])
def test_infer_opens_a_release_and_gives_what_its_artifact_gives(released, artifact, scan, medattn, tmp_path, name):
    plain = medattn("infer", artifact, scan, "-o", tmp_path / "plain.nii.gz")
    done = medattn(
        "infer", released / name, scan, "-o", tmp_path / "labels.nii.gz", "--trusted", released / "KEY.pub", "--json"
    )
    assert (plain.returncode, done.returncode) == (0, 0), done.stderr
    assert "release lungs 1, signed by A Team" in done.stderr
    document = json.loads(done.stdout)
    assert document["artifact"] == str(released / name)
    assert "medattn-edge-release-" not in done.stdout
    expected, found = (read_labels(tmp_path / one).voxels for one in ("plain.nii.gz", "labels.nii.gz"))
    assert np.array_equal(expected, found)


def test_a_signature_that_nobody_asked_for_is_said_to_be_unchecked(released, scan, medattn, tmp_path):
    done = medattn("infer", released / "one", scan, "-o", tmp_path / "labels.nii.gz")
    assert done.returncode == 0
    assert "whose signature was not checked: --trusted KEY.pub" in done.stderr


def test_a_changed_release_segments_nothing(released, scan, medattn, tmp_path):
    bad = shutil.copytree(released / "one", tmp_path / "bad")
    data = bytearray((bad / "small.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bad / "small.onnx").write_bytes(data)
    done = medattn("infer", bad, scan, "-o", tmp_path / "labels.nii.gz", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "integrity"
    assert not (tmp_path / "labels.nii.gz").exists()


def test_trusted_without_a_release_is_a_mistake(released, artifact, scan, medattn, tmp_path):
    done = medattn("infer", artifact, scan, "-o", tmp_path / "x.nii.gz", "--trusted", released / "KEY.pub")
    assert done.returncode == 2
    assert "an artifact by itself has no signature" in done.stderr


def test_inspect_and_lint_open_a_release(released, artifact, medattn):
    mine, plain = (json.loads(medattn("inspect", one, "--json").stdout) for one in (released / "one", artifact))
    assert mine == plain
    assert str(released / "one") in medattn("inspect", released / "one").stdout
    done = medattn("lint", f"{released / 'one.zip'}#small.onnx", "--profile", "cpu", "--json")
    expected = medattn("lint", artifact, "--profile", "cpu", "--json")
    assert json.loads(done.stdout)["findings"] == json.loads(expected.stdout)["findings"]
    assert done.returncode == expected.returncode


def test_compare_takes_releases_for_candidates_and_names_them_as_they_were_typed(released, checkpoint, scan, medattn):
    done = medattn(
        "compare", checkpoint, released / "one", scan, "--runtime", "onnxruntime", "--trusted", released / "KEY.pub",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["candidates"][0]["artifact"] == str(released / "one")
    assert "medattn-edge-release-" not in done.stdout


@pytest.mark.slow
def test_bench_takes_a_release(released, checkpoint, scan, medattn):
    done = medattn(
        "bench", released / "one", "--reference", checkpoint, "--scan", scan, "--runtime", "onnxruntime",
        "--duration", 0.1, "--warm-up", 0, "--samples", 1, "--json",
    )  # fmt: skip
    check_measured(done)
    assert "medattn-edge-release-" not in done.stdout


def test_diff_tells_what_changed_for_every_label(released, scan, medattn):
    done = medattn(
        "release", "diff", released / "one", released / "two", scan, "--trusted", released / "KEY.pub", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["old"]["version"], document["new"]["version"]) == (1, 2)
    assert document["new"]["signed_by"] == "A Team"
    assert set(document["artifact"]) == {"sha256"}
    assert document["spec"] == {}
    [found] = document["scans"]
    assert set(found["labels"]) == {"right_lung", "left_lung"}
    assert 0 < found["changed_voxels"] < found["voxels"]
    for label in found["labels"].values():
        assert 0 < label["dice"] < 1
        assert label["old_ml"] == pytest.approx(label["old_voxels"] * 2.5 * 2.5 * 8 / 1000)
    least = min(label["dice"] for label in found["labels"].values())
    words = ("release", "diff", released / "one", released / "two", scan, "--min-dice")
    assert medattn(*words, least - 1e-9).returncode == 0
    failed = medattn(*words, least + 1e-9)
    assert failed.returncode == 1
    assert "FAIL" in failed.stdout


def test_diff_of_a_release_with_itself(released, scan, medattn):
    done = medattn("release", "diff", released / "one", released / "one.zip", scan, "--min-dice", 1)
    assert done.returncode == 0, done.stderr
    assert "0 of 9,600 voxels changed" in done.stdout
    assert "PASS" in done.stdout
    assert "the new version is not larger" in done.stdout


@pytest.mark.slow
def test_diff_times_both_in_turn(released, scan, medattn):
    done = medattn("release", "diff", released / "one", released / "two", scan, "--time", "--duration", 0.2, "--json")
    assert done.returncode == 0, done.stderr
    latency = json.loads(done.stdout)["latency"]
    assert latency["runs"] >= 5
    if latency["ratio_declined"]:  # by a host that runs other tests
        assert latency["ratio_to_old"] is latency["ratio_spread"] is None
    else:
        low, high = latency["ratio_spread"]
        assert 0 < low <= latency["ratio_to_old"] <= high


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("verify", "nothing", "--trusted", "KEY.pub"), 4, "cannot be opened"),
        (("verify", "one", "--trusted", "KEY"), 2, "never KEY itself"),
        (("verify", "one"), 2, "--trusted"),
        (("sign", "one", "--key", "KEY.pub"), 2, "public key"),
        (("keygen", "-o", "KEY"), 2, "exists"),
        (("keygen", "-o", "no/KEY"), 3, "cannot write"),
        (("write", "nothing.onnx", "-o", "out"), 4, "does not exist"),
        (("write", "small.onnx", "-o", "one"), 2, "exists"),
        (("write", "one", "-o", "out"), 2, "is a release"),
        (("show", "one#other.onnx"), 4, "cannot be opened"),
        (("diff", "one#other.onnx", "two", "scan.nii.gz"), 2, "holds no artifact"),
        (("diff", "one", "two"), 2, "SCAN"),
    ],
)
def test_every_mistake_says_what_to_do(released, medattn, monkeypatch, words, code, told):
    monkeypatch.chdir(released)
    if words[:2] == ("sign", "one"):
        (released / "KEY.pub").chmod(0o600)
    if words[0] == "diff" and "scan.nii.gz" in words:
        Path("scan.nii.gz").touch()
    before = sorted(path.name for path in released.iterdir())
    done = medattn("release", *words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "next" in done.stderr
    assert sorted(path.name for path in released.iterdir()) == before
