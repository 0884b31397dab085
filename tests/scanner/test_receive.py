"""C-STORE over loopback: success means durable and on record, and what is stored is what was sent."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from dataclasses import replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402

from medattn_edge.io.dicom.files import data_set_start  # noqa: E402
from medattn_edge.scanner.receive.objects import header_of  # noqa: E402
from medattn_edge.scanner.receive.stream import JoinedPieces  # noqa: E402
from medattn_edge.scanner.store.disk import Watermark  # noqa: E402
from tests.support.dicom_peers import dcmsend, dcmtk, needs_dcmtk, send, storescu  # noqa: E402
from tests.support.dicom_phantoms import make_series, real_ct, save, write_series  # noqa: E402
from tests.support.durable_node import POLICY, Node  # noqa: E402
from tests.support.raw_sender import Raw  # noqa: E402
from tests.support.serving import Serving  # noqa: E402

BIG_ENDIAN, JPEG_2000 = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.90"
NAME = "Zyxwvut^Testpatient"


def files_of(folder: Path, number: int = 1, slices: int = 3, **changes: Any) -> list[Path]:
    """A small CT series."""
    scan = real_ct(slices, 32, 32)
    changes.setdefault("SeriesInstanceUID", f"1.2.826.0.1.3680043.8.498.99.{number}")
    return write_series(folder / f"series-{number}", scan.voxels, scan.affine, **changes)


def data_set(path: Path) -> bytes:
    """The encoded data set of a file, without what stands before it."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return path.read_bytes()[data_set_start(meta) :]


def wait(found: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def test_success_is_answered_only_when_the_object_is_durable_and_on_record(node, tmp_path):
    files, seen = files_of(tmp_path), []
    with Serving(node) as serving:
        sent = send(serving.port, files, each=lambda _: seen.append((len(serving.files()), serving.count())))
        assert sent == (True, [0, 0, 0])
    assert seen == [(1, 1), (2, 2), (3, 3)]
    found = node.restart(header_of)
    assert (found.adopted, found.unreadable, found.gone) == (0, 0, 0)


def test_an_object_whose_file_cannot_be_written_is_answered_with_out_of_resources(node, tmp_path):
    node.spool.incoming.rmdir()
    node.spool.incoming.write_text("no folder any more")
    with Serving(node) as serving:
        [status] = send(serving.port, files_of(tmp_path, slices=1)).statuses
        assert status is not None
        assert status != 0
        assert serving.count() == 0


@needs_dcmtk
def test_a_large_object_is_in_memory_once(node, tmp_path):
    [path] = files_of(tmp_path, slices=1)
    large = pydicom.dcmread(path)
    large.PixelData = bytes(48_000_000)
    large.save_as(path)
    size = path.stat().st_size
    del large
    peaks: list[int] = []
    with Serving(node) as serving:
        tracemalloc.start()
        try:
            storescu(serving.port, [path])
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert serving.count() == 1
        assert data_set(serving.files()[0]) == data_set(path)
    assert size < peaks[0] < 1.6 * size


@given(st.lists(st.binary(max_size=20), max_size=4), st.lists(st.integers(0, 90), max_size=6), st.integers(1, 30))
def test_joined_pieces_read_as_one_file(pieces, places, count):
    whole, joined = BytesIO(b"".join(pieces)), BufferedReader(JoinedPieces(*pieces), 8)
    for place in places:
        assert joined.seek(place) == whole.seek(place)
        assert joined.read(count) == whole.read(count)
        assert joined.tell() == whole.tell()
    assert joined.seek(-min(3, len(whole.getvalue())), 2) == whole.seek(-min(3, len(whole.getvalue())), 2)
    assert joined.read() == whole.read()
    joined.close()


def test_a_duplicate_is_answered_with_success_and_kept_once(node, tmp_path):
    files = files_of(tmp_path)
    with Serving(node) as serving:
        assert send(serving.port, files).statuses == [0] * 3
        assert send(serving.port, files).statuses == [0] * 3
        assert (len(serving.files()), serving.count(), serving.aside()) == (3, 3, [])


def test_another_object_under_the_same_uid_takes_its_place_and_the_first_goes_to_quarantine(node, tmp_path):
    [first] = files_of(tmp_path / "a", slices=1)
    [second] = files_of(tmp_path / "b", slices=1, SeriesDescription="another one")
    with Serving(node) as serving:
        assert send(serving.port, [first, second]).statuses == [0, 0]
        assert [data_set(path) for path in serving.files()] == [data_set(second)]
        assert [data_set(path) for path in serving.aside()] == [data_set(first)]


@pytest.mark.parametrize("syntax", [BIG_ENDIAN, JPEG_2000, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_an_object_is_kept_byte_for_byte_as_it_was_sent(node, tmp_path, syntax):
    if syntax == JPEG_2000:
        pytest.importorskip("openjpeg", reason="the extra dicom-codecs is not installed")
    [path] = files_of(tmp_path, slices=1, transfer_syntax=syntax)
    sent: list[bytes] = []
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2", syntax)
    with Serving(node) as serving:
        handlers = [(evt.EVT_DIMSE_SENT, lambda event: sent.append(event.message.data_set.getvalue()))]
        association = ae.associate("127.0.0.1", serving.port, ae_title="MEDATTN", evt_handlers=handlers)
        assert association.send_c_store(pydicom.dcmread(path)).Status == 0
        association.release()
        [kept] = serving.files()
    assert data_set(kept) == sent[0]
    meta = pydicom.filereader.read_file_meta_info(kept)
    assert meta.TransferSyntaxUID == syntax
    assert (pydicom.dcmread(kept).pixel_array == pydicom.dcmread(path).pixel_array).all()


def test_four_associations_interleave_twenty_series(node, tmp_path):
    series = [files_of(tmp_path, number) for number in range(20)]
    streams = [[path for slices in zip(*series[start::4], strict=True) for path in slices] for start in range(4)]
    answers: list[Any] = []
    with Serving(node) as serving:
        threads = [
            threading.Thread(target=lambda stream=stream: answers.append(send(serving.port, stream)))
            for stream in streams
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.statuses for answer in answers] == [[0] * 15] * 4
        assert serving.count() == 60
        wait(lambda: not serving.associations.count)
        node.pass_time(60)
        assert len(node.custody.queue_complete(serving.associations.busy()).queued) == 20


def test_a_series_is_busy_for_as_long_as_its_association_is_open_however_it_ends(node, tmp_path):
    with Serving(node) as serving:
        for number, end in enumerate(("release", "abort", "lost")):
            [path] = files_of(tmp_path, number, slices=1)
            key = node.store.site.series_key(str(pydicom.dcmread(path).SeriesInstanceUID))
            with Raw(serving.port) as raw:
                raw.associate()
                assert raw.store(path) == 0
                assert serving.associations.busy() == {key}
                if end == "release":
                    raw.write(b"\5\0\0\0\0\4\0\0\0\0")
                elif end == "abort":
                    raw.write(b"\7\0\0\0\0\4\0\0\0\0")
                if end != "lost":
                    wait(lambda: not serving.associations.count)
            wait(lambda: not serving.associations.count)
            assert serving.associations.busy() == frozenset()


def test_an_abort_in_the_middle_of_an_object_leaves_what_came_before_it(node, tmp_path):
    files = files_of(tmp_path)
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(files[0]) == 0
            raw.store(files[1], break_off=0.5)
            raw.write(b"\7\0\0\0\0\4\0\0\0\0")
        wait(lambda: not serving.associations.count)
        assert (len(serving.files()), serving.count(), serving.aside()) == (1, 1, [])
        assert send(serving.port, files).statuses == [0] * 3
        assert serving.count() == 3


def test_a_late_image_is_told_in_the_log_with_the_key_of_its_series_only(node, tmp_path):
    files = files_of(tmp_path)
    with Serving(node) as serving:
        send(serving.port, files[:2])
        wait(lambda: not serving.associations.count)
        node.pass_time(60)
        [key] = node.custody.queue_complete().queued
        assert send(serving.port, files[2:]).statuses == [0]
        [line] = serving.events("late_image")
        assert (line["key"], line["version"]) == (key, 2)


def test_an_echo_is_answered(node):
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context("1.2.840.10008.1.1")
    with Serving(node) as serving:
        association = ae.associate("127.0.0.1", serving.port, ae_title="MEDATTN")
        assert association.send_c_echo().Status == 0
        association.release()


def test_a_name_that_is_sent_is_nowhere_in_the_log(node, tmp_path):
    changes = {"PatientName": NAME, "PatientID": NAME, "AccessionNumber": "ZYX4711", "PatientBirthDate": "19700102"}
    [path] = files_of(tmp_path, slices=1, **changes)
    [other] = files_of(tmp_path / "b", slices=1, **changes, SeriesDescription=NAME)
    data = path.read_bytes().replace(b"19700102", b"Zyxwvut ")  # no date: a library would quote it
    blank = pydicom.dcmread(path)
    blank.SeriesInstanceUID = ""
    with Serving(node) as serving:
        send(serving.port, [path, other, blank])
        send(serving.port, [path], calling="ZYXWVUT")
        send(serving.port, [path], called="ZYXWVUT")
        with Raw(serving.port) as raw:
            raw.associate()
            for cut in (200, 400, 900, len(data) - 9):
                raw.store(data[:cut])
        with Raw(serving.port) as raw:
            raw.write(NAME.encode() * 100)
        wait(lambda: not serving.associations.count)
        text = serving.text
    uids = [str(pydicom.dcmread(path)[name].value) for name in ("SOPInstanceUID", "SeriesInstanceUID")]
    assert len(serving.reasons) >= 5
    for word in ("zyx", "testpatient", *uids):
        assert word not in text.lower()
    # The address of a machine is told where it is rejected, and nowhere else.
    assert {line["event"] for line in map(json.loads, text.splitlines()) if "127.0.0.1" in str(line)} <= {"rejected"}


@needs_dcmtk
def test_the_programs_of_dcmtk_are_understood(node, tmp_path):
    with Serving(node) as serving:
        assert dcmtk("echoscu", "-aet", "SCANNER", "-aec", "MEDATTN", "127.0.0.1", serving.port).returncode == 0
        assert dcmtk("echoscu", "-aet", "STRANGER", "-aec", "MEDATTN", "127.0.0.1", serving.port).returncode != 0
        assert storescu(serving.port, files_of(tmp_path, 1)).returncode == 0
        assert dcmsend(serving.port, files_of(tmp_path, 2, transfer_syntax=BIG_ENDIAN)).returncode == 0
        assert storescu(serving.port, files_of(tmp_path, 1)).returncode == 0
        assert (serving.count(), serving.aside()) == (6, [])


def test_more_objects_than_a_series_may_have_are_refused_and_the_series_is_not_segmented_in_part(tmp_path):
    node = Node(tmp_path / "node", policy=replace(POLICY, max_instances=2))
    with Serving(node) as serving:
        assert send(serving.port, files_of(tmp_path)).statuses == [0, 0, 0xA700]
        wait(lambda: not serving.associations.count)
        node.pass_time(60)
        found = node.custody.queue_complete()
        assert (len(found.queued), len(found.quarantined)) == (0, 1)
    node.store.close()


def test_a_disk_above_its_watermark_refuses_with_out_of_resources_until_there_is_room(tmp_path):
    files = files_of(tmp_path)
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 500})
    with Serving(node) as serving:
        assert send(serving.port, files).statuses == [0xA700] * 3
        assert (serving.files(), serving.aside()) == ([], [])
        node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=0))
        assert send(serving.port, files).statuses == [0] * 3
    node.store.close()


def test_a_whole_object_is_the_same_as_its_file(tmp_path):
    [dataset] = make_series(real_ct(1, 16, 16).voxels, real_ct(1, 16, 16).affine)
    path, memory = save(tmp_path / "one.dcm", dataset), BytesIO()
    dataset.save_as(memory, enforce_file_format=True)
    assert header_of(path) == header_of(memory.getvalue())
