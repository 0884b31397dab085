"""What goes wrong on a night: kill -9, a full disk, an archive that is down, damaged objects. Nothing is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.running_node import COMMAND, RunningNode, Scan  # noqa: E402

pytestmark = pytest.mark.slow

# Workers


def test_a_series_that_costs_two_workers_is_quarantined_and_the_next_one_is_segmented(model, archive, tmp_path):
    node = RunningNode(tmp_path / "node", model, {"destination": [archive.destination]})
    with node:
        for attempt in (1, 2):
            if attempt == 1:
                send(node.port, Scan(tmp_path, 1).write())
            node.wait(lambda attempt=attempt: len(node.events("claimed")) == attempt, "a claim")
            node.kill_worker()
            node.wait(lambda attempt=attempt: len(node.events("worker_lost")) == attempt, "the loss")
        assert node.wait_until_done(1)["quarantined"] == 1
        assert node.status()["quarantined"][0]["reason"] == "crashed"
        send(node.port, Scan(tmp_path, 2).write())
        assert node.wait_until_done(2)["delivered"] == 1
        assert node.status()["workers"][0]["restarts"] >= 2


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_the_series_quarantined(model, archive, tmp_path):
    more = {"destination": [archive.destination], "limits": {"job_timeout_s": 4, "retries": 0}}
    node = RunningNode(tmp_path / "node", model, more)
    with node:
        [worker] = node.workers()
        os.kill(worker, 19)  # SIGSTOP: it neither answers nor ends
        send(node.port, Scan(tmp_path, 3).write())
        assert node.wait_until_done(1)["quarantined"] == 1
        assert node.status()["quarantined"][0]["reason"] == "hung"
        send(node.port, Scan(tmp_path, 4).write())
        assert node.wait_until_done(2)["delivered"] == 1


# Destinations


def outage(model: Path, archive: Archive, folder: Path, seconds: float) -> None:
    """The archive is down while series come, then refuses, then takes them."""
    archive.down()
    node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
    scans = [Scan(folder, 10 + number) for number in range(3)]
    with node:
        for scan in scans:
            assert send(node.port, scan.write()).statuses == [0] * 6
        node.wait(lambda: len(node.events("segmented")) == 3 and node.events("delivery_failed"), "results")
        time.sleep(seconds)
        assert node.status()["deliveries"]["waiting"] == 3
        assert {line["reason"] for line in node.events("delivery_failed")} == {"no_connection"}
        archive.status = 0xA700
        archive.up()
        node.wait(lambda: node.events("delivery_failed")[-1]["reason"] == "out_of_resources", "a refusal")
        archive.status = 0
        assert node.wait_until_done(3)["delivered"] == 3
    assert archive.identities().keys() == {(scan.uid, scan.instances) for scan in scans}
    assert len(archive.segs) == 3


def test_results_wait_for_an_archive_that_is_down_and_refuses(model, archive, tmp_path):
    outage(model, archive, tmp_path, 1.0)


@pytest.mark.slow
def test_results_wait_for_an_archive_that_is_down_for_a_minute(model, archive, tmp_path):
    outage(model, archive, tmp_path, 60.0)


@pytest.mark.slow
def test_a_node_comes_up_every_time_while_results_wait_for_three_archives(model, archive, tmp_path):
    archive.down()
    three = [{**archive.destination, "name": f"pacs{number}"} for number in range(3)]
    node = RunningNode(tmp_path / "node", model, {"destination": three, "limits": {"delivery_attempts": 10_000}})
    with node:
        send(node.port, Scan(tmp_path, 15).write())
        node.wait(lambda: node.events("segmented") and node.events("delivery_failed"), "a result")
        for _ in range(10):
            # Every thread imports and connects at once: that must not depend on who is first.
            node.kill()
            node.start()
        archive.up()
        node.wait_until_done(1)
        assert node.events("uncaught") == []
    assert len(archive.segs) == 3
    assert {len(uids) for uids in archive.identities().values()} == {1}


@pytest.mark.slow
def test_what_an_archive_never_takes_is_a_dead_letter_that_can_be_requeued(model, archive, tmp_path):
    archive.status = 0xC000
    more = {"destination": [archive.destination], "limits": {"delivery_attempts": 2}}
    node = RunningNode(tmp_path / "node", model, more)
    with node:
        send(node.port, Scan(tmp_path, 20).write())
        assert node.wait_until_done(1)["failed"] == 1
        [letter] = node.root.glob("dead/*/letter.json")
        [key] = [row[0] for row in node.rows("SELECT key FROM series")]
        archive.status = 0
        words = ["requeue", key, "--config", str(node.config)]
        subprocess.run([*COMMAND, "node", *words], check=True, capture_output=True)
        node.wait(lambda: archive.segs, "the delivery after all")
        assert node.wait_until_done(1)["delivered"] == 1
        assert not letter.exists()


# Disks


def test_a_full_quota_is_told_to_the_sender_and_is_over_when_there_is_room(model, archive, tmp_path):
    scan = Scan(tmp_path, 30)
    files = scan.write()
    quota = {"min_free_gb": 0.0001, "quota_gb": 0.0101}
    node = RunningNode(tmp_path / "node", model, {"destination": [archive.destination], "limits": quota})
    ballast = node.root / "ballast"
    node.root.mkdir(mode=0o700)
    ballast.write_bytes(bytes(10_000_000))
    try:
        node.start(ready=False)
        node.wait(lambda: node.events("readiness"), "the worker")
        assert send(node.port, files).statuses == [0xA700] * 6
        assert node.get("/ready") == (503, b"disk_full\n")
        assert node.get("/live")[0] == 200
        assert node.status()["disk"]["refuses"] is True
        assert node.status()["objects"] == 0
        node.configure(limits={"min_free_gb": 0.0001, "quota_gb": 1.0})
        node.signal(1)
        node.wait(lambda: node.get("/ready")[0] == 200, "room")
        assert send(node.port, files).statuses == [0] * 6
        assert node.wait_until_done(1)["delivered"] == 1
    finally:
        node.kill()
    assert archive.identities().keys() == {(scan.uid, scan.instances)}


def test_a_series_of_which_a_full_disk_took_a_part_is_not_segmented_until_it_is_whole(model, archive, tmp_path):
    scan = Scan(tmp_path, 31)
    files = scan.write()
    limits = {"max_instances": 4}
    node = RunningNode(tmp_path / "node", model, {"destination": [archive.destination], "limits": limits})
    with node:
        assert send(node.port, files).statuses == [0] * 4 + [0xA700] * 2
        assert node.wait_until_done(1)["quarantined"] == 1
        assert node.status()["quarantined"][0]["reason"] == "too_many_instances"
        node.configure(limits={"max_instances": 10})
        node.signal(1)
        node.wait(lambda: node.events("reloaded"), "the reload")
        assert send(node.port, files).statuses == [0] * 6
        assert node.wait_until_done(1)["delivered"] == 1
    assert archive.identities().keys() == {(scan.uid, scan.instances)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 90 MB: what a result may need, and a little more."""
    where = tmp_path / "small"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", where], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.slow
def test_a_small_disk_that_runs_full_loses_nothing_that_was_acknowledged(model, archive, small_disk, tmp_path):
    node = RunningNode(tmp_path / "node", model, {"destination": [archive.destination]})
    node.root = small_disk / "root"
    node.configure()
    scans = [Scan(tmp_path, 40 + number) for number in range(3)]
    with node:
        assert send(node.port, scans[0].write()).statuses == [0] * 6
        ballast = small_disk / "ballast"
        fill(ballast)
        statuses = send(node.port, scans[1].write()).statuses
        assert 0xA700 in statuses
        assert set(statuses) <= {0, 0xA700}
        assert node.alive
        ballast.unlink()
        # Room again: what was refused is sent again, and everything ends well without a restart.
        for scan in scans:
            node.wait(lambda scan=scan: send(node.port, scan.write()).statuses == [0] * 6, "room for a series")
        node.wait(lambda: len(archive.identities()) >= 3 and not node.unfinished(), "three segmentations")
    assert archive.identities().keys() >= {(scan.uid, scan.instances) for scan in scans}
    assert {len(uids) for uids in archive.identities().values()} == {1}


def fill(path: Path) -> None:
    """Write until not a byte more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
