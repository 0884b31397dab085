"""report: a page and a document; the exit code is the verdict, and a report can be put into a release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.networks import with_other_weights

QUICK = ("--no-timing", "--threads", "1", "--pictures", "1")


@pytest.fixture(scope="module")
def reported(checkpoint, artifact, scan, medattn, tmp_path_factory):
    """A folder with a report of the artifact, and what the command said."""
    folder = tmp_path_factory.mktemp("reported")
    return folder, medattn("report", checkpoint, artifact, scan, "-o", folder / "report.html", "--json", *QUICK)


def test_a_report_is_written_and_printed(reported):
    folder, done = reported
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((folder / "report.json").read_text())
    assert document["verdict"] == "pass"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert "not measured: Latency, memory and roofline: it was not asked for (--no-timing)" in done.stderr


def test_the_exit_code_is_the_verdict_and_the_report_is_written_all_the_same(
    checkpoint, artifact, scan, medattn, tmp_path
):
    other = with_other_weights(artifact, tmp_path / "other.onnx", 1.5)
    done = medattn("report", checkpoint, other, scan, "-o", tmp_path / "other.html", *QUICK)
    assert done.returncode == 1, done.stderr
    assert "FAIL: The answer: 0 of 1 pairs of artifact and runtime held it on the scan" in done.stdout
    assert "other.onnx in onnxruntime on case 1: Dice with the reference of" in done.stdout
    assert json.loads((tmp_path / "other.json").read_text())["verdict"] == "fail"
    done = medattn("release", "write", other, "-o", tmp_path / "out", "--report", tmp_path / "other.html",
                   "--report", tmp_path / "other.json")  # fmt: skip
    assert done.returncode == 1
    assert "the verdict of other.json is fail" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_release_holds_its_report_and_can_be_reported_on(reported, checkpoint, artifact, scan, medattn, tmp_path):
    folder, _ = reported
    done = medattn("release", "write", artifact, "-o", tmp_path / "out", "--report", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert {"report.html", "report.json"} <= set(json.loads(done.stdout)["manifest"]["files"])
    done = medattn("report", checkpoint, tmp_path / "out", scan, "-o", tmp_path / "again.html", *QUICK)
    assert done.returncode == 0, done.stderr
    again, first = (json.loads(path.read_text()) for path in (tmp_path / "again.json", folder / "report.json"))
    assert again["cases"] == first["cases"]
    assert again["artifacts"] == first["artifacts"]
    page = (tmp_path / "out" / "report.html").read_bytes()
    (tmp_path / "out" / "report.html").write_bytes(page[:-2] + b" \n")
    done = medattn("release", "verify", tmp_path / "out", "--trusted", _keys(tmp_path, medattn))
    assert done.returncode == 5


def _keys(folder: Path, medattn) -> Path:
    medattn("release", "keygen", "-o", folder / "KEY")
    return folder / "KEY.pub"


@pytest.mark.parametrize(
    "expected",
    [
        (("{net}", "{scan}", "-o", "{folder}/report.pdf"), 2, "a name that ends in .html"),
        (("{net}", "{scan}", "-o", "{folder}/nowhere/report.html"), 3, "does not exist"),
        (("{scan}", "-o", "{folder}/report.html"), 2, "0 candidate(s) and 1 scan(s)"),
        (("{net}", "{scan}", "-o", "{folder}/report.html", "--deadline-ms", "0"), 2, "a deadline of 0.0 ms"),
        (("{net}", "{folder}/none.nii.gz", "-o", "{folder}/report.html"), 4, "none.nii.gz"),
        (("{net}", "{scan}", "-o", "{folder}/report.html", "--min-true-dice-share", "1"), 2, "without --labels"),
    ],
)
def test_what_cannot_be_reported_is_refused_and_nothing_is_written(
    checkpoint, artifact, scan, medattn, tmp_path, expected
):
    words, code, message = expected
    typed = [word.format(net=artifact, scan=scan, folder=tmp_path) for word in words]
    done = medattn("report", checkpoint, *typed, *QUICK)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "next" in done.stderr
    assert list(tmp_path.iterdir()) == []
