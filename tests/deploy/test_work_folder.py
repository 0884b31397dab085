"""A work folder: stages appear whole or not at all, are run again when anything they depend on has changed, and not
otherwise."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medattn_edge.deploy.work_folder import WorkFolder, key_of
from medattn_edge.errors import OutputError, UsageError

KEY = key_of({"of": "a stage"})


def made(folder: Path) -> dict[str, int]:
    (folder / "net.onnx").write_bytes(b"a network")
    return {"answer": 1}


def test_a_stage_that_was_published_is_found_again_with_its_value(tmp_path):
    with WorkFolder.beside(tmp_path / "release").opened() as work:
        assert work.outcome("fp32", KEY) is None
        first = work.publish("fp32", KEY, made, time.monotonic)
        again = work.outcome("fp32", KEY)
    assert again is not None
    assert (again.value, again.reused, first.reused) == ({"answer": 1}, True, False)
    assert (again.folder / "net.onnx").read_bytes() == b"a network"
    assert tmp_path / "release.deploy" == work.path


def test_another_key_and_a_changed_a_missing_or_a_cut_file_are_not_taken(tmp_path):
    with WorkFolder.beside(tmp_path / "release").opened() as work:
        stage = work.publish("fp32", KEY, made, time.monotonic)
        assert work.outcome("fp32", key_of({"of": "another"})) is None
        file, record = stage.folder / "net.onnx", stage.folder / "stage.json"
        whole = record.read_bytes()
        for change in (
            lambda: file.write_bytes(b"a networK"),
            lambda: file.unlink(),
            lambda: record.write_bytes(whole[:-20]),
            lambda: record.write_text("[]"),
            lambda: record.write_text(json.dumps({"kind": "of somebody else", "key": KEY})),
        ):
            change()
            assert work.outcome("fp32", KEY) is None
            work.publish("fp32", KEY, made, time.monotonic)
            assert work.outcome("fp32", KEY) is not None


def test_a_stage_that_fails_leaves_nothing_and_the_older_one_stays(tmp_path):
    def fails(folder: Path) -> dict[str, int]:
        made(folder)
        raise ZeroDivisionError

    with WorkFolder.beside(tmp_path / "release").opened() as work:
        work.publish("fp32", KEY, made, time.monotonic)
        with pytest.raises(ZeroDivisionError):
            work.publish("fp32", key_of({"of": "another"}), fails, time.monotonic)
        assert work.outcome("fp32", KEY) is not None
        assert sorted(path.name for path in work.path.iterdir()) == ["fp32", "lock"]


@pytest.mark.parametrize("room", [4, 40])
def test_a_full_disk_is_named_and_nothing_half_written_is_left(tmp_path, room):
    """4 bytes are full while the stage writes, 40 when its record is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WorkFolder.beside(tmp_path / "release").opened() as work:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(OutputError, match="cannot write"):
                work.publish("fp32", KEY, made, time.monotonic)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in work.path.iterdir()] == ["lock"]


def test_two_deployments_of_one_output_do_not_work_at_a_time(tmp_path):
    folder = WorkFolder.beside(tmp_path / "release")
    with folder.opened(), pytest.raises(UsageError, match="another deployment works"), folder.opened():
        pass
    with folder.opened():
        pass


@pytest.mark.parametrize("kind", ["a folder", "a file", "a link"])
def test_what_is_not_a_work_folder_is_left_alone(tmp_path, kind):
    path = tmp_path / "release.deploy"
    if kind == "a folder":
        path.mkdir()
        (path / "mine.txt").write_text("precious")
    elif kind == "a file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a work folder"), WorkFolder.beside(tmp_path / "release").opened():
        pass
    assert os.path.lexists(path)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_host(tmp_path):
    with pytest.raises(OutputError, match="cannot write"), WorkFolder(tmp_path / "no" / "release.deploy").opened():
        pass


def test_removed_means_all_of_it(tmp_path):
    with WorkFolder.beside(tmp_path / "release").opened() as work:
        work.publish("fp32", KEY, made, time.monotonic)
        (work.path / "plan.json").write_text("{}")
        work.remove()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from medattn_edge.deploy.work_folder import WorkFolder

def run(folder):
    (folder / "net.onnx").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

with WorkFolder.beside(Path(sys.argv[1])).opened() as work:
    work.publish("done", "key", lambda folder: {"answer": 2}, time.monotonic)
    work.publish("killed", "key", run, time.monotonic)
"""


def test_a_killed_process_leaves_the_stages_that_were_done_and_no_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "release"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    with WorkFolder.beside(tmp_path / "release").opened() as work:
        assert work.outcome("done", "key") is not None
        assert work.outcome("killed", "key") is None
        assert sorted(path.name for path in work.path.iterdir()) == ["done", "lock"]
