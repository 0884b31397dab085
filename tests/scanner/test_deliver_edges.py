"""What a destination may answer, status by status, and what is told of every try: counted, timed and in order."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("highdicom", reason="the extra node is not installed")
pytest.importorskip("cryptography", reason="the extra dev is not installed")

from medattn_edge.reasons import DELIVERY_REASONS  # noqa: E402
from medattn_edge.scanner.config.sections import CommitmentPeer, Destination  # noqa: E402
from medattn_edge.scanner.deliver import send as sending  # noqa: E402
from medattn_edge.scanner.deliver.commitment import CommitmentAnswers  # noqa: E402
from medattn_edge.scanner.deliver.deliverer import Deliverer  # noqa: E402
from medattn_edge.scanner.deliver.folder import probe, put  # noqa: E402
from medattn_edge.scanner.deliver.send import DeliveryRefused, echo  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.store.transitions import State  # noqa: E402
from tests.support.archive_peer import Archive, make_results, segment  # noqa: E402
from tests.support.commitment_peer import CT, CommitmentScu  # noqa: E402
from tests.support.durable_node import POLICY, Node  # noqa: E402

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    with Archive() as made:
        yield made


def at(archive: Archive, **changes: Any) -> Destination:
    return replace(Destination("pacs", host="127.0.0.1", port=archive.port, ae_title="PACS", timeout_s=5.0), **changes)


class Told:
    """A log and its lines."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.log = Log(self.text, allow=(*DELIVERY_REASONS, "pacs", "disk", "CT1"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.getvalue().splitlines()]


# Archives

ANSWERS = [
    (0x0000, ""), (0xB000, ""), (0xB006, ""), (0xB007, ""), (0x0111, ""),
    (0xA700, "out_of_resources"), (0xA7FF, "out_of_resources"), (0xA900, "data_set_mismatch"),
    (0xA9FF, "data_set_mismatch"), (0xC000, "not_understood"), (0xC123, "not_understood"), (0xCFFF, "not_understood"),
    (0x0122, "class_not_supported"), (0x0124, "not_authorised"), (0x0110, "refused"), (0x0112, "refused"),
    (0xA600, "refused"), (0xA800, "refused"), (0xBFFF, ""), (0xD000, "refused"), (0xFE00, "refused"),
]  # fmt: skip


def test_every_status_is_taken_for_what_the_standard_says(archive, results):
    path, told = results["seg.dcm"], {}
    with pytest.MonkeyPatch.context() as patched:
        ids: list[int] = []
        opened = sending.Archive(at(archive), [path], "MEDATTN")
        for status, _ in ANSWERS:
            patched.setattr(
                archive, "answer", lambda event, status=status: (ids.append(event.request.MessageID), status)[1]
            )
            try:
                sent, told[status] = opened.send(path), ""
            except DeliveryRefused as refusal:
                sent, told[status] = refusal.status, refusal.reason
            assert sent == status
        assert opened.open
        opened.close()
        assert not opened.open
    assert told == dict(ANSWERS)
    assert ids == list(range(1, len(ANSWERS) + 1))


def test_each_object_is_waited_for_as_long_as_it_takes_on_a_slow_line(archive, results, tmp_path):
    large = pydicom.dcmread(results["key_1.dcm"])
    large.PixelData = bytes(500_000)
    large.save_as(tmp_path / "large.dcm")
    size = (tmp_path / "large.dcm").stat().st_size
    opened = sending.Archive(at(archive), [tmp_path / "large.dcm"], "MEDATTN")
    try:
        assert opened.send(tmp_path / "large.dcm") == 0
        assert opened._association.dimse_timeout == 5.0 + size / 125_000
        for name in ("network_timeout", "acse_timeout"):
            assert getattr(opened._association, name) == 5.0
    finally:
        opened.close()


def test_files_that_are_damaged_or_gone_are_told_apart_and_the_rest_goes(archive, results, tmp_path):
    damaged, gone, whole = tmp_path / "damaged.dcm", tmp_path / "gone.dcm", tmp_path / "whole.dcm"
    damaged.write_bytes(b"no DICOM")
    shutil.copy(results["seg.dcm"], whole)
    opened = sending.Archive(at(archive), [damaged, gone, whole], "MEDATTN")
    try:
        for path, reason in ((damaged, "result_damaged"), (gone, "result_missing")):
            with pytest.raises(DeliveryRefused) as raised:
                opened.send(path)
            assert raised.value.reason == reason
        assert opened.send(whole) == 0
        for change, reason in ((whole.unlink, "result_missing"), (lambda: whole.write_bytes(b"x"), "result_damaged")):
            change()
            with pytest.raises(DeliveryRefused) as raised:
                opened.send(whole)
            assert raised.value.reason == reason
    finally:
        opened.close()
    nothing = sending.Archive(at(archive, port=1), [damaged, gone], "MEDATTN")  # nobody is called for that
    assert nothing.open
    with pytest.raises(DeliveryRefused, match="result_damaged"):
        nothing.send(damaged)
    nothing.close()


def test_an_echo_that_is_refused_or_broken_off_is_told(archive):
    from pynetdicom import evt

    echo(at(archive), "MEDATTN")
    for answer, reason in ((lambda event: 0x0122, "class_not_supported"), (lambda event: 0xC000, "not_understood")):
        archive.server.bind(evt.EVT_C_ECHO, answer)
        with pytest.raises(DeliveryRefused) as raised:
            echo(at(archive), "MEDATTN")
        assert raised.value.reason == reason
        archive.server.unbind(evt.EVT_C_ECHO, answer)

    def hang_up(event: Any) -> int:
        event.assoc.abort()
        return 0

    archive.server.bind(evt.EVT_C_ECHO, hang_up)
    with pytest.raises(DeliveryRefused) as raised:
        echo(at(archive), "MEDATTN")
    assert raised.value.reason == "aborted"
    archive.server.unbind(evt.EVT_C_ECHO, hang_up)


# Folders


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "folder_full"),
        (errno.EDQUOT, "folder_full"),
        (errno.EROFS, "folder_unwritable"),
        (errno.EIO, "folder_unwritable"),
    ],
)
def test_a_folder_that_takes_nothing_says_why(tmp_path, monkeypatch, number, reason):
    (tmp_path / "seg.dcm").write_bytes(b"seg")
    (tmp_path / "out").mkdir()

    def fail(*about: Any) -> None:
        raise OSError(number, os.strerror(number))

    for act, patch in (
        (lambda: put(tmp_path / "out", KEY, 1, [tmp_path / "seg.dcm"]), (shutil, "copyfile")),
        (lambda: put(tmp_path / "out", KEY, 2, [tmp_path / "seg.dcm"]), (os, "fsync")),
        (lambda: probe(tmp_path / "out"), (os, "fsync")),
        (lambda: probe(tmp_path / "out"), (tempfile, "NamedTemporaryFile")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(*patch, lambda *about, **more: fail())
            with pytest.raises(DeliveryRefused) as raised:
                act()
        assert raised.value.reason == reason
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_folder_gets_every_version_in_a_folder_of_its_own_and_says_what_is_missing(tmp_path):
    (tmp_path / "seg.dcm").write_bytes(b"seg")
    (tmp_path / "out").mkdir()
    for version in (1, 2, 12):
        put(tmp_path / "out", KEY, version, [tmp_path / "seg.dcm"])
    assert {path.name for path in (tmp_path / "out" / KEY).iterdir()} == {"v1", "v2", "v12"}
    with pytest.raises(DeliveryRefused, match="result_missing"):
        put(tmp_path / "out", KEY, 1, [tmp_path / "gone.dcm"])
    (tmp_path / "out" / KEY / "v1" / "seg.dcm").write_bytes(b"old")
    put(tmp_path / "out", KEY, 1, [tmp_path / "seg.dcm"])
    assert (tmp_path / "out" / KEY / "v1" / "seg.dcm").read_bytes() == b"seg"


# What is told


def test_every_try_is_told_with_its_number_its_pause_and_its_status(tmp_path, results):
    node = Node(tmp_path / "node", replace(POLICY, delivery_attempts=3))
    key = segment(node, results, 1, "pacs", names=["seg.dcm"])
    told = Told()
    with Archive(answer=lambda event: 0xA700) as archive:
        for _ in range(3):
            assert Deliverer(at(archive), node.custody, told.log, "ME").deliver_due() == 1
            node.pass_time(1000)
    node.store.close()
    first, second, last = told.lines
    for number, line in enumerate((first, second), start=1):
        assert (line["event"], line["level"], line["attempts"]) == ("delivery_failed", "warning", number)
        assert 2.5 * 2 ** (number - 1) <= line["next_try_s"] <= 5 * 2 ** (number - 1)
    assert "next_try_s" not in last
    assert (last["event"], last["level"], last["attempts"]) == ("delivery_dead", "error", 3)
    for line in told.lines:
        assert (line["reason"], line["status"], line["key"]) == ("out_of_resources", 0xA700, key)
        assert (line["version"], line["destination"]) == (1, "pacs")


def test_a_delivery_is_told_with_its_objects_and_one_without_a_status_has_none(node, tmp_path):
    job = node.job()
    node.segment(job, "disk")
    told = Told()
    destination = Destination("disk", folder=tmp_path / "out")
    deliverer = Deliverer(destination, node.custody, told.log, "ME")
    assert deliverer.deliver_due() == 1
    (tmp_path / "out").mkdir()
    node.pass_time(10)
    stopping = threading.Event()
    stopping.set()
    assert deliverer.deliver_due(stopping) == 0
    assert deliverer.deliver_due(threading.Event()) == 1
    failed, delivered = told.lines
    assert "status" not in failed
    assert (delivered["event"], delivered["level"], delivered["count"]) == ("delivered", "info", 1)
    assert 0 <= delivered["seconds"] < 60
    assert node.store.series.state_of(job.key) is State.DELIVERED


def test_a_thread_that_was_overtaken_says_so_and_changes_nothing(node, tmp_path):
    told, acts = Told(), []

    class Rival(Deliverer):
        """Another thread ends the delivery while this one is at it."""

        def _try_all(self, due: Any, *rest: Any) -> int:
            for delivery, _ in due:
                acts.append(node.store.deliveries.record_delivered(delivery))
            return super()._try_all(due, *rest)

    for series, folder in ((1, tmp_path), (2, tmp_path / "gone")):
        node.segment(node.job(series), "disk")
        assert Rival(Destination("disk", folder=folder), node.custody, told.log, "ME").deliver_due() == 1
        assert node.store.series.state_of(node.key(series)) is State.DELIVERED
    assert len(acts) == 2
    assert [(line["event"], line["level"]) for line in told.lines] == [("delivery_overtaken", "warning")] * 2


def test_a_result_that_is_gone_is_told_by_who_has_it_made_again(node, tmp_path):
    job = node.job()
    node.segment(job, "disk", "pacs")
    (node.spool.result(job.key, 1) / "seg.dcm").unlink()
    told = Told()
    for name in ("disk", "pacs"):
        assert Deliverer(Destination(name, folder=tmp_path), node.custody, told.log, "ME").deliver_due() == 0
    [line] = told.lines
    assert (line["event"], line["level"], line["destination"]) == ("result_lost", "error", "disk")


def test_every_answer_to_commitment_is_told_with_its_number_and_its_pause(tmp_path):
    node = Node(tmp_path / "node", replace(POLICY, delivery_attempts=3))
    node.keep(1, 0)
    commitments, told = node.custody.commitments, Told()
    commitments.requests.record("CT1", "2.25.7", [(CT, "1.2.3.1.0"), (CT, "1.9")], 9)
    with CommitmentScu("CT1") as scu:
        scu.status = 0x0110
        peer = CommitmentPeer(**scu.peer)
        answers = CommitmentAnswers(peer, 30.0, {CT}, commitments, told.log, "MEDATTN", lambda number: None)
        stopping = threading.Event()
        stopping.set()
        assert answers.answer_due(stopping) == 1  # due, and not tried
        for _ in range(2):
            assert answers.answer_due() == 1
            node.pass_time(1000)
        scu.status = 0
        assert answers.answer_due() == 1
        assert answers.answer_due() == 0
        assert [one.event for one in scu.answers] == [2]
    first, second, last = told.lines
    for number, line in enumerate((first, second), start=1):
        assert (line["event"], line["level"], line["attempts"]) == ("commitment_failed", "warning", number)
        assert (line["reason"], line["status"], line["destination"]) == ("refused", 0x0110, "CT1")
        assert 2.5 * 2 ** (number - 1) <= line["next_try_s"] <= 5 * 2 ** (number - 1)
    assert (last["event"], last["level"], last["count"], last["failures"]) == ("commitment_answered", "warning", 1, 1)
    assert node.custody.snapshot().commitments == {"waiting": 0, "answered": 1, "dead": 0}
    assert node.custody.snapshot().committed == 1
    node.store.close()
