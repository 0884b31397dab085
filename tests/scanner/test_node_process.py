"""The node as one command: many senders, late images, signals, reloads, and a patient in its objects only."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.scanner.config.node_config import Destination, Model, NodeConfig  # noqa: E402
from medattn_edge.scanner.node import Node  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.store.disk import Watermark  # noqa: E402
from medattn_edge.scanner.work.dispatch import ROOM  # noqa: E402
from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.running_node import RunningNode, Scan, command  # noqa: E402


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    with Archive() as started:
        yield started


@pytest.fixture(scope="module")
def running(model: Path, archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node for the tests that leave it as it was."""
    with RunningNode(tmp_path_factory.mktemp("node"), model, {"destination": [archive.destination]}) as node:
        yield node


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def segs_of(archive: Archive, scan: Scan) -> dict[frozenset[str], set[str]]:
    """Which instances -> the identities of the segmentations of them."""
    return {instances: uids for (series, instances), uids in archive.identities().items() if series == scan.uid}


def test_twenty_interleaved_series_from_four_associations_become_twenty_segmentations(running, archive, folder):
    scans = [Scan(folder, 100 + number, slices=3) for number in range(20)]
    sent = []

    def sender(number: int) -> None:
        columns = [scan.write() for scan in scans[number::4]]
        sent.append(send(running.port, [path for row in zip(*columns, strict=True) for path in row]))

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(4)]
    for scan in scans:
        scan.write()  # outside the race
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.statuses for one in sent] == [[0] * 15] * 4
    found = running.wait(
        lambda: len([one for one in scans if segs_of(archive, one)]) == 20 and archive.identities(), "20 segmentations"
    )
    for scan in scans:
        assert {instances for series, instances in found if series == scan.uid} == {scan.instances}
        assert len(found[scan.uid, scan.instances]) == 1
    assert len({uid for uids in found.values() for uid in uids}) >= 20


def test_the_same_series_sent_twice_has_one_identity_on_another_node_too(running, archive, model, folder):
    scan = Scan(folder, 120)
    assert send(running.port, scan.write()).statuses == [0] * 6
    running.wait(lambda: segs_of(archive, scan), "the segmentation")
    versions = sum(running.status()["states"].values())
    assert send(running.port, scan.write()).statuses == [0] * 6
    after = Scan(folder, 129)  # sent later, it is segmented later than the other would be, were that taken for new
    send(running.port, after.write())
    running.wait(lambda: segs_of(archive, after), "the segmentation of the next series")
    assert sum(running.status()["states"].values()) == versions + 1
    [uids] = segs_of(archive, scan).values()
    assert len(uids) == 1
    assert len([seg for seg in archive.segs if str(seg.SOPInstanceUID) in uids]) == 1

    with RunningNode(folder / "another", model, {"destination": [archive.destination]}) as node:
        send(node.port, scan.write())
        node.wait_until_done(1)
    assert len([seg for seg in archive.segs if str(seg.SOPInstanceUID) in uids]) == 2


def test_a_late_image_makes_a_new_version_of_all_images(running, archive, folder):
    scan = Scan(folder, 121)
    files = scan.write()
    send(running.port, files[:5])
    running.wait(lambda: len(segs_of(archive, scan)) == 1, "the first version")
    send(running.port, files[5:])
    running.wait(lambda: len(segs_of(archive, scan)) == 2, "the second version")
    first, second = sorted(segs_of(archive, scan), key=len)
    assert second == scan.instances
    assert first < second
    assert len(set().union(*segs_of(archive, scan).values())) == 2
    # The archive has an object a moment before the node has written down that it does.
    running.wait(lambda: running.unfinished() == 0, "the second version on record as delivered")
    versions = running.rows("SELECT key FROM series WHERE series_uid = '" + scan.uid + "'")
    states = running.rows(f"SELECT version, state FROM versions WHERE key = '{versions[0][0]}' ORDER BY version")
    assert states == [(1, "delivered"), (2, "delivered")]


def test_no_process_of_the_node_has_torch_or_the_onnx_package(running):
    [worker] = running.workers()
    assert running.status()["workers"][0]["pid"] == worker
    mapped = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (running.pid, worker)}
    assert "onnxruntime" in mapped[worker]  # or this test would look at the wrong process
    for maps in mapped.values():
        for package in ("/torch/", "/onnx/", "/safetensors/", "/onnxscript/"):
            assert package not in maps


def test_node_status_tells_the_same_of_a_running_and_of_an_ended_node(model, archive, folder):
    node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
    with node:
        send(node.port, Scan(folder, 122).write())
        node.wait_until_done(1)
        alive = command("node", "status", "--config", node.config, "--json")
        assert node.end() == 0
    ended = command("node", "status", "--config", node.config, "--json")
    assert (alive.returncode, ended.returncode) == (0, 0), alive.stderr + ended.stderr
    before, after = json.loads(alive.stdout), json.loads(ended.stdout)
    assert (before["running"], before["ready"], after["running"], after["ready"]) == (True, True, False, False)
    for name in ("states", "deliveries", "objects", "recent"):
        assert before[name] == after[name]
    assert before["states"]["delivered"] == 1


def test_the_log_tells_the_start_and_every_step_of_a_series_with_its_figures(running, archive, folder):
    scan = Scan(folder, 123)
    send(running.port, scan.write())
    running.wait(lambda: segs_of(archive, scan), "the segmentation")
    [[key]] = running.rows(f"SELECT key FROM series WHERE series_uid = '{scan.uid}'")

    def told() -> list[dict[str, object]]:
        return [line for line in running.log() if line.get("key") == key]

    running.wait(lambda: told()[-1]["event"] == "delivered", "the delivery in the log")
    complete, claimed, segmented, delivered = told()
    assert {line["level"] for line in told()} == {"info"}
    assert (complete["event"], claimed["event"], segmented["event"]) == ("complete", "claimed", "segmented")
    assert (claimed["version"], claimed["attempt"], claimed["model"]) == (1, 1, "lungs")
    assert (segmented["version"], segmented["model"], "volume" in segmented) == (1, "lungs", False)
    assert 0 < segmented["seconds"] < 60
    assert (delivered["version"], delivered["destination"], delivered["count"]) == (1, "pacs", 1)
    assert 0 < delivered["seconds"] < 60

    [recovered] = running.events("recovered")
    counts = ("unfinished", "requeued", "quarantined", "adopted", "unreadable", "gone", "results_lost")
    assert {name: recovered[name] for name in counts} == dict.fromkeys(counts, 0)
    [model] = running.events("model")
    assert (model["model"], model["device"]) == ("lungs", "cpu")
    assert len(model["sha256"]) == 64
    assert running.events("release") == []
    listening = {line["listener"]: line["port"] for line in running.events("listening")}
    assert listening == {"status": running.status_port, "plain": running.port}
    [up] = running.events("worker_ready")
    assert (up["device"], [up["pid"]]) == ("cpu", running.workers())
    [ready] = running.events("readiness")
    assert (ready["ready"], 0 < ready["seconds"] < 120) == (True, True)
    [cleaned] = running.events("cleaned")
    assert (cleaned["series"], cleaned["objects"], cleaned["bytes"]) == (0, 0, 0)
    assert running.events("no_room") == running.events("tick_failed") == running.events("draining") == []


def test_another_node_on_the_same_root_is_refused(running):
    done = command("node", "--config", running.config)
    assert done.returncode == 3
    assert "another node" in done.stderr


# Without a network


def test_a_folder_in_and_a_folder_out_need_no_archive(model, folder):
    (folder / "incoming").mkdir()
    (folder / "results").mkdir()
    node = RunningNode(folder / "node", model, {"destination": [{"name": "shelf", "folder": folder / "results"}]})
    node.configure(
        receive=None, watch={"folder": folder / "incoming", "poll_s": 0.1, "settle_s": 0.3, "after": "remove"}
    )
    scan = Scan(folder, 150)
    with node:
        for path in scan.write():
            path.rename(folder / "incoming" / path.name)
        (folder / "incoming" / "notes.txt").write_text("not for you")
        node.wait_until_done(1)
        [seg] = (folder / "results").glob("*/v1/seg.dcm")
        assert pydicom.dcmread(seg).ReferencedSeriesSequence[0].SeriesInstanceUID == scan.uid
        assert [path.name for path in (folder / "incoming").iterdir()] == ["notes.txt"]
        assert [line["listener"] for line in node.events("listening")] == ["status"]


# In this process


def test_a_node_with_a_worker_is_ready_while_there_is_room_for_a_result(node, model, tmp_path, monkeypatch):
    config = NodeConfig(tmp_path / "node", (Model("lungs", model, threads=1),), (Destination("a", folder=tmp_path),))
    made = Node(Path("node.toml"), config, node.custody, Log(io.StringIO()))
    pool = made._workers
    pool.start()
    try:
        limit = time.monotonic() + 60
        while not pool.ready:
            assert time.monotonic() < limit
            time.sleep(0.02)
        [worker] = pool.seen()
        assert (worker.device, worker.ready, worker.busy, worker.restarts) == ("cpu", True, False, 0)
        assert worker.pid
        assert worker.rss_mb > 20
        assert (pool.why, pool.broken()) == ("", "")
        for free, least, why in ((ROOM, 0, ""), (ROOM - 1, 0, "disk_full"), (ROOM, ROOM + 1, "disk_full")):
            node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=least))
            usage = SimpleNamespace(total=10 * ROOM, free=free)
            with monkeypatch.context() as patched:
                patched.setattr(shutil, "disk_usage", lambda folder, usage=usage: usage)
                assert (made.health().why, made.health().ready) == (why, not why)
    finally:
        assert pool.finish(time.monotonic() + 10)
    assert (pool.ready, pool.seen()) == (False, ())


# What nobody may read

SECRETS = {
    "PatientName": "Geheim^Patrizia",
    "PatientID": "SECRETID4711",
    "PatientBirthDate": "19610213",
    "AccessionNumber": "ACCNO8899",
    "StudyDescription": "Verdacht auf XYZZY",
    "SeriesDescription": "PLUGH Patrizia",
    "ReferringPhysicianName": "Doktor^Unbekannt",
    "InstitutionName": "Klinikum Nirgendwo",
}


def test_nothing_that_identifies_a_patient_is_anywhere_but_in_the_objects(model, folder):
    scan, broken = Scan(folder, 160, changes=SECRETS), Scan(folder, 161, changes=SECRETS)
    archive = Archive()  # down, so that deliveries fail in the log as well
    node = RunningNode(folder / "node", model, {"destination": [archive.destination]})
    node.configure(watch={"folder": folder / "incoming", "poll_s": 0.1, "settle_s": 0.1})
    (folder / "incoming").mkdir()
    damaged = broken.write()[0].read_bytes()
    (folder / "incoming" / f"{SECRETS['PatientName']}.dcm").write_bytes(damaged[: len(damaged) // 3])
    (folder / "incoming" / f"{SECRETS['PatientID']}.dcm").write_bytes(damaged[:500])
    said = b""
    with node:
        send(node.port, scan.write())
        # A series with a hole, the same object with other bytes, and a stranger who calls himself by a name.
        send(node.port, [*broken.write()[:2], *broken.write()[4:]])
        changed = pydicom.dcmread(broken.write()[0])
        changed.PatientComments = "Geheim"
        send(node.port, [changed])
        send(node.port, broken.write(), calling="GEHEIM")
        node.wait(lambda: node.events("delivery_failed") and node.events("quarantined"), "something that fails")
        node.wait(lambda: node.events("refused"), "the damaged files")
        archive.up()
        try:
            node.wait_until_done(2)
        finally:
            archive.down()
        for path in ("/", "/status.json", "/metrics", "/ready"):
            code, body = node.get(path)
            assert code == 200
            said += body
        shown = command("node", "status", "--config", node.config)
        said += (shown.stdout + shown.stderr).encode()
        said += b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (node.pid, *node.workers()))
        assert node.end() == 0
    said += node.log_file.read_bytes() + (node.folder / "stderr.txt").read_bytes()
    said += "\n".join(str(path) for path in node.root.rglob("*")).encode()
    uids = [scan.uid, broken.uid, scan.study, *scan.instances, *broken.instances]
    uids += [str(seg[name].value) for seg in archive.segs for name in ("SOPInstanceUID", "SeriesInstanceUID")]
    assert len(uids) > 15
    words = {word for value in SECRETS.values() for word in value.replace("^", " ").split() if len(word) > 4}
    found = [word for word in (*uids, *words) if word.lower().encode() in said.lower()]
    assert found == []
    # The other way round: it is all in the objects, so that the search would find it.
    kept = b"".join(path.read_bytes() for path in node.root.rglob("*.dcm"))
    assert SECRETS["PatientName"].encode() in kept
    assert archive.segs[0].PatientName == SECRETS["PatientName"]


def test_the_folder_of_the_node_is_for_its_user_alone(running):
    assert running.root.stat().st_mode & 0o077 == 0
