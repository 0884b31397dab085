"""Delivery to archives on loopback and to folders: all of a result arrives, and under one identity."""

from __future__ import annotations

import errno
import io
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("highdicom", reason="the extra node is not installed")
pytest.importorskip("cryptography", reason="the extra dev is not installed")

from medattn_edge.reasons import DELIVERY_REASONS  # noqa: E402
from medattn_edge.scanner.config.sections import Destination  # noqa: E402
from medattn_edge.scanner.deliver.deliverer import Deliverer  # noqa: E402
from medattn_edge.scanner.deliver.folder import probe  # noqa: E402
from medattn_edge.scanner.deliver.send import DeliveryRefused, echo  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.store.records import Output  # noqa: E402
from medattn_edge.scanner.store.transitions import DeliveryState, State  # noqa: E402
from tests.support import ROOT  # noqa: E402
from tests.support.archive_peer import (  # noqa: E402
    CAPTURE,
    EXPLICIT,
    IMPLICIT,
    LABELMAP,
    MAPS,
    RTSTRUCT,
    SEG,
    SR,
    Archive,
    make_certificates,
    make_results,
    segment,
)

# The library leaves the socket of a refused connection to the garbage collector.
refused = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("pem"))


def archive_at(port, name="pacs", timeout_s=5.0, **more):
    return Destination(name, host="127.0.0.1", port=port, ae_title="PACS", timeout_s=timeout_s, **more)


def deliver(node, destination, log=None):
    return Deliverer(
        destination, node.custody, log or Log(io.StringIO(), allow=DELIVERY_REASONS), "MEDATTN"
    ).deliver_due()


def seen(node):
    """(destination, state, attempts, reason) of every delivery."""
    return [
        (one.destination, one.state, one.attempts, one.reason)
        for version in node.store.snapshot().recent
        for one in version.deliveries
    ]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_every_output_of_a_result_arrives_once_with_its_own_identity_and_syntax(node, results):
    key = segment(node, results, 1, "pacs")
    with Archive() as archive:
        assert deliver(node, archive_at(archive.port)) == 1
        assert deliver(node, archive_at(archive.port)) == 0
    expected = {str(pydicom.dcmread(path).SOPInstanceUID) for path in results.values()}
    assert set(archive.uids) == expected
    assert len(archive.uids) == 3
    assert {(kind, syntax) for _, kind, syntax in archive.stored} == {
        (kind, EXPLICIT) for kind in (SEG, LABELMAP, CAPTURE)
    }
    for dataset in archive.datasets:
        [path] = [one for one in results.values() if pydicom.dcmread(one).SOPInstanceUID == dataset.SOPInstanceUID]
        assert dataset == pydicom.dcmread(path)
    assert (archive.associations, archive.calling) == (1, "MEDATTN")
    assert node.store.series.state_of(key) is State.DELIVERED


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_contours_report_and_maps_go_with_the_segmentation_in_the_syntax_that_an_archive_takes(node, tmp_path, syntax):
    results = make_results(tmp_path, planning=True)
    segment(node, results, 1, "pacs")
    with Archive(classes=(SEG, RTSTRUCT, SR, MAPS), syntaxes=[syntax, IMPLICIT]) as archive:
        assert deliver(node, archive_at(archive.port)) == 1
    assert {kind for _, kind, _ in archive.stored} == {SEG, RTSTRUCT, SR, MAPS}
    content = {SEG: "PixelData", RTSTRUCT: "ROIContourSequence", SR: "ContentSequence", MAPS: "FloatPixelData"}
    for dataset in archive.datasets:
        [sent] = [one for one in map(pydicom.dcmread, results.values()) if one.SOPInstanceUID == dataset.SOPInstanceUID]
        keyword = content[sent.SOPClassUID]
        assert dataset[keyword].value == sent[keyword].value


def test_an_archive_that_takes_no_contours_is_told_as_that_and_nothing_counts_as_delivered(node, tmp_path):
    segment(node, make_results(tmp_path, planning=True), 1, "pacs")
    with Archive(classes=(SEG, SR, MAPS)) as archive:
        deliver(node, archive_at(archive.port))
    assert seen(node) == [("pacs", DeliveryState.WAITING, 1, "class_not_accepted")]


def test_an_archive_that_takes_implicit_syntax_only_gets_the_same_pixels(node, results):
    segment(node, results, 1, "pacs")
    with Archive(syntaxes=[IMPLICIT]) as archive:
        deliver(node, archive_at(archive.port))
    assert {syntax for _, _, syntax in archive.stored} == {IMPLICIT}
    sent = {str(one.SOPInstanceUID): one.PixelData for one in archive.datasets}
    assert sent == {
        str(one.SOPInstanceUID): one.PixelData for one in (pydicom.dcmread(path) for path in results.values())
    }


def test_several_results_go_in_one_association(node, results):
    for series in range(3):
        segment(node, results, series, "pacs", names=["seg.dcm"])
    with Archive() as archive:
        assert deliver(node, archive_at(archive.port)) == 3
    assert (len(archive.uids), archive.associations) == (3, 1)


@refused
def test_a_destination_that_is_down_gets_everything_when_it_is_up_again(node, results):
    port = free_port()
    key = segment(node, results, 1, "pacs")
    assert deliver(node, archive_at(port)) == 1
    assert seen(node) == [("pacs", DeliveryState.WAITING, 1, "no_connection")]
    with Archive(port=port) as archive:
        assert deliver(node, archive_at(port)) == 0  # not before the pause is over
        node.pass_time(10)
        assert deliver(node, archive_at(port)) == 1
    assert len(archive.uids) == 3
    assert node.store.series.state_of(key) is State.DELIVERED


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_and_an_object_that_is_there_already_are_accepted(node, results, status):
    key = segment(node, results, 1, "pacs")
    with Archive(answer=lambda event: status) as archive:
        deliver(node, archive_at(archive.port))
    assert node.store.series.state_of(key) is State.DELIVERED


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0xA700, "out_of_resources"),
        (0xA900, "data_set_mismatch"),
        (0x0122, "class_not_supported"),
        (0x0124, "not_authorised"),
        (0xC000, "not_understood"),
        (0x0110, "refused"),
    ],
)
def test_a_refusal_is_tried_again_with_its_reason(node, results, status, reason):
    segment(node, results, 1, "pacs")
    with Archive(answer=lambda event: status) as archive:
        deliver(node, archive_at(archive.port))
        assert seen(node) == [("pacs", DeliveryState.WAITING, 1, reason)]
        archive.answer = lambda event: 0
        node.pass_time(10)
        deliver(node, archive_at(archive.port))
    assert len(archive.uids) == 3
    assert reason in DELIVERY_REASONS


def test_after_an_abort_in_the_middle_the_whole_result_goes_again_under_the_same_identity(node, results):
    segment(node, results, 1, "pacs")
    segment(node, results, 2, "pacs")

    def answer(event):
        if len(archive.uids) == 1:
            event.assoc.abort()
        return 0

    with Archive(answer=answer) as archive:
        assert deliver(node, archive_at(archive.port)) == 1  # the other result had no try, and counts none
        assert sorted(one[2] for one in seen(node)) == [0, 1]
        archive.answer = lambda event: 0
        node.pass_time(10)
        assert deliver(node, archive_at(archive.port)) == 2
    assert len(set(archive.uids)) == 3
    assert {one[1] for one in seen(node)} == {DeliveryState.DELIVERED}


def test_an_archive_without_such_classes_is_told_apart(node, results):
    segment(node, results, 1, "pacs")
    with Archive(classes=[SEG]) as archive:
        deliver(node, archive_at(archive.port))
        assert seen(node)[0][3] == "class_not_accepted"
    node.pass_time(10)
    with Archive(classes=["1.2.840.10008.5.1.4.1.1.2"]) as archive:
        deliver(node, archive_at(archive.port))
    assert seen(node) == [("pacs", DeliveryState.WAITING, 2, "class_not_accepted")]


def test_a_title_that_the_archive_does_not_know_is_told_apart(node, results):
    segment(node, results, 1, "pacs")
    with Archive() as archive:
        deliver(node, Destination("pacs", host="127.0.0.1", port=archive.port, ae_title="OTHER", timeout_s=5))
    assert seen(node)[0][3] == "called_title_unknown"


def test_a_host_that_does_not_exist_is_told_apart(node, results):
    segment(node, results, 1, "pacs")
    deliver(node, Destination("pacs", host="archive.invalid", port=104, ae_title="PACS", timeout_s=2))
    assert seen(node)[0][3] == "host_unknown"


def test_an_archive_that_never_answers_is_given_up_in_time(node, results):
    segment(node, results, 1, "pacs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        deliver(node, archive_at(silent.getsockname()[1], timeout_s=0.5))
    assert time.monotonic() - began < 5
    assert seen(node)[0][3] == "no_answer"


def test_an_archive_that_hangs_with_an_object_is_given_up_in_time(node, results):
    segment(node, results, 1, "pacs", names=["seg.dcm"])
    released = threading.Event()
    with Archive(answer=lambda event: released.wait(20) and 0) as archive:
        began = time.monotonic()
        deliver(node, archive_at(archive.port, timeout_s=0.5))
        took = time.monotonic() - began
        released.set()
    assert took < 5
    assert seen(node)[0][3] == "no_answer"


@pytest.mark.slow
def test_an_archive_that_stops_reading_in_the_middle_of_an_object_is_given_up_in_time(node, results, tmp_path):
    from pynetdicom import evt

    large = pydicom.dcmread(results["key_1.dcm"])
    large.PixelData = bytes(40_000_000)
    large.save_as(tmp_path / "key_1.dcm")
    segment(node, {"key_1.dcm": tmp_path / "key_1.dcm"}, 1, "pacs")
    released = threading.Event()
    with Archive() as archive:
        archive.server.bind(evt.EVT_DATA_RECV, lambda event: event.data[0] == 4 and released.wait(20))
        began = time.monotonic()
        deliver(node, archive_at(archive.port, timeout_s=0.5))
        took = time.monotonic() - began
        released.set()
    assert took < 10
    assert seen(node)[0][3] == "no_answer"


@pytest.mark.parametrize("with_certificate", [True, False])
def test_an_archive_with_mutual_tls_takes_only_who_shows_a_certificate(node, results, pem, with_certificate):
    key = segment(node, results, 1, "pacs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.archive, pem.archive_key)
    context.load_verify_locations(pem.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    own = {"certificate": pem.client, "key": pem.client_key} if with_certificate else {}
    with Archive(tls=context) as archive:
        deliver(node, archive_at(archive.port, tls=True, ca=pem.ca, **own))
    if with_certificate:
        assert node.store.series.state_of(key) is State.DELIVERED
        assert len(archive.uids) == 3
    else:
        assert seen(node)[0][3] in {"tls_refused", "aborted"}
        assert archive.uids == []


def test_an_archive_of_another_authority_gets_nothing(node, results, pem, tmp_path):
    segment(node, results, 1, "pacs")
    stranger = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stranger.archive, stranger.archive_key)
    with Archive(tls=context) as archive:
        deliver(node, archive_at(archive.port, tls=True, ca=pem.ca))
    assert seen(node)[0][3] == "tls_refused"
    assert archive.uids == []


@refused
def test_of_two_destinations_one_that_is_down_does_not_hold_up_the_other(node, results):
    segment(node, results, 1, "pacs", "archive")
    with Archive() as archive:
        deliver(node, archive_at(free_port(), "archive"))
        deliver(node, archive_at(archive.port))
    assert {one[:2] for one in seen(node)} == {
        ("pacs", DeliveryState.DELIVERED),
        ("archive", DeliveryState.WAITING),
    }


def test_a_result_that_vanished_is_made_again_and_delivered_under_the_same_identity(node, results):
    key = segment(node, results, 1, "pacs", "archive", names=["seg.dcm"])
    (node.spool.result(key, 1) / "seg.dcm").unlink()
    with Archive() as archive:
        assert deliver(node, archive_at(archive.port)) == 0
        assert deliver(node, archive_at(archive.port, "archive")) == 0
        assert node.store.series.state_of(key) is State.QUEUED
        job = node.custody.claim("worker-0")
        folder = node.custody.working_folder(job)
        (folder / "seg.dcm").write_bytes(results["seg.dcm"].read_bytes())
        assert node.custody.record_result(job, folder, [Output("seg", "seg.dcm")], ["pacs", "archive"])
        assert deliver(node, archive_at(archive.port)) == 1
        assert deliver(node, archive_at(archive.port, "archive")) == 1
    assert set(archive.uids) == {str(pydicom.dcmread(results["seg.dcm"]).SOPInstanceUID)}
    assert node.store.series.state_of(key) is State.DELIVERED


def test_a_folder_gets_whole_files_and_the_same_again_changes_nothing(node, results, tmp_path):
    key = segment(node, results, 1, "disk")
    out = tmp_path / "out"
    destination = Destination("disk", folder=out)
    deliver(node, destination)
    assert seen(node)[0][3] == "folder_missing"
    assert not out.exists()
    out.mkdir()
    left = out / key / "v1" / ".0123.tmp.seg.dcm"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    node.pass_time(10)
    [due] = node.store.deliveries.due("disk")
    deliver(node, destination)
    found = {path.name: path.read_bytes() for path in (out / key / "v1").iterdir()}
    assert found == {name: path.read_bytes() for name, path in results.items()}
    before = {path.name: path.stat().st_ino for path in (out / key / "v1").iterdir()}
    from medattn_edge.scanner.deliver.folder import put

    put(out, due.key, due.version, list(results.values()))
    assert before == {path.name: path.stat().st_ino for path in (out / key / "v1").iterdir()}


def test_a_folder_on_a_full_disk_is_tried_again_and_holds_no_half_file(node, results, tmp_path, monkeypatch):
    key = segment(node, results, 1, "disk")

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left", str(target))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        deliver(node, Destination("disk", folder=tmp_path))
    assert seen(node)[0][3] == "folder_full"
    assert list((tmp_path / key / "v1").iterdir()) == []
    node.pass_time(10)
    deliver(node, Destination("disk", folder=tmp_path))
    assert node.store.series.state_of(key) is State.DELIVERED


def test_a_deliverer_that_is_killed_after_the_archive_accepted_delivers_again_under_the_same_identity(node, results):
    key = segment(node, results, 1, "pacs")
    with Archive() as archive:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.support.killed_deliverer", str(node.root), str(archive.port)],
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert ended.returncode == -signal.SIGKILL
        assert len(archive.uids) == 3
        assert seen(node)[0][1] is DeliveryState.WAITING
        node.restart()
        node.now = 2_000_000.0
        deliver(node, archive_at(archive.port))
    assert len(archive.uids) == 6
    assert set(archive.uids) == {str(pydicom.dcmread(path).SOPInstanceUID) for path in results.values()}
    assert node.store.series.state_of(key) is State.DELIVERED


def test_the_thread_delivers_when_it_is_woken_and_ends_when_it_is_told(node, results):
    with Archive() as archive:
        stopping, wake = threading.Event(), threading.Event()
        deliverer = Deliverer(archive_at(archive.port), node.custody, Log(io.StringIO(), allow=DELIVERY_REASONS), "ME")
        thread = threading.Thread(target=deliverer.run, args=(stopping, wake))
        thread.start()
        key = segment(node, results, 1, "pacs")
        wake.set()
        end = time.monotonic() + 20
        while node.store.series.state_of(key) is not State.DELIVERED and time.monotonic() < end:
            time.sleep(0.02)
        stopping.set()
        wake.set()
        thread.join(10)
    assert not thread.is_alive()
    assert node.store.series.state_of(key) is State.DELIVERED


def test_the_log_tells_what_happened_and_names_nobody(node, results):
    out = io.StringIO()
    log = Log(out, allow=(*DELIVERY_REASONS, "pacs"))
    segment(node, results, 1, "pacs")
    with Archive(answer=lambda event: 0xA700) as archive:
        deliver(node, archive_at(archive.port), log)
        archive.answer = lambda event: 0xB000
        node.pass_time(10)
        deliver(node, archive_at(archive.port), log)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["delivery_failed", *["accepted_with_warning"] * 3, "delivered"]
    assert (lines[0]["reason"], lines[0]["status"], lines[0]["destination"]) == ("out_of_resources", 0xA700, "pacs")
    for word in ("Phantom", "PHANTOM", "127.0.0.1", *archive.uids):
        assert word not in out.getvalue()


@refused
def test_whether_an_archive_answers_can_be_asked(tmp_path):
    with Archive() as archive:
        echo(archive_at(archive.port), "MEDATTN")
        assert (archive.calling, archive.uids) == ("MEDATTN", [])
        with pytest.raises(DeliveryRefused) as caught:
            echo(replace(archive_at(archive.port), ae_title="OTHER"), "MEDATTN")
        assert caught.value.reason == "called_title_unknown"
    with pytest.raises(DeliveryRefused) as caught:
        echo(archive_at(free_port(), timeout_s=2), "MEDATTN")
    assert (caught.value.reason, caught.value.hint) == ("no_connection", DELIVERY_REASONS["no_connection"].action)


def test_whether_a_folder_takes_files_can_be_asked_and_leaves_nothing(tmp_path):
    probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for folder, reason in ((tmp_path / "gone", "folder_missing"), (Path("/proc"), "folder_unwritable")):
        with pytest.raises(DeliveryRefused) as caught:
            probe(folder)
        assert caught.value.reason == reason
