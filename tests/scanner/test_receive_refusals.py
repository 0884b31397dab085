"""Whom a receiver does not listen to, what it does not take, and how it ends."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from pynetdicom import AE, evt  # noqa: E402

from medattn_edge.errors import HostError  # noqa: E402
from tests.support.dicom_mutations import mutations  # noqa: E402
from tests.support.dicom_peers import closing_sockets, send  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.raw_sender import Raw  # noqa: E402
from tests.support.serving import Serving  # noqa: E402

CT, CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
NOT_UNDERSTOOD, OTHER_CLASS, OUT_OF_RESOURCES, CONFLICTING = 0xC000, 0xA900, 0xA700, 0xC111


def files_of(folder: Path, number: int = 1, slices: int = 1, size: int = 16, **changes: Any) -> list[Path]:
    """A small CT series."""
    scan = real_ct(slices, size, size)
    changes.setdefault("SeriesInstanceUID", f"1.2.826.0.1.3680043.8.498.98.{number}")
    return write_series(folder / f"series-{number}", scan.voxels, scan.affine, **changes)


def wait(found: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def rejection(port: int, calling: str, called: str = "MEDATTN") -> tuple[int, int, int] | None:
    """(result, source, reason) of a rejected association, None for one that is accepted."""
    ae, answers = AE(ae_title=calling), []
    ae.add_requested_context(CT)
    with closing_sockets() as opened:
        handlers = [
            (evt.EVT_CONN_OPEN, opened),
            (evt.EVT_ACSE_RECV, lambda event: answers.append(event.primitive)),
        ]
        association = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=handlers)
        if association.is_established:
            association.release()
            return None
        assert association.is_rejected
    return answers[0].result, answers[0].result_source, answers[0].diagnostic


def test_callers_and_titles_that_are_not_known_are_rejected_for_good(node):
    with Serving(node) as serving:
        assert rejection(serving.port, "SCANNER") is None
        assert rejection(serving.port, "STRANGER") == (1, 1, 3)
        assert rejection(serving.port, "SCANNER", "ELSEWHERE") == (1, 1, 7)
        assert serving.reasons == ["calling_ae", "called_ae"]
    with Serving(node, calling_ae=("*",)) as serving:
        assert rejection(serving.port, "STRANGER") is None


def test_an_address_that_is_not_allowed_gets_no_answer(node):
    with Serving(node, addresses=("192.0.2.0/24",)) as serving:
        with pytest.raises((EOFError, ConnectionError)), Raw(serving.port) as raw:
            raw.associate()
        wait(lambda: serving.reasons == ["address_not_allowed"])


def test_a_class_that_is_not_allowed_is_not_negotiated(node):
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(CT)
    ae.add_requested_context(CAPTURE)
    with Serving(node) as serving:
        association = ae.associate("127.0.0.1", serving.port, ae_title="MEDATTN")
        [rejected] = association.rejected_contexts
        assert (rejected.abstract_syntax, rejected.result) == (CAPTURE, 3)
        association.release()
    with Serving(node, sop_classes=("SecondaryCaptureImageStorage",)) as serving:
        association = ae.associate("127.0.0.1", serving.port, ae_title="MEDATTN")
        [rejected] = association.rejected_contexts
        assert (rejected.abstract_syntax, rejected.result) == (CT, 3)
        association.release()


def test_a_class_that_is_not_allowed_does_not_come_in_under_the_name_of_another(node, tmp_path):
    [path] = files_of(tmp_path)
    capture = path.read_bytes().replace(CT.encode(), CAPTURE.encode())
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(capture) == OTHER_CLASS  # as a capture, in a context for CT
            assert raw.store(path) == 0
        assert (serving.count(), serving.aside(), serving.reasons) == (1, [], ["other_class"])


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_an_object_that_lacks_a_uid_or_is_not_what_the_command_says_goes_to_quarantine(node, tmp_path, keyword):
    [path] = files_of(tmp_path)
    whole, value = path.read_bytes(), pydicom.dcmread(path)[keyword].value.encode()
    start = whole.rindex(value)
    damaged = whole[:start] + b"\0" * len(value) + whole[start + len(value) :]
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            status = raw.store(damaged)
            assert status == (OTHER_CLASS if keyword == "SOPClassUID" else NOT_UNDERSTOOD)
            assert raw.store(path) == 0
        assert len(serving.aside()) == 1
        assert serving.count() == 1


def test_an_object_that_is_cut_off_is_refused_and_the_whole_one_is_no_conflict_with_it(node, tmp_path):
    files = files_of(tmp_path, slices=2)
    whole = files[0].read_bytes()
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(files[1]) == 0
            assert raw.store(whole[:-100]) == NOT_UNDERSTOOD
        wait(lambda: not serving.associations.count)
        assert serving.reasons == ["truncated"]
        assert [path.name[:9] for path in serving.aside()] == ["truncated"]
        node.pass_time(60)
        found = node.custody.queue_complete()
        assert (len(found.queued), len(found.quarantined)) == (0, 1)
        assert send(serving.port, files).statuses == [0, 0]
        wait(lambda: not serving.associations.count)
        node.pass_time(60)
        assert len(node.custody.queue_complete().queued) == 1
        assert len(serving.aside()) == 1


def test_what_is_no_dicom_goes_to_quarantine_and_the_association_goes_on(node, tmp_path):
    [path] = files_of(tmp_path)
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            for rubbish in (b"", b"\0", b"PatientName=Zyx", os.urandom(20_000)):
                assert raw.store(rubbish) in {NOT_UNDERSTOOD, OTHER_CLASS}
            assert raw.store(path) == 0
        assert serving.count() == 1


def test_an_object_above_the_limit_is_refused_before_memory_is_full_of_it(node, tmp_path):
    [path] = files_of(tmp_path)
    with Serving(node, max_object_mb=1) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            # Above the limit, by less than what may stand around an object.
            assert raw.store(path.read_bytes() + bytes(1_200_000)) == OUT_OF_RESOURCES
        with Raw(serving.port) as raw:
            raw.associate()
            with pytest.raises((EOFError, ConnectionError)):
                raw.store(path.read_bytes() + bytes(60_000_000))
        wait(lambda: not serving.associations.count)
        assert set(serving.reasons) == {"too_large"}
        assert (serving.count(), serving.aside()) == (0, [])
        assert send(serving.port, [path]).statuses == [0]


@pytest.mark.parametrize("before", [True, False])
def test_a_protocol_unit_that_says_it_is_four_gigabytes_is_not_read(node, tmp_path, before):
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            if not before:
                raw.associate()
            raw.write(b"\1\0\xff\xff\xff\xf0" if before else b"\4\0\xff\xff\xff\xf0")
            with pytest.raises((EOFError, ConnectionError)):
                raw.associate()
        assert serving.reasons == ["too_large"]
        assert send(serving.port, files_of(tmp_path)).statuses == [0]


def test_more_associations_than_allowed_are_rejected_for_now(node):
    with Serving(node, max_associations=2) as serving:
        with Raw(serving.port) as first, Raw(serving.port) as second:
            first.associate()
            second.associate()
            assert rejection(serving.port, "SCANNER") == (2, 3, 2)
        wait(lambda: not serving.associations.count)
        wait(lambda: rejection(serving.port, "SCANNER") is None)


def test_damaged_objects_are_taken_or_refused_and_the_receiver_lives(node, tmp_path):
    sources = files_of(tmp_path, slices=2)
    with Serving(node) as serving:
        raw, statuses = Raw(serving.port), []
        raw.associate()
        for _, data in mutations(sources, 150, seed=3):
            try:
                statuses.append(raw.store(data))
            except (EOFError, ConnectionError):
                raw.__exit__()
                raw = Raw(serving.port)
                raw.associate()
        raw.__exit__()
        assert len(statuses) > 120  # the others: commands that the library breaks off at
        assert set(statuses) <= {0, OTHER_CLASS, NOT_UNDERSTOOD, CONFLICTING}
        assert statuses.count(0) < len(statuses)
        assert serving.events("uncaught") == []
        assert send(serving.port, files_of(tmp_path, 2)).statuses == [0]


def test_a_port_that_is_taken_says_how_to_find_who_has_it(node):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serving = Serving(node, port=taken.getsockname()[1])
        with pytest.raises(HostError, match="cannot listen") as raised:
            serving.receiver.start()
        assert "ss -ltnp" in raised.value.hint


def test_draining_rejects_new_associations_for_now_and_lets_open_ones_finish(node, tmp_path):
    files = files_of(tmp_path, slices=2)
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(files[0]) == 0
            serving.receiver.refuse_new()
            assert rejection(serving.port, "SCANNER") == (2, 3, 2)
            assert serving.reasons == ["draining"]
            assert raw.store(files[1]) == 0
        wait(lambda: not serving.associations.count)
        serving.receiver.stop(5)
        with pytest.raises(ConnectionError):
            Raw(serving.port)


@pytest.mark.parametrize("what", ["nothing", "an association", "half an object", "half a unit"])
def test_a_caller_that_hangs_does_not_hold_up_the_end(node, tmp_path, what):
    serving = Serving(node)
    with serving, Raw(serving.port) as raw:
        if what != "nothing":
            raw.associate()
            wait(lambda: serving.associations.count == 1)
        if what == "half an object":
            raw.store(files_of(tmp_path)[0], break_off=0.5)
        if what == "half a unit":
            raw.write(b"\4\0\0\0\4\0" + bytes(100))
        time.sleep(0.1)
        began = time.monotonic()
        # Whoever has asked for nothing is not waited for at all.
        serving.receiver.stop(20 if what == "nothing" else 0.3)
        assert time.monotonic() - began < 3
        wait(lambda: not serving.associations.count)
        assert serving.events("uncaught") == []
