"""A receiver at its limits: the byte, the association, the instance and the letter on either side of each."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from pydicom.dataset import Dataset  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.dsutils import encode  # noqa: E402

from medattn_edge.scanner.config.sections import StorageCommitment  # noqa: E402
from medattn_edge.scanner.receive.associations import Associations  # noqa: E402
from medattn_edge.scanner.receive.listener import peer_of, with_plain_titles  # noqa: E402
from medattn_edge.scanner.receive.stream import JoinedPieces  # noqa: E402
from tests.scanner.test_receive_refusals import files_of, rejection, wait  # noqa: E402
from tests.support.commitment_peer import CT, CommitmentScu, information  # noqa: E402
from tests.support.dicom_peers import closing_sockets, send  # noqa: E402
from tests.support.durable_node import Node  # noqa: E402
from tests.support.raw_sender import Raw  # noqa: E402
from tests.support.serving import Serving  # noqa: E402

OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0xA700, 0xC000
PIXELS = bytes.fromhex("e07f1000") + b"OW\0\0"


def with_pixels(path: Path, count: int, sop_uid: str = "") -> bytes:
    """The file with so many bytes of pixel data, under another UID of the same length if one is given."""
    whole = path.read_bytes()
    place = whole.index(PIXELS) + len(PIXELS)
    old = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID).encode()
    head = whole[:place].replace(old, sop_uid.encode().ljust(len(old), b"1")[: len(old)]) if sop_uid else whole[:place]
    return head + count.to_bytes(4, "little") + bytes(count)


def of_address(port: int, address: str) -> Raw:
    """A sender at another address of this machine."""
    made = Raw.__new__(Raw)
    made._socket = socket.create_connection(("127.0.0.1", port), 30, source_address=(address, 0))
    return made


# Objects


def test_an_object_may_have_as_many_bytes_as_the_configuration_says_and_not_one_more(node, tmp_path):
    [path] = files_of(tmp_path)
    with Serving(node, max_object_mb=1) as serving, Raw(serving.port) as raw:
        raw.associate()
        assert raw.store(with_pixels(path, 1000)) == 0
        [kept] = serving.files()
        around = kept.stat().st_size - 1000
        assert raw.store(with_pixels(path, 1_000_000 - around, "1.2.3.4")) == 0
        assert raw.store(with_pixels(path, 1_000_001 - around, "1.2.3.5")) == OUT_OF_RESOURCES
        assert sorted(one.stat().st_size for one in serving.files()) == [around + 1000, 1_000_000]
        assert serving.reasons == ["too_large"]
    node.pass_time(60)
    assert len(node.custody.queue_complete().quarantined) == 1  # its series lacks the one that was too large


def test_whoever_sends_a_tenth_and_a_megabyte_more_than_an_object_may_have_is_hung_up_on(node, tmp_path):
    [path] = files_of(tmp_path)
    with Serving(node, max_object_mb=1) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            for number in range(1, 5):  # what was sent before does not count
                assert raw.store(with_pixels(path, 900_000, f"1.2.3.{number}")) == 0
            assert raw.store(with_pixels(path, 2_000_000, "1.2.4")) == OUT_OF_RESOURCES
        with Raw(serving.port) as raw:
            raw.associate()
            with pytest.raises((EOFError, ConnectionError)):
                raw.store(with_pixels(path, 2_300_000, "1.2.5"))
        wait(lambda: not serving.associations.count)
        assert serving.reasons == ["too_large", "too_large"]


def test_what_is_no_object_and_finds_no_room_is_not_kept(tmp_path):
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 500})
    [path] = files_of(tmp_path)
    with Serving(node) as serving:
        with Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(b"PatientName=Zyx") == OUT_OF_RESOURCES
            assert raw.store(path) == OUT_OF_RESOURCES
        assert serving.reasons == ["not_kept"]
        [line] = serving.events("not_kept")
        assert (line["level"], line["code"]) == ("error", "output")
        assert serving.aside() == []
    node.store.close()


def test_a_cut_object_without_a_uid_is_put_aside_and_no_series_lacks_it(node, tmp_path):
    [path] = files_of(tmp_path)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        value = str(pydicom.dcmread(path)[keyword].value).encode()
        whole = path.read_bytes()
        start = whole.rindex(value)
        blank = whole[:start] + b"\0" * len(value) + whole[start + len(value) : -100]
        with Serving(node) as serving, Raw(serving.port) as raw:
            raw.associate()
            assert raw.store(blank) == NOT_UNDERSTOOD
            assert serving.reasons == ["truncated"]
    assert node.store.snapshot().states == dict.fromkeys(node.store.snapshot().states, 0)
    with node.store.database.reading() as database:
        assert database.execute("SELECT COUNT(*) FROM refusals").fetchone()[0] == 0


def test_the_sender_of_a_series_is_its_title_and_a_blank_one_is_none(node, tmp_path):
    class Titled(Raw):
        title = b""

        def write(self, data: bytes) -> None:
            super().write(data[:26] + self.title.ljust(16) + data[42:] if data[:1] == b"\1" else data)

    with Serving(node, calling_ae=("*",)) as serving:
        for number, title in enumerate((b"", b" CT 1")):
            [path] = files_of(tmp_path, number)
            with Titled(serving.port) as raw:
                raw.title = title
                raw.associate()
                assert raw.store(path) == 0
    with node.store.database.reading() as database:
        titles = {row[0] for row in database.execute("SELECT calling_ae FROM series")}
    assert titles == {"", "CT 1"}


# Associations


def test_what_is_negotiated_and_how_long_anybody_is_waited_for(node):
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context("1.2.840.10008.1.1")
    with Serving(node) as serving, closing_sockets() as opened:
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, opened)]
        association = ae.associate("127.0.0.1", serving.port, ae_title="MEDATTN", evt_handlers=handlers)
        assert association.acceptor.maximum_length == 131_072
        [ours] = serving.receiver._ae.active_associations
        assert (ours.network_timeout, ours.acse_timeout, ours.dimse_timeout) == (120.0, 30.0, 60.0)
        association.release()


def test_the_places_of_an_address_are_its_own_and_all_places_are_shared(node):
    with Serving(node, max_associations=3, max_per_address=2) as serving:
        held = [of_address(serving.port, address) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.2")]
        for one in held[:2]:
            one.associate()
        held[2].associate()
        with of_address(serving.port, "127.0.0.2") as more, pytest.raises((EOFError, ConnectionError)):
            more.associate()
        assert rejection(serving.port, "SCANNER") == (2, 3, 2)
        assert serving.reasons == ["too_many_associations"] * 2
        held[0].__exit__()
        wait(lambda: serving.associations.count == 2)
        with of_address(serving.port, "127.0.0.2") as more, pytest.raises((EOFError, ConnectionError)):
            more.associate()
        assert serving.reasons[2:] == ["too_many_of_address"]
        assert rejection(serving.port, "SCANNER") is None
        for one in held[1:]:
            one.__exit__()


def test_a_receiver_that_was_never_started_is_stopped(node):
    Serving(node).receiver.stop(0)


def test_associations_are_numbered_and_a_series_is_busy_until_the_last_of_them_is_closed():
    made = Associations()
    assert (made.opened(), made.opened(), made.count) == (1, 2, 2)
    for association, key in ((1, "a"), (1, "a"), (2, "a"), (2, "b")):
        made.delivered(association, key)
    assert made.busy() == {"a", "b"}
    made.closed(2)
    assert (made.busy(), made.count) == ({"a"}, 1)
    made.closed(1)
    made.closed(1)
    made.delivered(1, "a")
    assert (made.busy(), made.count) == (frozenset(), 0)
    assert made.opened() == 3


@pytest.mark.parametrize(
    ("title", "read"),
    [
        (b" ~!", "~!"), (b"\x1f x\x7f", "? x?"), (b"A\\B", "A?B"), (b"\xd6", "?"), (b"CT1\0rest", "CT1"),
        (b"", "(blank)"), (b"\0", "(blank)"), (b"X" * 16, "X" * 16),
    ],
)  # fmt: skip
def test_titles_are_read_letter_by_letter_and_each_in_its_place(title: bytes, read: str) -> None:
    body = bytearray(b"\0\1\0\0" + title.ljust(16) + b"SCANNER".ljust(16) + bytes(32))
    found = with_plain_titles(body)
    assert found == b"\0\1\0\0" + read.encode().ljust(16) + b"SCANNER".ljust(16) + bytes(32)
    body = bytearray(b"\0\1\0\0" + b"MEDATTN".ljust(16) + title.ljust(16) + bytes(32))
    found = with_plain_titles(body)
    assert found == b"\0\1\0\0" + b"MEDATTN".ljust(16) + read.encode().ljust(16) + bytes(32)


@pytest.mark.parametrize(("length", "changed"), [(19, []), (20, [4]), (35, [4]), (36, [4, 20])])
def test_a_request_that_is_too_short_for_a_title_is_left_as_it_is(length: int, changed: list[int]) -> None:
    found = with_plain_titles(bytearray(length))
    assert len(found) == length
    assert [place for place in (4, 20) if found[place : place + 7] == b"(blank)"] == changed


@pytest.mark.parametrize(
    ("address", "told"),
    [("10.0.0.7", "10.0.0.7"), ("::ffff:10.0.0.7", "10.0.0.7"), ("fe80::1%eth0", "fe80::1"), ("::ffff:1", "::ffff:1")],
)
def test_an_address_is_told_as_people_write_it(address: str, told: str) -> None:
    about = SimpleNamespace(requestor=SimpleNamespace(address_info=SimpleNamespace(address=address)))
    assert peer_of(about) == told
    assert peer_of(SimpleNamespace(requestor=SimpleNamespace(address_info=None))) == ""


# The stream


def test_joined_pieces_are_searched_as_any_file_and_let_go_of_when_closed() -> None:
    held = bytearray(b"held")
    joined = JoinedPieces(b"ab", memoryview(held))
    assert (joined.readable(), joined.seekable(), joined.writable(), joined.name) == (True, True, False, "")
    assert [joined.seek(*of) for of in ((0,), (6,), (7,), (-6, 2), (3, 0), (1, 1), (-4, 1))] == [0, 6, 7, 0, 3, 4, 0]
    for before in ((-1,), (-7, 2), (-1, 1)):
        with pytest.raises(ValueError, match="before the start"):
            joined.seek(*before)
    buffer = bytearray(9)
    assert (joined.readinto(buffer), buffer[:2], joined.tell()) == (2, b"ab", 2)
    assert (joined.readinto(buffer), buffer[:4], joined.tell()) == (4, b"held", 6)
    assert (joined.readinto(buffer), joined.tell()) == (0, 6)
    with pytest.raises(BufferError):
        held.append(1)
    joined.close()
    held.append(1)
    assert joined.closed


def test_another_object_of_a_series_is_no_correction(node, tmp_path):
    files = files_of(tmp_path, slices=2)
    with Serving(node) as serving:
        assert send(serving.port, files).statuses == [0, 0]
        assert serving.events("conflict") == serving.events("late_image") == []


# Storage commitment


def padded(count: int) -> Dataset:
    """A request of so many bytes."""
    dataset = information("2.25.7", [(CT, "1.2.3.1.0")])
    dataset.add_new(0x00091001, "UN", b"")
    dataset[0x00091001].value = bytes(count - len(encode(dataset, True, True) or b""))
    assert len(encode(dataset, True, True) or b"") == count
    return dataset


UID_64 = "1." + "2" * 62
ASKED = [
    (information("2.25.7", [(CT, f"1.{number}") for number in range(4)]), 0x0000),
    (information("2.25.7", [(CT, f"1.{number}") for number in range(5)]), 0x0213),
    (padded(5120), 0x0000),
    (padded(5122), 0x0213),
    (information("2.25.7", [(CT, UID_64)]), 0x0000),
    (information("2.25.7", [(CT, UID_64 + "2")]), 0x0115),
    (information("2.25.07", [(CT, "1.2")]), 0x0115),
    (information("2.25.0", [(CT, "0.1")]), 0x0000),
    (information("2", [(CT, "1.2")]), 0x0115),
    (information("2.25.7", [("", "1.2")]), 0x0115),
    (information("2.25.7", [(CT, "1.2"), (CT, "1.x")]), 0x0115),
    (information("1.2", [(CT, "1.2")]), 0x0000),
]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.filterwarnings("ignore:The value length")
def test_a_request_for_commitment_is_taken_at_its_limits_and_refused_just_beyond(node):
    section = StorageCommitment(enabled=True, max_instances=4, max_waiting=99)
    with CommitmentScu() as scu, Serving(node, commitment=section, peers=["SCANNER"]) as serving:
        for dataset, status in ASKED:
            assert scu.ask(serving.port, dataset) == status, dataset
        assert scu.ask(serving.port, ASKED[0][0], instance="1.2.840.10008.1.20.1.2") == 0x0112
        assert [scu.ask(serving.port, ASKED[0][0], action=action) for action in (0, 1, 2)] == [0x0123, 0, 0x0123]
        refused = serving.events("commitment_refused")
        assert [line["reason"] for line in refused[:3]] == [
            "commitment_too_large",
            "commitment_too_large",
            "commitment_malformed",
        ]
        assert [line["status"] for line in refused[:3]] == [0x0213, 0x0213, 0x0115]
