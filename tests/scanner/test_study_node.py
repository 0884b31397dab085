"""A node with a network of two channels, as its users have it: one segmentation for each study, or a reason."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.running_node import RunningNode, Scan, command, tiny_model  # noqa: E402

CHANNELS = [{"name": "t1", "description": "*T1*"}, {"name": "flair", "description": "*FLAIR*"}]


@pytest.fixture
def running(archive: Archive, tmp_path: Path) -> Iterator[RunningNode]:
    network = tiny_model(in_channels=2, channels=("t1", "flair"))
    glioma = {"name": "glioma", "artifact": network, "threads": 1, "channels": CHANNELS}
    more = {"destination": [archive.destination], "model": [glioma]}
    with RunningNode(tmp_path / "node", network, more) as node:
        yield node


def series(folder: Path, study: int, description: str, **changes: object) -> Scan:
    """One series of a study."""
    number = 10 * study + (description != "AX T1")
    uids = {"StudyInstanceUID": f"1.2.3.{study}", "FrameOfReferenceUID": f"1.2.4.{study}"}
    return Scan(folder, number, changes={**uids, "SeriesDescription": description, **changes})


@pytest.mark.slow
def test_a_study_becomes_one_segmentation_through_a_kill_and_one_without_a_channel_is_told(running, archive, tmp_path):
    t1, flair, lonely = (series(tmp_path, *about) for about in ((1, "AX T1"), (1, "AX FLAIR"), (2, "AX T1")))
    for scan in (t1, lonely):
        assert send(running.port, scan.write()).statuses == [0] * 6
    running.wait(lambda: running.status()["states"]["joined"] == 2, "two channels on record")
    running.kill()
    assert not archive.segs
    running.start()
    assert send(running.port, flair.write()).statuses == [0] * 6
    running.wait(lambda: archive.segs, "the segmentation")
    [waiting] = running.status()["gathering"]
    assert (waiting["model"], waiting["detail"]) == ("glioma", "no series for flair")
    running.configure(limits={"max_study_wait_s": 0.1})
    running.signal(signal.SIGHUP)
    states = running.wait_until_done(5)
    assert {name: count for name, count in states.items() if count} == {"joined": 3, "delivered": 1, "quarantined": 1}
    # Of the first channel, and once.
    assert set(archive.identities()) == {(t1.uid, t1.instances)}
    [seg] = archive.segs
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3.1", "1.2.4.1")
    status = running.status()
    [quarantined] = status["quarantined"]
    assert (quarantined["reason"], quarantined["detail"]) == ("channel_missing", "no series for flair")
    [whole] = [one for one in status["recent"] if one["state"] == "delivered"]
    assert (whole["model"], [one["channel"] for one in whole["channels"]]) == ("glioma", ["t1", "flair"])
    members = {one["key"] for one in status["recent"] if one["study"] == whole["key"]}
    assert {one["key"] for one in whole["channels"]} == members
    assert {line.get("reason") for line in running.events("quarantined")} == {"channel_missing"}
    assert len(running.events("joined")) == 3
    page = running.get("/")[1].decode()
    assert "no series for flair" in page
    assert f"in study <code>{whole['key'][:8]}</code>" in page
    said = command("node", "status", "--config", running.config).stdout
    assert f"in quarantine: {quarantined['key']} v1: channel_missing (no series for flair)" in said
    # The missing one comes after all.
    running.configure(limits={})
    running.signal(signal.SIGHUP)
    running.wait(lambda: len(running.events("reloaded")) == 2, "the configuration")
    late = series(tmp_path, 2, "AX FLAIR")
    send(running.port, late.write())
    running.wait(lambda: (lonely.uid, lonely.instances) in archive.identities(), "the segmentation of the second study")
    # A correction of the second channel is another segmentation of the study.
    corrected = Scan(tmp_path / "corrected", flair.number, changes={**flair.changes, "SliceThickness": "9"})
    send(running.port, corrected.write())
    running.wait(lambda: len(archive.identities()[t1.uid, t1.instances]) == 2, "the segmentation of the correction")


def test_channels_of_two_patients_are_refused_and_the_log_names_nobody(running, archive, tmp_path):
    scans = series(tmp_path, 3, "AX T1"), series(tmp_path, 3, "AX FLAIR", PatientID="PHANTOM-2")
    for scan in scans:
        send(running.port, scan.write())
    assert running.wait_until_done(3)["quarantined"] == 1
    [quarantined] = running.status()["quarantined"]
    assert (quarantined["reason"], quarantined["detail"]) == ("other_patient", "flair has another PatientID than t1")
    assert not archive.segs
    everything = running.log_file.read_text() + running.get("/")[1].decode() + running.get("/status.json")[1].decode()
    assert "PHANTOM" not in everything
    assert "1.2.3.3" not in everything
