"""medattn-edge node, but for the running one: its configuration, its status from outside, and trying again."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.observe.health import Health, WorkerSeen
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.observe.server import StatusServer, document
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.disk import Disk, Watermark
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.records import Header, Output, Policy
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store
from tests.support.node_files import make_artifact, plain, write


class Records:
    """What a node leaves behind: four series, delivered, in quarantine for two reasons, and given up."""

    def __init__(self, folder: Path) -> None:
        sections = plain(folder)
        self.config = write(folder, {**sections, "status": {"port": _free_port()}})
        loaded = load_config(self.config)
        self.root, self.status = loaded.root, loaded.status
        self.now = time.time()
        spool = Spool(self.root)
        self.site = site_key(self.root / "site.key")
        policy = Policy(quiet_s=0, max_wait_s=0, delivery_attempts=1)
        self.store = Store(self.root / "node.sqlite", self.site, policy, lambda: self.now)
        self.custody = Custody(spool, self.store, Watermark(self.root, max_used_fraction=1, min_free=0))
        self.keys = [self._series(number) for number in range(4)]
        self._result(0)
        self._result(1)
        self.custody.quarantine(self._job(2), "missing_slice", "after slice 3")
        self.custody.quarantine(self._job(3), "no_model")
        first, second = self.store.deliveries.due("pacs")
        self.store.deliveries.record_delivered(first)
        assert self.store.deliveries.record_failure(second, "no_connection") is None

    def close(self) -> None:
        self.store.close()

    def _series(self, number: int) -> str:
        header = Header(f"1.2.{number}.1", "1.2.840.10008.5.1.4.1.1.2", f"1.2.{number}", "1.2", "CT", "CHEST", "Geheim")
        return self.custody.keep(f"object {number}".encode(), header, "CT1").key

    def _job(self, number: int) -> Any:
        self.now += 1
        self.custody.queue_complete()
        job = self.custody.claim("worker-0", lambda job: job.key == self.keys[number])
        assert job is not None
        return job

    def _result(self, number: int) -> None:
        job = self._job(number)
        folder = self.custody.working_folder(job)
        (folder / "seg.dcm").write_bytes(b"seg")
        self.now += 2
        assert self.custody.record_result(job, folder, [Output("seg", "seg.dcm", f"2.25.{number}")], ["pacs"])

    # As the status server asks for it

    def snapshot(self) -> Any:
        return self.store.snapshot()

    def health(self) -> Health:
        worker = WorkerSeen("cpu", True, False, 4711, 2, 321.4)
        return Health(
            ready=True,
            why="",
            started=self.now,
            version="0",
            name="test",
            site=self.site.fingerprint,
            draining=False,
            workers=(worker,),
            models=(("lungs", "cpu", "onnx"),),
            destinations=("pacs",),
            associations=0,
            disk=Disk(100_000_000_000, 40_000_000_000, True),
        )

    def thumbnail(self, key: str, version: int) -> Path | None:
        return None


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path)
    yield made
    made.close()


@contextmanager
def answering(records: Records, watched: Any = None) -> Iterator[None]:
    """The page of a node that runs."""
    assert records.status is not None
    server = StatusServer(records.status, watched or records, Log(io.StringIO()))
    server.start()
    try:
        yield
    finally:
        server.stop()


def fails(medattn: Any, code: int, *words: Any) -> dict[str, str]:
    """The error, which is the same in JSON (where the command knows --json) and in words."""
    done = medattn("node", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return {"message": " ".join(done.stderr.split())}


# init


def test_init_writes_an_example_that_works_with_the_folders_it_names(medattn, tmp_path):
    artifact = make_artifact(tmp_path / "net.int8.onnx")
    path = tmp_path / "site" / "node.toml"
    path.parent.mkdir()
    done = medattn("node", "init", artifact, "-o", path)
    assert done.returncode == 0, done.stderr
    assert f"medattn-edge node --config {path}" in done.stderr
    found = load_config(path)
    assert found.watch is not None
    assert found.watch.folder == path.parent / "incoming"
    assert found.watch.folder.is_dir()
    assert found.destinations[0].folder == path.parent / "results"
    assert (path.parent / "results").is_dir()
    assert found.root == path.parent / "node"
    assert not found.root.exists()
    assert found.models[0].artifact == artifact
    assert "# quiet_s = 60.0" in path.read_text()


def test_init_takes_folders_and_a_relative_artifact(medattn, tmp_path, monkeypatch):
    make_artifact(tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    folders = ("--root", "kept here", "--watch", tmp_path / "in", "--results", "out/deep")
    done = medattn("node", "init", "net.onnx", "-o", "node.toml", *folders)
    assert done.returncode == 0, done.stderr
    found = load_config(tmp_path / "node.toml")
    assert found.root == tmp_path / "kept here"
    assert (tmp_path / "in").is_dir()
    assert (tmp_path / "out" / "deep").is_dir()
    assert found.models[0].artifact == tmp_path / "net.onnx"


def test_init_overwrites_nothing_and_leaves_nothing_when_it_fails(medattn, tmp_path):
    artifact, path = make_artifact(tmp_path / "net.onnx"), tmp_path / "node.toml"
    path.write_text("mine")
    error = fails(medattn, 2, "init", artifact, "-o", path)
    assert f"{path} exists" in error["message"]
    assert path.read_text() == "mine"
    new = tmp_path / "new.toml"
    assert "does not exist" in fails(medattn, 2, "init", tmp_path / "gone.onnx", "-o", new)["message"]
    assert "lies in" in fails(medattn, 2, "init", artifact, "-o", new, "--watch", ".")["message"]
    assert "cannot make the folder" in fails(medattn, 3, "init", artifact, "-o", new, "--watch", path)["message"]
    artifact.write_bytes(b"changed")
    assert "SHA-256" in fails(medattn, 5, "init", artifact, "-o", new)["message"]
    assert fails(medattn, 3, "init", artifact, "-o", tmp_path / "no" / "node.toml")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json", "node.toml"]


# --config and --dump-config


def test_dump_config_prints_every_value_and_what_it_prints_is_the_same_configuration(medattn, tmp_path):
    sections = plain(tmp_path)
    sections["model"][0]["description"] = "*:cat: [bold]x[/bold]*"
    path = write(tmp_path, sections)
    done = medattn("node", "--config", path, "--dump-config")
    assert (done.returncode, done.stderr) == (0, "")
    again = tmp_path / "again.toml"
    again.write_text(done.stdout, encoding="utf-8")
    assert load_config(again) == load_config(path)
    assert "delivery_attempts = 500" in done.stdout
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("words", [(), ("--dump-config",)])
def test_a_wrong_file_is_told_before_anything_is_made(medattn, tmp_path, words):
    path = write(tmp_path, {**plain(tmp_path), "recieve": {"port": 1}})
    message = fails(medattn, 2, "--config", path, *words)["message"]
    assert "node.toml: section recieve is not known" in message
    assert "next: receive" in message
    path.write_text("[node\n")
    assert "line 1" in fails(medattn, 2, "--config", path, *words)["message"]
    assert "cannot be read" in fails(medattn, 2, "--config", tmp_path / "gone.toml", *words)["message"]
    path = write(tmp_path, plain(tmp_path))
    (tmp_path / "net.onnx").write_bytes(b"changed")
    assert "SHA-256" in fails(medattn, 5, "--config", path, *words)["message"]
    assert not (tmp_path / "root").exists()


def test_a_node_needs_a_file_and_a_sub_command_has_it_behind_its_name(medattn, tmp_path):
    assert "node init" in fails(medattn, 2)["message"]
    message = fails(medattn, 2, "--config", tmp_path / "my node.toml", "status")["message"]
    assert f"medattn-edge node status --config '{tmp_path / 'my node.toml'}'" in message
    assert "--config" in fails(medattn, 2, "status")["message"]
    assert "--dump-config" in fails(medattn, 2, "--config", "x", "--dump-konfig")["message"]


def test_help_shows_what_there_is(medattn):
    shown = medattn("node", "--help").stdout
    for word in ("init", "check", "status", "requeue", "--config", "--dump-config", "SIGHUP"):
        assert word in shown
    assert " node " in medattn("--help").stdout


# status


def test_the_status_of_a_node_that_does_not_run_is_what_its_database_says(medattn, records):
    records.close()
    before = {path.name: path.read_bytes() for path in records.root.iterdir() if path.is_file()}
    done = medattn("node", "status", "--config", records.config, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["running"], found["ready"]) == (False, False)
    assert found["states"] == {**dict.fromkeys(found["states"], 0), "delivered": 1, "failed": 1, "quarantined": 2}
    assert [one["reason"] for one in found["quarantined"]] == ["no_model", "missing_slice"]
    assert found["stages"]["segmenting"]["count"] == 2
    after = {path.name: path.read_bytes() for path in records.root.iterdir() if path.is_file()}
    # SQLite's helpers of every reader; not a byte of the node's own files has changed.
    assert after.pop("node.sqlite-wal", b"") == b""
    after.pop("node.sqlite-shm", None)
    assert after == before


def test_a_person_reads_what_is_wrong_and_what_to_do(medattn, records):
    done = medattn("node", "status", "--config", records.config)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("the node is not running")
    assert f"in quarantine: {records.keys[2]} v1: missing_slice (after slice 3)" in lines
    assert any("A slice is missing between two others." in line for line in lines)
    assert f"in quarantine: {records.keys[3]} v1: no_model" in lines
    assert f"not delivered: {records.keys[1]} v1 to pacs: no_connection, 1 attempts, given up" in lines
    again = [line for line in lines if line.startswith("  -> ")]
    # Another look at the same slices finds the same gap.
    assert again == [
        f"  -> medattn-edge node requeue {records.keys[number]} --config {records.config}" for number in (3, 1)
    ]
    assert all(key in done.stdout for key in records.keys)
    assert "Geheim" not in done.stdout
    assert "series: 1 delivered, 1 failed, 2 quarantined" in lines
    assert row(done.stdout, "segmenting")[:3] == ["2.00", "2.00", "2.00"]


def row(text: str, first: str) -> list[str]:
    """The other cells of a row."""
    [line] = [line for line in text.splitlines() if line.strip().startswith(f"{first} ")]
    return line.split()[1:]


def test_keys_stay_whole_in_a_narrow_window(records):
    words = [sys.executable, "-c", "from medattn_edge.cli import main; main()", "node", "status", "--config"]
    environment = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run([*words, records.config], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("\nseries: ")[2]
    assert all(key in table for key in records.keys)


def test_the_status_of_a_running_node_is_what_it_says_of_itself(medattn, records):
    with answering(records):
        found = json.loads(medattn("node", "status", "--config", records.config, "--json").stdout)
        shown = medattn("node", "status", "--config", records.config).stdout
    assert found == {**json.loads(json.dumps(document(records.snapshot(), records.health()))), "time": found["time"]}
    assert shown.startswith("ready\n")
    assert "worker cpu waits: 321 MB, 2 restarts" in shown
    assert "disk: 40.0 of 100.0 GB free; NOTHING NEW IS TAKEN" in shown


def test_why_a_running_node_is_not_ready_is_told(medattn, records):
    from dataclasses import replace

    class Draining:
        def __getattr__(self, name: str) -> Any:
            return getattr(records, name)

        def health(self) -> Health:
            return replace(records.health(), ready=False, why="draining", draining=True)

    with answering(records, Draining()):
        done = medattn("node", "status", "--config", records.config)
        asked = medattn("node", "status", "--config", records.config, "--ready")
    assert done.returncode == 0
    assert done.stdout.startswith("NOT READY (draining): The node ends")
    assert (asked.returncode, asked.stdout, asked.stderr) == (1, done.stdout, "")


def test_a_health_check_passes_for_a_node_that_is_ready_and_for_no_other(medattn, records):
    words = ("node", "status", "--config", records.config, "--ready", "--json")
    with answering(records):
        assert medattn(*words).returncode == 0
    done = medattn(*words)  # nobody answers any more
    assert done.returncode == 1
    assert json.loads(done.stdout)["running"] is False


def test_another_nodes_page_on_the_port_is_not_taken_for_this_nodes(medattn, records, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    stranger = Records(other)
    stranger.status = records.status
    with answering(stranger):
        found = json.loads(medattn("node", "status", "--config", records.config, "--json").stdout)
    stranger.close()
    assert found["running"] is False


GARBAGE = (b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"HTTP/1.1 500 x\r\n\r\n")


@pytest.mark.parametrize("answer", GARBAGE)
def test_something_else_on_the_port_does_no_harm(medattn, records, answer):
    assert records.status is not None
    with closing(socket.create_server((records.status.host, records.status.port))) as server:

        def once() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        done = medattn("node", "status", "--config", records.config, "--json")
        thread.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["running"] is False


def test_a_node_that_runs_and_does_not_answer_is_not_said_to_have_ended(medattn, records):
    with (records.root / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(medattn("node", "status", "--config", records.config, "--json").stdout)
        shown = medattn("node", "status", "--config", records.config).stdout
    assert (found["running"], found["ready"], found["why"]) == (True, False, "no_answer")
    assert shown.startswith("NOT READY: the node runs and its status page does not answer")
    assert json.loads(medattn("node", "status", "--config", records.config, "--json").stdout)["running"] is False


def test_what_a_killed_node_had_not_moved_into_its_database_yet_is_read_too(medattn, records, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(records.root, copy)  # while it is open: with its -wal
    assert (copy / "node.sqlite-wal").stat().st_size > 0
    (copy / "node.sqlite-shm").unlink()
    before = (copy / "node.sqlite").read_bytes(), (copy / "node.sqlite-wal").read_bytes()
    config = write(tmp_path, {**plain(tmp_path), "node": {"root": "copy"}, "status": {"enabled": False}})
    found = json.loads(medattn("node", "status", "--config", config, "--json").stdout)
    assert found["states"]["quarantined"] == 2
    assert ((copy / "node.sqlite").read_bytes(), (copy / "node.sqlite-wal").read_bytes()) == before


def test_a_node_that_never_ran_has_no_status_and_gets_no_folder(medattn, tmp_path):
    path = write(tmp_path, plain(tmp_path))
    for words in (("status",), ("requeue", "0" * 32)):
        message = fails(medattn, 2, *words, "--config", path)["message"]
        assert "has no node.sqlite" in message
        assert "next: medattn-edge node --config FILE" in message
    assert not (tmp_path / "root").exists()
    done = medattn("node", "status", "--config", path, "--json")
    assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_a_damaged_or_a_foreign_database_is_told(medattn, records):
    records.close()
    database = records.root / "node.sqlite"
    with closing(sqlite3.connect(database)) as changed:
        changed.execute("PRAGMA user_version = 99")
    assert "tables of the version 99" in fails(medattn, 5, "status", "--config", records.config)["message"]
    for path in records.root.glob("node.sqlite*"):
        path.unlink()
    database.write_bytes(b"no database at all, " * 100)
    assert "is damaged" in fails(medattn, 5, "status", "--config", records.config)["message"]
    assert database.read_bytes().startswith(b"no database")


# requeue


def test_a_series_in_quarantine_and_a_dead_delivery_are_tried_again(medattn, records):
    config = records.config
    done = medattn("node", "requeue", records.keys[3], "--config", config)
    assert done.returncode == 0, done.stderr
    assert f"{records.keys[3]} is queued" in done.stdout
    done = medattn("node", "requeue", records.keys[1], "--config", config, "--json")
    assert json.loads(done.stdout) == {"key": records.keys[1], "state": "segmented"}
    assert [one.key for one in records.store.deliveries.due("pacs")] == [records.keys[1]]
    assert records.store.series.state_of(records.keys[3]) == "queued"


def test_what_cannot_be_tried_again_is_told(medattn, records):
    config = records.config
    assert (
        "none of its deliveries is dead" in fails(medattn, 2, "requeue", records.keys[0], "--config", config)["message"]
    )
    for key in ("0" * 32, "x", "../etc", "[bold]"):
        assert "is not known" in fails(medattn, 2, "requeue", key, "--config", config)["message"]


def test_requeue_makes_no_key_where_the_key_is_lost(medattn, records):
    (records.root / "site.key").unlink()
    assert "has no site.key" in fails(medattn, 2, "requeue", records.keys[3], "--config", records.config)["message"]
    assert not (records.root / "site.key").exists()
