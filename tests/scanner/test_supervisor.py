"""A worker in its own process: warm while all is well, ended and replaced when it crashes, hangs or grows."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.scanner.config.sections import Limits, Model  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.work.supervisor import Supervisor  # noqa: E402
from medattn_edge.scanner.work.tasks import Done, Refused, Task, WorkerLost  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.running_node import tiny_model  # noqa: E402

LIMITS = Limits(job_timeout_s=60, start_timeout_s=60)
PATIENT = ("Phantom", "PHANTOM-1", "Synthetic")


@pytest.fixture(scope="module")
def artifact() -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    scan = real_ct()
    return tuple(write_series(tmp_path_factory.mktemp("series"), scan.voxels, scan.affine))


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A series that takes a worker a few seconds: the same slices again and again."""
    scan = real_ct()
    voxels = np.tile(scan.voxels, (20, 4, 4))
    return tuple(write_series(tmp_path_factory.mktemp("many"), voxels, scan.affine))


@dataclass
class Tried:
    """A supervisor, and what it writes to the log."""

    supervisor: Supervisor
    out: io.StringIO
    folder: Path

    def run(self, files: tuple[Path, ...], name: str = "out") -> Done | Refused:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return self.supervisor.run(Task("lungs", files, folder))

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == name]


Make = Callable[..., Tried]


@pytest.fixture
def made(artifact: Path, tmp_path: Path) -> Iterator[Make]:
    supervisors: list[Supervisor] = []

    def make(limits: Limits = LIMITS, model: Path = artifact, **changes: Any) -> Tried:
        out = io.StringIO()
        models = [Model("lungs", model, threads=1, **changes)]
        supervisors.append(Supervisor("cpu", models, limits, Log(out), tmp_path))
        return Tried(supervisors[-1], out, tmp_path)

    yield make
    for supervisor in supervisors:
        supervisor.stop(5)


def gone(pid: int, within_s: float) -> bool:
    """Whether a process ends, or is a zombie that nobody has asked for yet, within the time."""
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def while_it_works(tried: Tried, act: Callable[[], object]) -> threading.Thread:
    """Do something from another thread as soon as the worker has a task."""

    def wait() -> None:
        while tried.supervisor.busy_since is None:
            time.sleep(0.005)
        time.sleep(0.3)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def send(tried: Tried, number: int) -> None:
    assert tried.supervisor.pid is not None
    os.kill(tried.supervisor.pid, number)


def test_a_worker_starts_once_and_serves_many_series(made, files):
    tried = made()
    assert (tried.supervisor.ready, tried.supervisor.pid, tried.supervisor.rss_mb) == (False, None, 0)
    tried.supervisor.start()
    pid = tried.supervisor.pid
    assert tried.supervisor.ready
    assert tried.supervisor.rss_mb > 20
    first, second = tried.run(files, "first"), tried.run(files, "second")
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert first.outputs == second.outputs
    assert (tried.supervisor.pid, tried.supervisor.restarts, tried.supervisor.busy_since) == (pid, 0, None)
    assert tried.log() == []


def test_it_brings_a_worker_up_by_itself(made, files):
    assert isinstance(made().run(files), Done)


def test_a_refused_series_costs_no_worker(made, files):
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    found = tried.run((*files[:2], *files[3:]))
    assert isinstance(found, Refused)
    assert found.reason == "missing_slice"
    assert isinstance(tried.run(files), Done)
    assert tried.supervisor.pid == pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_at_work_has_crashed_and_the_next_gives_the_same_bytes(made, files, many_files, number):
    tried = made()
    assert isinstance(tried.run(files, "before"), Done)
    pid = tried.supervisor.pid
    killer = while_it_works(tried, lambda: send(tried, number))
    with pytest.raises(WorkerLost) as raised:
        tried.run(many_files)
    killer.join()
    assert raised.value.reason == "crashed"
    assert not tried.supervisor.ready
    assert tried.supervisor.busy_since is None
    [event] = tried.events("worker_crashed")
    assert (event["device"], event["signal"]) == ("cpu", number)
    assert isinstance(tried.run(files, "after"), Done)
    assert tried.supervisor.pid != pid
    assert tried.supervisor.restarts == 1
    assert (tried.folder / "before" / "seg.dcm").read_bytes() == (tried.folder / "after" / "seg.dcm").read_bytes()


def test_a_worker_that_died_idle_is_replaced_without_a_loss(made, files):
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    send(tried, signal.SIGKILL)
    limit = time.monotonic() + 5
    while tried.supervisor.pid is not None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert not tried.supervisor.ready
    assert isinstance(tried.run(files), Done)
    assert tried.supervisor.pid != pid


@pytest.mark.slow
def test_a_worker_that_stands_still_hangs_and_is_ended_within_the_limit(made, files, many_files):
    # The limit is one that a busy machine keeps for a real series, too.
    tried = made(replace(LIMITS, job_timeout_s=10.0))
    tried.supervisor.start()
    pid = tried.supervisor.pid
    stopper = while_it_works(tried, lambda: send(tried, signal.SIGSTOP))
    started = time.monotonic()
    with pytest.raises(WorkerLost) as raised:
        tried.run(many_files)
    stopper.join()
    assert raised.value.reason == "hung"
    assert time.monotonic() - started >= 10.0
    assert gone(pid, 5)
    assert isinstance(tried.run(files), Done)


@pytest.mark.slow
def test_a_worker_that_does_not_start_in_time_is_not_ready(made, files):
    tried = made(replace(LIMITS, start_timeout_s=10.0))

    def stop() -> None:
        while tried.supervisor.pid is None:
            time.sleep(0.001)
        send(tried, signal.SIGSTOP)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(WorkerLost, match="hung") as raised:
        tried.supervisor.start()
    stopper.join()
    assert raised.value.reason == "not_ready"
    assert (tried.supervisor.ready, tried.supervisor.pid) == (False, None)
    assert isinstance(tried.run(files), Done)


def test_a_worker_that_outgrows_its_memory_is_ended(made, files, tmp_path):
    scan = real_ct()
    large = tuple(write_series(tmp_path / "large", np.tile(scan.voxels, (40, 10, 10)), scan.affine))
    plain = made(overlap=0.0)
    assert isinstance(plain.run(files), Done)
    # The small series needs 30 MB more for a moment, the large one 70 for its voxels alone, and 35 for its labels.
    tried = made(replace(LIMITS, memory_mb=int(plain.supervisor.rss_mb) + 60), overlap=0.0)
    assert isinstance(tried.run(files), Done)
    pid = tried.supervisor.pid
    with pytest.raises(WorkerLost) as raised:
        tried.run(large)
    assert raised.value.reason == "out_of_memory"
    assert gone(pid, 5)
    assert isinstance(tried.run(files), Done)


def test_a_superseded_task_is_ended_and_the_next_one_has_a_new_worker(made, files, many_files):
    tried = made()
    tried.supervisor.start()
    canceller = while_it_works(tried, tried.supervisor.cancel)
    with pytest.raises(WorkerLost) as raised:
        tried.run(many_files)
    canceller.join()
    assert raised.value.reason == "cancelled"
    assert tried.events("worker_crashed") == []
    assert isinstance(tried.run(files), Done)


def test_a_failure_that_is_not_the_series_costs_the_worker(made, files):
    """A folder that is gone stands for a runtime that failed: whatever is sticky ends with the process."""
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    with pytest.raises(WorkerLost) as raised:
        tried.supervisor.run(Task("lungs", files, tried.folder / "gone"))
    assert (raised.value.reason, raised.value.why) == ("failed", "output")
    assert gone(pid, 0.1)
    [event] = tried.events("worker_failed")
    assert (event["reason"], event["code"], event["device"]) == ("failed", "output", "cpu")
    assert isinstance(tried.run(files), Done)


def test_an_artifact_that_is_damaged_between_two_starts_keeps_the_worker_from_being_ready(made, artifact, files):
    tried = made()
    copies = tried.folder / "artifact"
    shutil.copytree(artifact.parent, copies)
    tried = made(model=copies / artifact.name)
    assert isinstance(tried.run(files), Done)
    send(tried, signal.SIGKILL)
    whole = (copies / artifact.name).read_bytes()
    (copies / artifact.name).write_bytes(whole[:-64] + bytes(64))
    with pytest.raises(WorkerLost, match="SHA-256") as raised:
        tried.supervisor.start()
    assert (raised.value.reason, raised.value.why) == ("not_ready", "integrity")
    assert not tried.supervisor.ready
    with pytest.raises(WorkerLost) as raised:
        tried.run(files)
    assert raised.value.reason == "not_ready"
    assert {event["code"] for event in tried.events("worker_failed")} == {"integrity"}
    (copies / artifact.name).write_bytes(whole)
    assert isinstance(tried.run(files), Done)


def test_a_canary_with_another_answer_keeps_the_worker_from_being_ready_and_the_log_says_so(made):
    tried = made()
    tried.supervisor.start()
    record = tried.folder / "canary.json"
    [key] = json.loads(record.read_text())
    tried.supervisor.stop(5)
    record.write_text(json.dumps({key: "0" * 64}))
    again = made()
    with pytest.raises(WorkerLost, match="canary") as raised:
        again.supervisor.start()
    assert (raised.value.reason, raised.value.why) == ("not_ready", "canary_changed")
    assert not again.supervisor.ready
    [event] = again.events("worker_failed")
    assert (event["code"], event["device"]) == ("canary_changed", "cpu")
    record.unlink()
    again.supervisor.start()
    assert again.supervisor.ready


def test_a_worker_holds_nothing_of_a_trainers(made, files):
    tried = made()
    assert isinstance(tried.run(files), Done)
    assert tried.supervisor.unwanted_modules() == ()
    mapped = Path(f"/proc/{tried.supervisor.pid}/maps").read_text()
    libraries = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if len(line.split()) > 5}
    assert [path for path in libraries if "onnxruntime" in path], "what is looked for would not be seen"
    assert [path for path in libraries if "/torch/" in path or "libtorch" in path or "/onnx/" in path] == []


def test_no_core_file_with_a_scan_can_be_left_behind(made):
    tried = made()
    tried.supervisor.start()
    limits = Path(f"/proc/{tried.supervisor.pid}/limits").read_text()
    [core] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_meant_for_the_node_do_not_reach_a_worker(made, files, number):
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    send(tried, number)
    assert isinstance(tried.run(files), Done)
    assert tried.supervisor.pid == pid


def test_noise_on_stdout_and_stderr_does_not_disturb_a_worker(made, files, tmp_path, monkeypatch, capfd):
    """A library that prints what it likes, even the words of the protocol, from the first moment to the last."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import os, threading, time
            def shout():
                while True:
                    os.write(1, b'{"message": {"lost": "failed"}, "shapes": []}\\n')
                    os.write(2, b'\\x10\\0\\0\\0noise')
                    time.sleep(0.002)
            threading.Thread(target=shout, daemon=True).start()
        """)
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *sys.path[1:]]))
    tried = made()
    assert isinstance(tried.run(files), Done)
    captured = capfd.readouterr()
    assert "lost" in captured.err, "there was no noise"
    assert captured.out == "", "stdout is for what a command prints"


def test_no_identifier_is_logged_or_printed(made, files, tmp_path, capfd):
    tried = made()
    assert isinstance(tried.run(files), Done)
    named = tmp_path / "Phantom^Synthetic"
    named.mkdir()
    copies = tuple(Path(shutil.copy(path, named)) for path in files)
    assert isinstance(tried.run(copies[:1]), Refused)
    copies[0].write_bytes(copies[0].read_bytes()[:-100])
    assert isinstance(tried.run(copies), Refused)
    with pytest.raises(WorkerLost) as raised:
        tried.supervisor.run(Task("lungs", files, tmp_path / "gone"))
    assert raised.value.why == "output"
    captured = capfd.readouterr()
    said = captured.out + captured.err + tried.out.getvalue()
    assert "worker_failed" in captured.err, "the worker's own log is not seen"
    dataset = pydicom.dcmread(files[0], stop_before_pixels=True)
    for word in (*PATIENT, dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID):
        assert word not in said


def test_stop_ends_an_idle_worker_and_no_other_follows(made, files):
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    started = time.monotonic()
    tried.supervisor.stop(5)
    assert time.monotonic() - started < 2
    assert gone(pid, 0.1)
    assert not tried.supervisor.ready
    with pytest.raises(WorkerLost, match="the node ends"):
        tried.run(files)
    tried.supervisor.stop(5)


def test_stop_ends_a_worker_at_work(made, many_files):
    tried = made()
    tried.supervisor.start()
    pid = tried.supervisor.pid
    stopper = while_it_works(tried, lambda: tried.supervisor.stop(5))
    with pytest.raises(WorkerLost):
        tried.run(many_files)
    stopper.join()
    assert gone(pid, 0.1)


NODE = """
import json, sys, threading, time
from pathlib import Path
from medattn_edge.scanner.config.sections import Limits, Model
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.work.supervisor import Supervisor
from medattn_edge.scanner.work.tasks import Task
root, artifact, files, work = json.loads(sys.argv[1])
supervisor = Supervisor("cpu", [Model("lungs", Path(artifact), threads=1)], Limits(), Log(), Path(root))
supervisor.start()
print(supervisor.pid, flush=True)
if work:
    supervisor.run(Task("lungs", tuple(map(Path, files)), Path(root)))
time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "at work", "stopped"])
def test_a_worker_does_not_outlive_its_node(artifact, many_files, tmp_path, state):
    asked = [str(tmp_path), str(artifact), [str(path) for path in many_files], state == "at work"]
    command = [sys.executable, "-c", NODE, json.dumps(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        try:
            assert node.stdout is not None
            pid = int(node.stdout.readline())
            time.sleep(0.3)
            if state == "stopped":
                os.kill(pid, signal.SIGSTOP)
            assert not gone(pid, 0.1)
        finally:
            node.kill()
            node.wait()
        assert gone(pid, 2)


@pytest.mark.slow
def test_memory_is_flat_over_thirty_series(made, tmp_path):
    tried = made(key_slices=1)
    scan = real_ct()
    held = []
    for number in range(30):
        series = write_series(
            tmp_path / f"series-{number}", scan.voxels, scan.affine, SeriesInstanceUID=f"1.2.826.0.1.3680043.8.{number}"
        )
        assert isinstance(tried.run(tuple(series), f"out-{number}"), Done)
        held.append(tried.supervisor.rss_mb)
    assert tried.supervisor.restarts == 0
    # The first few bring in code and fill the runtime's arena.
    assert max(held[15:]) - max(held[5:15]) < 5, held
