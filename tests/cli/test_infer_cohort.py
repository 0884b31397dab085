"""infer into a folder: what is typed, what is printed, and the exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.cohort import fingerprint
from medattn_edge.io import read_labels
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume

Run = Callable[..., Any]


def hu(path: Path, seed: int) -> Path:
    """A small scan in HU."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(-1000, 400, (3, 40, 40)).astype(np.int16)
    return write_nifti(path, make_volume(voxels, (5.0, 3.0, 3.0)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    hu(tmp_path / "data" / "a.nii.gz", 1)
    hu(tmp_path / "data" / "p2" / "b.nii.gz", 2)
    return tmp_path / "data"


def test_a_folder_a_pattern_and_a_list_are_segmented_into_a_folder(
    medattn: Run, artifact: Path, data: Path, tmp_path: Path
) -> None:
    done = medattn("infer", artifact, data, "-o", f"{tmp_path / 'out'}/")
    assert done.returncode == 0, done.stderr
    assert "2 done, 0 done before, 0 failed, 0 left out" in done.stdout
    single = medattn("infer", artifact, data / "a.nii.gz", "-o", tmp_path / "single.nii.gz")
    assert single.returncode == 0, single.stderr
    expected = read_labels(tmp_path / "single.nii.gz").voxels
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "a_labels.nii.gz").voxels, expected)
    (tmp_path / "l.csv").write_text("case,scan\none,data/a.nii.gz\n")
    done = medattn(
        "infer", artifact, f"{data}/*/*.nii.gz", tmp_path / "l.csv", "-o", f"{tmp_path / 'more'}/", "--json",
        "--name", "{case}.npz", "--overlay", "{case}.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [one["case"] for one in document["done"]] == ["one", "b"]
    assert document["done"][0]["files"].keys() == {"one.npz", "one.png"}
    np.testing.assert_array_equal(read_labels(tmp_path / "more" / "one.npz").voxels, expected)


def test_a_failure_is_told_with_its_row_and_the_exit_code_1_and_resume_goes_on(
    medattn: Run, artifact: Path, data: Path, tmp_path: Path
) -> None:
    whole = (data / "a.nii.gz").read_bytes()
    (data / "a.nii.gz").write_bytes(whole[:400])
    words = ("infer", artifact, data, "-o", f"{tmp_path / 'out'}/")
    done = medattn(*words)
    assert done.returncode == 1
    assert "failed: a: scan:" in done.stderr
    assert "1 done, 0 done before, 1 failed" in done.stdout
    assert "--resume" in done.stdout.splitlines()[-1]
    (data / "a.nii.gz").write_bytes(whole)
    assert medattn(*words).returncode == 2, "results are there"
    done = medattn(*words, "--resume", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert ([one["case"] for one in document["done"]], document["skipped"]) == (["a"], ["b"])
    assert document["failures"] == []
    assert (tmp_path / "out" / "failures.csv").read_text() == "case,scan,code,message,hint\n"


def test_an_estimate_is_of_the_artifact_that_the_run_has_hashed(
    medattn: Run, artifact: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, real = list[Path](), fingerprint.artifact_sha256

    def noted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    for module in ("run", "fingerprint"):
        monkeypatch.setattr(f"medattn_edge.cohort.{module}.artifact_sha256", noted)
    done = medattn("infer", artifact, data, "-o", f"{tmp_path / 'out'}/", "--estimate", "5")
    assert done.returncode == 0, done.stderr
    assert "estimate for 5 studies like the 2 measured cases" in done.stdout
    assert hashed == [artifact]


def test_an_estimate_tells_its_figures_and_its_formulas(
    medattn: Run, artifact: Path, data: Path, tmp_path: Path
) -> None:
    words = ("infer", artifact, data, "-o", f"{tmp_path / 'out'}/")
    done = medattn(*words, "--estimate", "1000000")
    assert done.returncode == 0, done.stderr
    assert "estimate for 1,000,000 studies like the 2 measured cases of the folder" in done.stdout
    for text in ("core-hours: ", "at 10 Gb/s, which feeds", "assumed: ", "core hours = studies x CPU seconds"):
        assert text in done.stdout
    again = medattn(*words, "--resume", "--estimate", "10", "--json")
    document = json.loads(again.stdout)
    assert (document["estimate"]["studies"], document["estimate"]["cases"]) == (10, 2), "of what was done before, too"
    assert "estimate" not in json.loads(medattn(*words, "--resume", "--json").stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("DATA/*.gz", "-o", "l.nii.gz"), "with the one file l.nii.gz"),
        (("L.csv", "-o", "l.nii.gz"), "with the one file l.nii.gz"),
        (("DATA/a.nii.gz", "-o", "l.nii.gz", "--resume"), "--resume with the one file"),
        (("DATA", "-o", "OUT/", "--series", "3f"), "--series 3f with a folder"),
        (("DATA", "-o", "OUT/", "--name", "labels.nii.gz"), "--name 'labels.nii.gz'"),
        (("DATA", "-o", "OUT/", "--overlay", "x.png"), "--overlay 'x.png'"),
        (("t1=DATA/a.nii.gz", "DATA/p2/b.nii.gz", "-o", "OUT/"), "among other scans"),
        (("DATA", "-o", ""), "-o without a name"),
        (("DATA", "-o", "new"), "next: -o new/"),
        (("DATA", "-o", "DATA/"), "lies in the folder of the results"),
        (("DATA/a.nii.gz", "-o", "l.nii.gz", "--workers", "2"), "--workers with the one file"),
        (("DATA/a.nii.gz", "-o", "l.nii.gz", "--estimate", "9"), "--estimate with the one file"),
        (("DATA", "-o", "OUT/", "--workers", "0"), "--workers"),
        (("DATA", "-o", "OUT/", "--case-timeout", "60"), "--case-timeout 60 without workers"),
        (("DATA", "-o", "OUT/", "--workers", "2", "--case-timeout", "0"), "a timeout of 0 s"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_made(
    medattn: Run, artifact: Path, data: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    places = {"DATA": str(data), "OUT": str(tmp_path / "out"), "L.csv": str(tmp_path / "l.csv")}
    typed = list(words)
    for name, place in places.items():
        typed = [word.replace(name, place) for word in typed]
    done = medattn("infer", artifact, *typed)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "next:" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(artifact: Path, data: Path, tmp_path: Path) -> None:
    for number in range(40):
        hu(data / f"more{number}.nii.gz", number)
    (data / "cut.nii.gz").write_bytes(b"the second case, whose failure says that the first one is done")
    out = tmp_path / "out"
    words = [sys.executable, "-c", "from medattn_edge.cli import main; main()", "infer", str(artifact), str(data)]
    words += ["-o", f"{out}/", "--overlap", "0.95", "--threads", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.readline().startswith("failed: cut: scan:")
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=120)
    assert program.returncode == 130, err
    assert f"next: medattn-edge infer {artifact} {data} -o {out}/ --overlap 0.95 --threads 1 --resume" in err
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    records = {path.stem for path in out.glob("*.json")}
    assert 0 < len(records) < 42
    assert records == {path.name.removesuffix("_labels.nii.gz") for path in out.glob("*_labels.nii.gz")}


def test_compare_takes_the_scans_of_a_folder_and_of_a_list(
    medattn: Run, checkpoint: Path, artifact: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "l.csv").write_text("scan\ndata/a.nii.gz\n")
    done = medattn("compare", checkpoint, artifact, data, tmp_path / "l.csv", "--json")
    assert done.returncode == 0, done.stderr
    [candidate] = json.loads(done.stdout)["candidates"]
    places = [data / "a.nii.gz", data / "p2" / "b.nii.gz", tmp_path / "data" / "a.nii.gz"]
    assert [case["scan"] for case in candidate["cases"]] == list(map(str, places))
