"""What the host does to a node: clocks, modes of files, log rotation, damaged databases, a full disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medattn_edge.errors import IntegrityError, OutputError, UsageError
from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.store.disk import Watermark, make_root
from tests.support.durable_node import Node, read_header
from tests.support.node_files import make_artifact, plain, write


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The clock


@pytest.mark.parametrize("hours", [2, 24, 24 * 365])
def test_a_clock_that_is_set_back_holds_a_failed_delivery_for_the_longest_pause_at_most(node: Node, hours):
    node.segment(node.job(), "pacs")
    [delivery] = node.custody.deliveries_due()
    node.custody.fail_delivery(delivery, "no_connection")
    assert node.custody.deliveries_due() == ()
    node.pass_time(-hours * 3600)
    for _ in range(2):
        if node.custody.deliveries_due():
            break
        node.pass_time(node.policy.retry_max_s)
    [again] = node.custody.deliveries_due()
    assert again.id == delivery.id


def test_a_pause_is_kept_while_the_clock_goes_on_as_clocks_do(node: Node):
    node.segment(node.job(), "pacs")
    [delivery] = node.custody.deliveries_due()
    again = node.custody.fail_delivery(delivery, "no_connection")
    assert again is not None
    node.now = again - 0.001
    assert node.custody.deliveries_due() == ()
    node.now = again
    assert len(node.custody.deliveries_due()) == 1


# The database


def test_pages_of_the_database_that_were_zeroed_are_found_at_the_start_and_say_what_to_do(node: Node):
    for series in range(40):
        node.keep(series, 1)
    path = node.root / "node.sqlite"
    with node.store.database.writing() as database:
        database.execute("UPDATE meta SET value = value")
    node.store.close()
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for page in range(3, len(data) // size - 1):
        data[page * size : page * size + 64] = bytes(64)
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as raised:
        node.restart(read_header)
    assert "mv" in raised.value.hint
    for left in node.root.glob("node.sqlite*"):
        left.unlink()
    assert node.restart(read_header).adopted == 40


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE versions SET state = 'nonsense'",
        "UPDATE versions SET interruptions = 'many', state = 'running'",
        "DROP TABLE outputs",
        "DELETE FROM series",
    ],
)
def test_rows_that_no_node_writes_are_damage_and_no_traceback(node: Node, damage):
    node.keep(1, 1)
    node.job(2)
    with node.store.database.writing() as database:
        database.execute("DROP TRIGGER versions_change")
    database = node.store.database._connection()
    database.execute("PRAGMA foreign_keys = OFF")
    database.execute(damage)
    for path in (node.spool.incoming / node.key(1)).iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="damaged"):
        node.restart(read_header)


# Modes


def test_a_root_that_was_there_and_all_that_the_node_writes_are_for_its_owner_only(tmp_path):
    root = tmp_path / "node"
    root.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        node = Node(root)
        node.segment(node.job(), "pacs")
    finally:
        os.umask(before)
    assert mode(root) == 0o700
    for path in root.rglob("*"):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path.relative_to(root)
    node.store.close()


def test_a_database_that_others_could_read_is_closed_to_them(node: Node):
    node.keep(1, 1)
    for path in node.root.glob("node.sqlite*"):
        path.chmod(0o644)
    node.restart(read_header)
    assert mode(node.root / "node.sqlite") == 0o600


def test_a_root_that_cannot_be_had_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make"):
        make_root(tmp_path / "file")


# The log


def test_a_log_that_was_renamed_goes_on_in_a_new_file_when_it_is_reopened(tmp_path):
    log = Log(tmp_path / "node.log")
    log.event("before")
    (tmp_path / "node.log").rename(tmp_path / "node.log.1")
    log.event("between")
    log.reopen()
    log.event("after")
    lines = {
        path.name: [json.loads(line)["event"] for line in path.read_text().splitlines()] for path in tmp_path.iterdir()
    }
    assert lines == {"node.log.1": ["before", "between"], "node.log": ["after"]}
    assert log.lost == 0
    log.close()


def test_a_folder_as_the_log_is_refused_and_no_traceback(tmp_path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(OutputError, match="cannot write the log"):
        Log(tmp_path / "logs")
    sections = plain(tmp_path)
    sections["node"]["log_file"] = "logs"
    with pytest.raises(UsageError, match="is a folder"):
        load_config(write(tmp_path, sections))


# The disk


def test_init_on_a_full_disk_leaves_no_cut_file(tmp_path):
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    make_artifact(tmp_path / "net.onnx")
    words = [sys.executable, "-B", "-c", "from medattn_edge.cli import main; main()", "node", "init", "net.onnx"]
    done = subprocess.run(
        [*words, "-o", "node.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
        timeout=60,
    )
    assert done.returncode == OutputError.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert not (tmp_path / "node.toml").exists()


def test_a_large_disk_with_room_for_many_series_refuses_nothing_by_default(tmp_path, monkeypatch):
    usage = type("Usage", (), {"total": 300_000_000_000, "free": 66_000_000_000})
    monkeypatch.setattr("medattn_edge.scanner.store.disk.shutil.disk_usage", lambda _: usage)
    assert not Watermark(tmp_path).look().refuses
    usage.free = 9_000_000_000
    assert Watermark(tmp_path).look().refuses
