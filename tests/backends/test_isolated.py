"""A session in a process of its own: the same answers, and whatever a runtime does to its process stays there."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import manifest_path
from medattn_edge.backends import Options, open_session
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.errors import (
    BackendError,
    HostError,
    InputError,
    IntegrityError,
    MissingDependency,
    ShapeError,
    UsageError,
)
from medattn_edge.exporters import random_patches
from medattn_edge.installation import install_line
from tests.support.networks import SMALL

# What a runtime may do to its process; a session does it when the first value of its patches says so.
OPENERS = """
import ctypes, os, sys, time
import numpy as np
from medattn_edge.backends import open_session
from medattn_edge.backends.cuda.memory import GpuLost
from medattn_edge.backends.session import Session
from medattn_edge.errors import MissingDependency
from medattn_edge.spec import ModelSpec

SPEC = ModelSpec("fake", 1, ("background", "organ"), (4, 4), (1, 1))

def segfault(path, **options):
    ctypes.string_at(0)

def leave(path, **options):
    os._exit(3)

def hang(path, **options):
    time.sleep(3600)

def bug(path, **options):
    return 1 / 0

def missing(path, **options):
    raise MissingDependency.of_extra("a_runtime", "extra")

class Lost(MissingDependency):
    pass

def lost(path, **options):
    raise Lost("a kind that the parent does not know", expected="x", hint="y")

def noisy(path, **options):
    os.write(1, b"native noise\\n")
    print("python noise", flush=True)
    return open_session(path, **options)

class Moody(Session):
    def _run(self, patches):
        mood = int(patches.flat[0])
        if mood == 1:
            os.abort()
        if mood == 2:
            time.sleep(3600)
        if mood == 3:
            raise MemoryError
        if mood == 4:
            raise ValueError("a bug of the session")
        if mood == 5:
            os.kill(os.getpid(), 64)
        if mood == 6:
            time.sleep(0.2)
        if mood == 7:
            np.ones(25_000_000)
        if mood == 9:
            raise GpuLost("the GPU is gone", expected="a GPU", hint="none")
        self.device_ms = 0.125 if mood == 8 else None
        return np.stack([patches[:, 0], -patches[:, 0]], axis=1)[:, :, ::-1, ::-1]

def moody(path, **options):
    return Moody(SPEC, facts={"word": os.environ.get("A_WORD"), "torch": "torch" in sys.modules})
"""


@pytest.fixture
def openers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., IsolatedSession]:
    """Opens sessions by the functions above."""
    (tmp_path / "odd_openers.py").write_text(OPENERS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def open_by(name: str, path: Path | str = "net.onnx", **settings: Any) -> IsolatedSession:
        return IsolatedSession(path, opener=f"odd_openers:{name}", **settings)

    return open_by


@pytest.fixture
def moody(openers: Callable[..., IsolatedSession]) -> Iterator[IsolatedSession]:
    with openers("moody", timeout_s=30) as session:
        yield session


def patches_of(mood: float) -> np.ndarray:
    return np.full((1, 1, 4, 4), mood, np.float32)


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether a process is gone, or only waits for its parent to notice, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("backend", ["onnxruntime", "eager"])
def test_it_answers_as_the_session_itself_does(backend: str, small_checkpoint: Path, small_artifact: Path) -> None:
    path, patches = small_artifact if backend == "onnxruntime" else small_checkpoint, random_patches(SMALL, 3, seed=4)
    options = Options(threads=1)
    with (
        open_session(path, backend=backend, device="cpu", threads=1) as own,
        IsolatedSession(path, backend=backend, options=options) as isolated,
    ):
        np.testing.assert_array_equal(isolated.run(patches), own.run(patches))
        for found, expected in zip(isolated.run_with_attention(patches), own.run_with_attention(patches), strict=True):
            np.testing.assert_array_equal(found, expected)
        for name in ("spec", "batch", "fixed_patch", "attention_names"):
            assert getattr(isolated, name) == getattr(own, name), name
        assert {key: value for key, value in isolated.facts.items() if key != "pid"} == own.facts
        assert isolated.facts["pid"] != os.getpid()
        assert json.loads(json.dumps(isolated.facts)) == isolated.facts


def test_the_options_reach_the_runtime(small_artifact: Path, small_checkpoint: Path) -> None:
    with IsolatedSession(small_artifact, options=Options(threads=2, optimise=False)) as session:
        assert (session.facts["threads"], session.facts["backend"]) == (2, "onnxruntime-unoptimised")
    other = SMALL.with_patch((16, 16))
    with IsolatedSession(small_checkpoint, options=Options(spec=other)) as session:
        assert session.spec == other
        assert session.run(random_patches(other, 1)).shape == (1, 2, 16, 16)


def test_the_answer_belongs_to_the_caller_and_the_patches_are_left_alone(small_artifact: Path) -> None:
    patches = random_patches(SMALL, 2)
    strided = np.asfortranarray(np.repeat(patches, 2, axis=0))[::2]
    patches.flags.writeable = False
    with IsolatedSession(small_artifact) as session:
        first = session.run(patches)
        kept = first.copy()
        session.run(patches * 2)
        np.testing.assert_array_equal(first, kept)
        first[:] = 0
        np.testing.assert_array_equal(session.run(strided), kept)


def test_an_answer_that_is_a_view_arrives_as_it_looks(moody: IsolatedSession) -> None:
    patches = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) / 16
    np.testing.assert_array_equal(moody.run(patches)[0, 1], -patches[0, 0, ::-1, ::-1])


def test_more_than_a_socket_holds_goes_both_ways(moody: IsolatedSession) -> None:
    patches = np.random.default_rng(0).random((200_000, 1, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(moody.run(patches)[:, 0], patches[:, 0, ::-1, ::-1])


def test_patches_that_do_not_fit_are_refused_as_ever(small_artifact: Path, openers: Callable[..., Any]) -> None:
    with IsolatedSession(small_artifact) as session:
        for wrong in (np.zeros((1, 2, 32, 32), np.float32), np.zeros((1, 1, 32, 32)), np.zeros((0, 1, 32, 32), "f4")):
            with pytest.raises(ShapeError):
                session.run(wrong)
        assert session.alive
    with openers("moody") as session, pytest.raises(UsageError, match="no attention output"):
        session.run_with_attention(patches_of(0))


def test_the_child_times_its_runs_so_that_the_way_to_it_is_not_counted(moody: IsolatedSession) -> None:
    assert math.isnan(moody.last_ms)
    many = np.zeros((400_000, 1, 4, 4), np.float32)
    many.flat[0] = 6  # it sleeps for 200 ms
    start = time.perf_counter()
    moody.run(many)
    around = (time.perf_counter() - start) * 1e3
    assert 200 <= moody.last_ms < around
    assert moody.device_ms is None
    moody.run(patches_of(0))
    assert moody.last_ms < 200


def test_a_child_that_lost_its_gpu_ends_and_says_why(moody: IsolatedSession) -> None:
    for _ in range(2):  # nothing else can be had of it, and it goes on saying so
        with pytest.raises(BackendError, match="the GPU is gone") as raised:
            moody.run(patches_of(9))
        assert "in a new process" in raised.value.hint
        assert not moody.alive


def test_a_device_that_has_a_clock_is_believed(moody: IsolatedSession) -> None:
    moody.run(patches_of(8))
    assert (moody.last_ms, moody.device_ms) == (0.125, 0.125)
    moody.run(patches_of(0))
    assert moody.device_ms is None


def test_a_run_that_fails_took_no_time_that_could_be_told(moody: IsolatedSession) -> None:
    moody.run(patches_of(0))
    with pytest.raises(BackendError):
        moody.run(patches_of(3))
    assert math.isnan(moody.last_ms)


def test_how_long_it_took_to_open_is_told(openers: Callable[..., IsolatedSession]) -> None:
    start = time.perf_counter()
    with openers("moody") as session:
        assert 0 < session.opened_s <= time.perf_counter() - start


def test_the_peak_of_memory_is_that_of_the_child_alone(openers: Callable[..., IsolatedSession]) -> None:
    here = np.ones(50_000_000)  # 400 MB that the child has nothing to do with
    with openers("moody") as session:
        session.run(patches_of(0))
        before = session.peak_rss_mb
        session.run(patches_of(7))  # 200 MB of its own, which it gives back
        session.run(patches_of(0))
        assert 5 < before < 200 <= session.peak_rss_mb < 400
    assert here.nbytes == 400e6


def test_errors_of_opening_arrive_as_they_were_raised(small_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as refused:
        IsolatedSession(tmp_path / "nowhere.onnx")
    assert (refused.value.exit_code, refused.value.expected) == (4, "an artifact")
    assert "export" in refused.value.hint
    copied = tmp_path / "network.onnx"
    copied.write_bytes(small_artifact.read_bytes() + b"\0")
    manifest_path(copied).write_bytes(manifest_path(small_artifact).read_bytes())
    with pytest.raises(IntegrityError, match="SHA-256"):
        IsolatedSession(copied)
    with pytest.raises(UsageError, match="cpu or cuda:INDEX"):
        IsolatedSession(small_artifact, options=Options(device="gpu"))
    with pytest.raises(UsageError, match="tensorrt-2"):
        IsolatedSession(small_artifact, backend="tensorrt-2")
    with pytest.raises(HostError, match=r"cuda:63|CUDA"):
        IsolatedSession(small_artifact, options=Options(device="cuda:63"))


def test_an_error_keeps_its_type_or_becomes_the_nearest_known(openers: Callable[..., Any]) -> None:
    with pytest.raises(MissingDependency, match="a_runtime") as refused:
        openers("missing")
    assert (refused.value.code, install_line("extra") in refused.value.hint) == ("missing_dependency", True)
    with pytest.raises(MissingDependency, match=r"does not know(.|\n)*y"):
        openers("lost")


def test_a_bug_is_no_failure_of_the_runtime_and_keeps_its_traceback(
    openers: Callable[..., Any], moody: IsolatedSession
) -> None:
    with pytest.raises(RuntimeError, match=r"odd_openers\.py(.|\n)*ZeroDivisionError"):
        openers("bug")
    with pytest.raises(RuntimeError, match=r"Traceback(.|\n)*ValueError: a bug of the session"):
        moody.run(patches_of(4))
    assert moody.run(patches_of(0)).shape == (1, 2, 4, 4)


@pytest.mark.parametrize(("name", "said"), [("segfault", "crashed: SIGSEGV"), ("leave", "ended .* exit code 3")])
def test_a_runtime_that_dies_while_it_opens_is_an_error_that_says_how(
    openers: Callable[..., Any], name: str, said: str
) -> None:
    with pytest.raises(BackendError, match=said) as refused:
        openers(name, "brain.onnx")
    assert "brain.onnx" in refused.value.expected
    assert refused.value.hint


@pytest.mark.parametrize(("mood", "said"), [(1, "crashed: SIGABRT"), (5, "crashed: (SIGRTMAX|signal 64)")])
def test_a_runtime_that_dies_while_it_runs_is_dead_from_then_on(moody: IsolatedSession, mood: float, said: str) -> None:
    assert moody.alive
    for value in (mood, 0):
        with pytest.raises(BackendError, match=said):
            moody.run(patches_of(value))
        assert not moody.alive


def test_a_child_that_is_killed_from_outside_is_told_with_what_it_usually_means(small_artifact: Path) -> None:
    with IsolatedSession(small_artifact) as session:
        os.kill(session.facts["pid"], signal.SIGKILL)
        with pytest.raises(BackendError, match=r"crashed: SIGKILL(.|\n)*memory runs out"):
            session.run(random_patches(SMALL, 1))
        assert not session.alive


def test_memory_that_runs_out_is_the_runtimes_failure_and_the_child_lives(moody: IsolatedSession) -> None:
    with pytest.raises(BackendError, match=r"memory ran out(.|\n)*--batch"):
        moody.run(patches_of(3))
    assert moody.alive


def test_a_runtime_that_does_not_answer_in_time_is_ended(openers: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match="no answer within 1 s"):
        openers("hang", timeout_s=1)
    with openers("moody", timeout_s=1) as session:
        pid = session.facts["pid"]
        with pytest.raises(BackendError, match="no answer within 1 s"):
            session.run(patches_of(2))
        assert gone(pid)
        with pytest.raises(BackendError, match="no answer within 1 s"):
            session.run(patches_of(0))


def test_a_closed_session_has_no_child_and_says_so(moody: IsolatedSession) -> None:
    moody.run(patches_of(0))
    pid = moody.facts["pid"]
    moody.close()
    moody.close()
    assert not moody.alive
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(BackendError, match=r"is closed(.|\n)*open the artifact again"):
        moody.run(patches_of(0))


def test_closing_does_not_wait_for_a_run_in_another_thread(moody: IsolatedSession) -> None:
    said: list[str] = []

    def run() -> None:
        try:
            moody.run(patches_of(2))
        except BackendError as error:
            said.append(error.found)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    moody.close()
    thread.join(10)
    assert time.monotonic() - start < 5
    assert said == ["this session is closed"]


def test_an_interrupted_run_never_answers_for_the_next_one(moody: IsolatedSession) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            moody.run(patches_of(2))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not moody.alive
    with pytest.raises(BackendError, match="is closed"):
        moody.run(patches_of(0))


def test_threads_get_their_own_answers(moody: IsolatedSession) -> None:
    found: dict[int, float] = {}

    def run(value: int) -> None:
        found[value] = float(moody.run(patches_of(value + 0.5))[0, 0, 0, 0])

    threads = [threading.Thread(target=run, args=(value,)) for value in (6, 7, 8, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: value + 0.5 for value in (6, 7, 8, 10)}


def test_an_abandoned_session_takes_its_child_along(openers: Callable[..., Any]) -> None:
    session = openers("moody")
    pid = session.facts["pid"]
    del session
    gc.collect()
    assert gone(pid)


def test_variables_are_set_for_the_child_alone(openers: Callable[..., Any]) -> None:
    with openers("moody", environment={"A_WORD": "for you"}) as session:
        assert session.facts["word"] == "for you"
    assert "A_WORD" not in os.environ


def test_the_child_imports_no_more_than_its_runtime_needs(moody: IsolatedSession) -> None:
    assert moody.facts["torch"] is False


def script(*lines: str) -> list[str]:
    """A script without a main guard, as the words of a command."""
    start = f"import sys; sys.path[:] = {sys.path!r}"
    return [sys.executable, "-c", "\n".join((start, *lines))]


def test_what_the_child_says_does_not_reach_stdout(small_artifact: Path, openers: Callable[..., Any]) -> None:
    done = subprocess.run(
        script(
            "from medattn_edge.backends.isolated import IsolatedSession",
            f"with IsolatedSession({str(small_artifact)!r}, opener='odd_openers:noisy') as session:",
            "    print(session.facts['backend'])",
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "onnxruntime\n"
    assert "native noise" in done.stderr
    assert "python noise" in done.stderr


@pytest.mark.parametrize("mood", [0, 2])
def test_a_parent_that_is_killed_takes_the_child_along_even_while_it_computes(
    openers: Callable[..., Any], mood: int
) -> None:
    words = script(
        "import numpy as np",
        "from medattn_edge.backends.isolated import IsolatedSession",
        "session = IsolatedSession('net.onnx', opener='odd_openers:moody')",
        "print(session.facts['pid'], flush=True)",
        f"session.run(np.full((1, 1, 4, 4), {mood}, np.float32))",
        "import time; time.sleep(3600)",
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        assert not gone(pid, 0.1)
        parent.kill()
    assert gone(pid)


def test_a_parent_that_ends_without_closing_ends_at_once(openers: Callable[..., Any]) -> None:
    start = time.monotonic()
    done = subprocess.run(
        script(
            "from medattn_edge.backends.isolated import IsolatedSession",
            "session = IsolatedSession('net.onnx', opener='odd_openers:moody')",
            "print(session.facts['pid'])",
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert gone(int(done.stdout))
    assert time.monotonic() - start < 10
    assert done.stderr == ""
