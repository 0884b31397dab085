"""SIGTERM drains within its limit; SIGHUP reads the file again, and a broken file changes nothing."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.running_node import RunningNode, Scan, command  # noqa: E402


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    with Archive() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_sigterm_finishes_what_runs_and_the_next_start_does_the_rest(model, folder):
    with Archive() as archive:
        node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
        scans = [Scan(folder, 130 + number) for number in range(4)]
        with node:
            for scan in scans:
                assert send(node.port, scan.write()).statuses == [0] * 6
            node.wait(lambda: node.events("claimed"), "work has begun")
            began = time.monotonic()
            assert node.end() == 0
            assert time.monotonic() - began < 20
            claimed = len(node.events("claimed"))
            states = dict(node.rows("SELECT state, COUNT(*) FROM versions GROUP BY state"))
            assert states.pop("delivered") == claimed
            assert set(states) <= {"queued", "receiving"}
            assert node.events("ended")[-1]["busy"] is False
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", node.port), 5)
            node.start()
            node.wait_until_done(4)
        assert archive.identities().keys() == {(scan.uid, scan.instances) for scan in scans}
        assert len(archive.segs) == 4


@pytest.mark.slow
def test_sigterm_ends_within_the_limit_while_the_archive_sleeps(model, folder):
    with Archive() as archive:
        archive.slow_s = 6.0
        more = {"destination": [archive.destination], "limits": {"drain_s": 1.5}}
        node = RunningNode(folder / "node", model, more)
        scan = Scan(folder, 135)
        with node:
            send(node.port, scan.write())
            node.wait(lambda: node.events("segmented"), "a result")
            began = time.monotonic()
            assert node.end() == 0
            assert time.monotonic() - began < 5
            archive.slow_s = 0
            node.start()
            node.wait_until_done(1)
        assert {len(uids) for uids in archive.identities().values()} == {1}


@pytest.mark.slow
def test_a_second_sigterm_does_no_harm_and_ctrl_c_is_the_same(model, archive, folder):
    node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
    with node:
        node.signal(signal.SIGTERM)
        assert node.end() == 0
        node.start()
        node.signal(signal.SIGINT)
        assert node.process is not None
        assert node.process.wait(30) == 0
    assert "Traceback" not in (node.folder / "stderr.txt").read_text()


def test_sighup_takes_over_a_route_and_a_destination_and_keeps_the_old_ones_when_the_file_is_broken(model, folder):
    (folder / "results").mkdir()
    route = {"name": "lungs", "artifact": model, "threads": 1}
    with Archive() as archive:
        node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
        node.configure(model=[{**route, "modality": "MR"}])
        scans = [Scan(folder, 140 + number) for number in range(3)]
        with node:
            worker = node.workers()
            send(node.port, scans[0].write())
            node.wait_until_done(1)
            [refused] = node.status()["quarantined"]
            assert refused["reason"] == "no_model"

            node.configure(
                model=[{**route, "modality": "CT"}],
                destination=[{"name": "shelf", "folder": folder / "results"}],
            )
            node.signal(signal.SIGHUP)
            node.wait(lambda: node.events("reloaded"), "the reload")
            assert node.workers() == worker  # the same models: no reason for another process
            done = command("node", "requeue", refused["key"], "--config", node.config)
            assert done.returncode == 0, done.stderr
            assert node.wait_until_done(1)["delivered"] == 1
            send(node.port, scans[1].write())
            assert node.wait_until_done(2)["delivered"] == 2
            assert len(list((folder / "results").glob("*/v1/seg.dcm"))) == 2
            assert archive.segs == []

            good = node.config.read_text()
            for broken in (good.replace("[[destination]]", "[[destnation]]"), good[:-40] + "[[", ""):
                before = len(node.events("reload_refused"))
                node.config.write_text(broken)
                node.signal(signal.SIGHUP)
                node.wait(lambda before=before: len(node.events("reload_refused")) > before, "the refusal")
            node.config.write_text(good)
            send(node.port, scans[2].write())
            assert node.wait_until_done(3)["delivered"] == 3
            assert len(node.events("reloaded")) == 1


def test_limits_of_a_worker_bring_up_another_one_and_all_other_limits_do_not(model, archive, folder):
    node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
    with node:
        first = node.workers()
        for limits, count in (({"quiet_s": 0.3}, 1), ({"job_timeout_s": 50.0}, 2)):
            node.configure(limits=limits)
            node.signal(signal.SIGHUP)
            node.wait(lambda count=count: len(node.events("reloaded")) == count, "the reload")
            assert (node.workers() == first) == (count == 1)


@pytest.mark.slow
def test_sighup_brings_another_model_up_and_opens_and_closes_doors(model, folder):
    route = {"name": "lungs", "artifact": model, "threads": 1}
    with Archive() as archive:
        node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
        with node:
            [worker] = node.workers()
            receive = {"port": node.port, "calling_ae": ["SCANNER2"]}
            node.configure(model=[{**route, "kind": "labelmap"}], receive=receive)
            node.signal(signal.SIGHUP)
            node.wait(lambda: node.events("reloaded"), "the reload")
            node.wait(lambda: node.get("/ready")[0] == 200, "ready again")
            assert worker not in node.workers()
            scan = Scan(folder, 145)
            assert not send(node.port, scan.write()).accepted
            assert send(node.port, scan.write(), calling="SCANNER2").statuses == [0] * 6
            node.wait_until_done(1)
        assert {one.SOPClassUID for one in archive.stored} == {"1.2.840.10008.5.1.4.1.1.66.7"}
