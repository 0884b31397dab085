"""A temporary folder goes with its block, and what a killed process left with the next start; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medattn_edge.process.held_folder import NEW_S, held_folder

PREFIX = "medattn-edge-test-"
HOLD = (
    "import sys, time\n"
    "from medattn_edge.process.held_folder import held_folder\n"
    "with held_folder(sys.argv[1]) as folder:\n"
    "    (folder / 'scan').write_text('of a patient')\n"
    "    print(folder, flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def holding(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, PREFIX],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_only_this_users_and_gone_after_the_block(place: Path) -> None:
    with held_folder(PREFIX) as folder:
        assert folder.parent == place
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "deep").mkdir()
    with pytest.raises(RuntimeError), held_folder(PREFIX):
        raise RuntimeError
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_another_one_holds_is_not(place: Path) -> None:
    dead, left = holding(place)
    alive, held = holding(place)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert (left / "scan").is_file()
        with held_folder(PREFIX):
            assert not left.exists()
            assert (held / "scan").is_file()
    finally:
        alive.kill()
        for process in (dead, alive):
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def test_one_that_is_not_held_yet_is_left_for_a_while(place: Path) -> None:
    new, old, other = (place / f"{name}1" for name in (PREFIX, f"{PREFIX}old", "medattn-edge-other-"))
    for folder in (new, old, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (time.time() - NEW_S - 1,) * 2)
    with held_folder(PREFIX):
        assert new.is_dir()
        assert not old.exists()
        assert other.is_dir(), "of another kind"
