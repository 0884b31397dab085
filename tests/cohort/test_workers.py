"""A cohort by workers of either engine: the files of one process, nothing lost or done twice whoever is killed."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.artifact import sha256
from medattn_edge.cohort import CohortSettings, PoolSettings, locks, segment_cohort
from medattn_edge.cohort.settings import Engine
from medattn_edge.errors import HostError, MedattnError, OutputError, UsageError
from tests.cohort.conftest import scan
from tests.support import killing_format
from tests.support.killing_format import noise
from tests.support.ray_runs import RAY
from tests.support.workers import alive, kill, worker_pids

TWO = CohortSettings(overlay="{case}.png", pool=PoolSettings(workers=2))
ENGINES = ("local", pytest.param("ray", marks=RAY))
SLOW_ENGINES = (pytest.param("local", marks=pytest.mark.slow), pytest.param("ray", marks=RAY))
TABLES = ("failures.csv", "left_out.csv", "volumes.csv")


def two(engine: Engine) -> CohortSettings:
    return replace(TWO, pool=PoolSettings(workers=2, engine=engine))


def contents(folder: Path) -> dict[str, str]:
    """Every file -> what is in it, of records without what differs from run to run."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            kept = {name: record[name] for name in ("case", "scan", "fingerprint", "files", "labels", "notes")}
            found[path.name] = json.dumps(kept, sort_keys=True)
        elif path.is_file():
            found[str(path.relative_to(folder))] = sha256(path)
    return found


def codes(folder: Path) -> dict[str, str]:
    with (folder / "failures.csv").open(encoding="utf-8", newline="") as file:
        return {row["case"]: row["code"] for row in csv.DictReader(file)}


@pytest.fixture
def noises(tmp_path: Path) -> Iterator[Path]:
    """A folder with four scans of the format that can kill its reader; these do not."""
    folder = tmp_path / "noises"
    folder.mkdir()
    for number in range(4):
        noise(folder / f"n{number}.noise", number)
    (tmp_path / "site").mkdir()
    with killing_format.installed_in(tmp_path / "site"):
        yield folder


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_write_what_one_process_writes(
    small_artifact: Path, scans: Path, tmp_path: Path, engine: Engine
) -> None:
    (scans / "cut.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:500])
    (tmp_path / "l.csv").write_text("case,scan\nlisted,scans/a.nii.gz\ngone,scans/gone.nii.gz\n")
    sources = [scans, tmp_path / "l.csv"]
    segment_cohort(small_artifact, sources, tmp_path / "one", settings=replace(TWO, pool=PoolSettings()))
    seen: list[tuple[str, float, int]] = []
    told: list[str] = []
    outcome = segment_cohort(
        small_artifact, sources, tmp_path / "two", settings=two(engine),
        progress=lambda *about: seen.append(about), failed=lambda one: told.append(one.case),
    )  # fmt: skip
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert [one["case"] for one in outcome.done] == ["listed", "a", "b"]
    assert sorted(told) == ["cut", "gone"]
    assert [part for _, part, _ in seen] == [1, 2, 3, 4, 5], "one bar for all"
    assert (outcome.workers, outcome.workers_lost) == (2, 0)
    assert outcome.session["threads"] == max(1, len(os.sched_getaffinity(0)) // 2), "they divide the cores"


def test_a_worker_that_was_ended_with_its_run_never_writes_under_the_next_one(tmp_path: Path) -> None:
    work = tmp_path / ".medattn-edge-cohort"
    work.mkdir()
    first = locks.own(work)
    held = locks.join(work, first, "one")
    begun = threading.Event()
    waited: list[float] = []

    def next_run() -> None:
        begun.set()
        start = time.monotonic()
        locks.own(work)
        waited.append(time.monotonic() - start)

    thread = threading.Thread(target=next_run)
    thread.start()
    begun.wait()
    time.sleep(0.2)
    assert not waited, "it waits for the worker"
    os.close(held)
    thread.join(10)
    assert waited[0] >= 0.15
    with pytest.raises(HostError, match="belongs to another run"):
        locks.join(work, first, "two")
    with pytest.raises(HostError, match="finds no"):
        locks.join(tmp_path / "elsewhere", first, "three")


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (PoolSettings(workers=0), "0 workers"),
        (PoolSettings(workers=2, case_timeout_s=0), "a timeout of 0 s"),
        (PoolSettings(engine="dask"), "the engine 'dask'"),  # type: ignore[arg-type]
        (PoolSettings(address="auto"), "the address 'auto' with the engine local"),
        (PoolSettings(engine="ray", address="ray://head:10001"), "the address 'ray://head:10001' of a Ray"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(
    small_artifact: Path, scans: Path, tmp_path: Path, pool: PoolSettings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        segment_cohort(small_artifact, scans, tmp_path / "out", settings=CohortSettings(pool=pool))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", SLOW_ENGINES)
def test_a_scan_that_costs_its_worker_has_three_tries_and_a_row_and_the_others_are_done(
    small_artifact: Path, noises: Path, tmp_path: Path, engine: Engine
) -> None:
    whole = segment_cohort(small_artifact, noises, tmp_path / "whole")
    noise(noises / "a_segv.noise", 1, "SEGV")
    noise(noises / "b_hangs.noise", 2, "hang")
    noise(noises / "c_once.noise", 3, "once")
    noise(noises / "n1_kills.noise", 4, "KILL")
    settings = CohortSettings(pool=PoolSettings(workers=2, case_timeout_s=6.0, engine=engine))
    outcome = segment_cohort(small_artifact, noises, tmp_path / "out", settings=settings)
    assert codes(tmp_path / "out") == {"a_segv": "worker_lost", "b_hangs": "worker_hung", "n1_kills": "worker_lost"}
    assert outcome.workers_lost == 3 * 3 + 1
    assert [one["case"] for one in outcome.done] == ["c_once", *(one["case"] for one in whole.done)]
    for one in whole.done:
        for name in one["files"]:
            assert sha256(tmp_path / "out" / name) == sha256(tmp_path / "whole" / name)
    assert all("the last of 3 times" in one.message and one.hint for one in outcome.failures)
    assert not list((tmp_path / "out").glob(".*"))


def program(artifact: Path, scans: Path, out: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    """The command; before: code that runs first."""
    code = f"{before}from medattn_edge.cli import main; main()"
    command = [sys.executable, "-c", code, "infer", str(artifact), str(scans)]
    return subprocess.Popen(
        [*command, "-o", f"{out}/", "--threads", "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def many(folder: Path, count: int) -> Path:
    for number in range(count):
        scan(folder / f"s{number:02}.nii", number, depth=24)
    return folder


def wait_until(condition: Callable[[], bool], within_s: float = 120) -> None:
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "it did not come so far"
        time.sleep(0.01)


def records(out: Path) -> set[str]:
    return {path.stem for path in out.glob("*.json")}


def killed(run: subprocess.Popen[str], out: Path, drawn: random.Random) -> int:
    """Kill four workers, one after the other, and then the run; how many were there to be killed."""
    kills = 0
    for _ in range(4):
        wait_until(lambda: bool(worker_pids(out)) or run.poll() is not None)
        time.sleep(drawn.uniform(0, 0.5))
        kills += kill(drawn.choice(worker_pids(out) or [0]))
    workers = worker_pids(out)
    kills += kill(run.pid)
    run.communicate()
    wait_until(lambda: not any(map(alive, workers)), 30)
    return kills


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", SLOW_ENGINES)
def test_twenty_kills_of_workers_and_of_the_run_lose_nothing_and_do_nothing_twice(
    small_artifact: Path, tmp_path: Path, engine: Engine
) -> None:
    scans, out = many(tmp_path / "scans", 40), tmp_path / "out"
    segment_cohort(small_artifact, scans, tmp_path / "whole")
    words = ("--engine", engine, "--workers", "2", "--overlap", "0.5")
    drawn, kills, resume = random.Random(7), 0, list[str]()
    done: set[str] = set()
    while kills < 20:
        kills += killed(program(small_artifact, scans, out, *words, *resume), out, drawn)
        before, done, resume = done, records(out), ["--resume"]
        assert before <= done, "what is done stays"
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.stem in done}
    last = program(small_artifact, scans, out, *words, "--resume", "--json")
    text, err = last.communicate()
    document = json.loads(text)
    assert set(document["skipped"]) >= done, "nothing twice"
    for name, when in times.items():
        assert (out / name).stat().st_mtime_ns == when
    if document["failures"]:  # three of the kills met one case: a row, and the next run does it
        assert {one["code"] for one in document["failures"]} == {"worker_lost"}, err
    elif last.returncode:
        pytest.fail(err)
    found, whole = contents(out), contents(tmp_path / "whole")
    assert {name: found[name] for name in whole} == whole
    assert set(found) == set(whole), "and no temporaries"


@pytest.mark.parametrize("engine", SLOW_ENGINES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_with_the_run(
    small_artifact: Path, tmp_path: Path, number: int, code: int, engine: Engine
) -> None:
    scans, out = many(tmp_path / "scans", 30), tmp_path / "out"
    run = program(small_artifact, scans, out, "--engine", engine, "--workers", "2", "--overlap", "0.9")
    wait_until(lambda: len(records(out)) >= 2)
    workers = worker_pids(out)
    assert len(workers) == 2
    os.killpg(run.pid, number)  # as a terminal, or a service manager, does it
    _, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert "--resume" in err
    assert not any(map(alive, workers))
    assert not list(out.glob(".*"))
    assert 2 <= len(records(out)) < 30
    assert {path.name.removesuffix("_labels.nii.gz") for path in out.glob("*_labels.nii.gz")} == records(out)


@pytest.mark.parametrize("engine", SLOW_ENGINES)
def test_a_disk_that_is_full_ends_the_run_and_a_later_one_goes_on(
    small_artifact: Path, noises: Path, tmp_path: Path, engine: Engine
) -> None:
    noise(noises / "n1.noise", 1, "full")
    with pytest.raises(OutputError, match="cannot write"):
        segment_cohort(small_artifact, noises, tmp_path / "out", settings=two(engine))
    assert not list((tmp_path / "out").glob(".*"))
    noise(noises / "n1.noise", 1)
    outcome = segment_cohort(small_artifact, noises, tmp_path / "out", settings=replace(two(engine), resume=True))
    assert len(outcome.done) + len(outcome.skipped) == 4


@pytest.mark.slow
def test_a_worker_that_cannot_write_ends_the_run_and_a_later_one_goes_on(
    small_artifact: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    run = program(small_artifact, scans, out, "--workers", "2", "--overlap", "0.5", before=code)
    _, err = run.communicate()
    assert run.returncode == 3, err
    assert "cannot write" in err
    assert "--resume" in err
    assert not out.exists() or not list(out.glob("*.json"))
    assert segment_cohort(small_artifact, scans, out, settings=replace(TWO, resume=True)).passed


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_opened_is_the_error_of_any_session(scans: Path, tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    for settings in (CohortSettings(), two(engine)):
        with pytest.raises(MedattnError, match=r"net\.onnx"):
            segment_cohort(tmp_path / "net.onnx", scans, tmp_path / "out", settings=settings)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", SLOW_ENGINES)
def test_segmentations_of_dicom_series_are_byte_equal_and_name_no_patient(
    small_artifact: Path, tmp_path: Path, engine: Engine
) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 40, 36)
    for number in range(3):
        uid = f"1.2.826.0.1.3680043.8.498.{number + 1}"
        folder = tmp_path / "tree" / "DOE_JOHN" / str(number)
        write_series(folder, ct.voxels, ct.affine, PatientName="DOE^JOHN", SeriesInstanceUID=uid)
    next((tmp_path / "tree" / "DOE_JOHN" / "2").iterdir()).write_bytes(b"DICM")
    settings = replace(two(engine), name="{case}_seg.dcm", key_slices=1)
    segment_cohort(small_artifact, tmp_path / "tree", tmp_path / "one", settings=replace(settings, pool=PoolSettings()))
    segment_cohort(small_artifact, tmp_path / "tree", tmp_path / "two", settings=settings)
    found = contents(tmp_path / "two")
    assert found == contents(tmp_path / "one")
    assert len([name for name in found if name.endswith("_seg.dcm")]) == 2
    texts = [path.read_text() for path in (tmp_path / "two").iterdir() if path.suffix in (".csv", ".json")]
    assert not [text for text in texts if "DOE" in text]
