"""Connections that are silent, trickle, or come in crowds: others get in all the same, and each rejection is told."""

from __future__ import annotations

import http.client
import io
import socket
import struct
import threading
import time

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("jinja2", reason="the extra node is not installed")

from medattn_edge.reasons import ADMISSION_REASONS
from medattn_edge.scanner.config.sections import Status
from medattn_edge.scanner.observe.half_open import HalfOpen
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.observe.server import StatusServer
from medattn_edge.scanner.receive import listener
from tests.scanner.test_receive import files_of
from tests.scanner.test_receive_refusals import rejection, wait
from tests.support.dicom_peers import send
from tests.support.raw_sender import Raw
from tests.support.serving import Serving
from tests.support.status_scenes import Watched


def silent(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), 10) for _ in range(count)]


def close(connections: list[socket.socket]) -> None:
    for one in connections:
        one.close()


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("start", [b"", struct.pack(">BBL", 1, 0, 400)], ids=["silent", "half a request"])
def test_any_number_of_connections_that_ask_for_nothing_lock_no_scanner_out(node, tmp_path, start):
    with Serving(node, max_associations=2) as serving:
        held = silent(serving.port, 40)
        for one in held:
            one.sendall(start)
        assert send(serving.port, files_of(tmp_path)).statuses == [0, 0, 0]
        reasons = [line["reason"] for line in serving.events("rejected")]
        assert reasons == ["too_many_connections"] * len(reasons)
        assert len(reasons) >= 24
        assert {line["peer"] for line in serving.events("rejected")} == {"127.0.0.1"}
        close(held)


def test_whoever_trickles_has_one_deadline_for_the_whole_request(node, monkeypatch):
    monkeypatch.setattr(listener, "REQUEST_S", 0.5)
    with Serving(node) as serving:
        [one] = silent(serving.port, 1)
        one.sendall(struct.pack(">BBL", 1, 0, 400))
        began = time.monotonic()
        while not serving.reasons and time.monotonic() - began < 10:
            try:
                one.sendall(b"\0")
            except OSError:
                break
            time.sleep(0.1)
        wait(lambda: serving.reasons == ["no_request"])
        assert ended(one)
        one.close()


def test_an_association_that_was_asked_for_in_time_has_all_the_time_it_needs(node, tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "REQUEST_S", 0.3)
    [path] = files_of(tmp_path, slices=1)
    with Serving(node) as serving, Raw(serving.port) as raw:
        raw.associate()
        time.sleep(1)
        assert raw.store(path) == 0
        assert serving.reasons == []


def test_one_address_does_not_take_all_places_and_is_told(node):
    with Serving(node, max_associations=4, max_per_address=2) as serving:
        with Raw(serving.port) as first, Raw(serving.port) as second:
            first.associate()
            second.associate()
            assert rejection(serving.port, "SCANNER") == (2, 3, 2)
            assert serving.reasons == ["too_many_of_address"]
        wait(lambda: rejection(serving.port, "SCANNER") is None)


def test_every_association_above_the_limit_is_an_event(node):
    with Serving(node, max_associations=1) as serving, Raw(serving.port) as first:
        first.associate()
        for _ in range(5):
            assert rejection(serving.port, "SCANNER") == (2, 3, 2)
        assert serving.reasons == ["too_many_associations"] * 5


def test_what_is_no_association_request_is_an_event_with_its_address(node):
    with Serving(node) as serving:
        with socket.create_connection(("127.0.0.1", serving.port), 10) as one:
            one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert ended(one)
        wait(lambda: serving.reasons)
        assert [line["peer"] for line in serving.events("rejected")] == ["127.0.0.1"]
        assert serving.reasons == ["no_association_request"]


def title(text: bytes) -> bytes:
    return text.ljust(16)


@pytest.mark.parametrize(
    ("calling", "called", "calling_ae", "taken"),
    [
        (b"SCANNER".ljust(16, b"\0"), b"MEDATTN".ljust(16, b"\0"), ("SCANNER",), True),
        (b"SCANNER\0rubbish.", title(b"MEDATTN"), ("SCANNER",), True),
        (title("RÖNTGEN".encode("latin-1")), title(b"MEDATTN"), ("*",), True),
        (title("RÖNTGEN".encode("latin-1")), title(b"MEDATTN"), ("RNTGEN",), False),
        (title(b""), title(b"MEDATTN"), ("*",), True),
        (title(b""), title(b"MEDATTN"), ("SCANNER",), False),
        (bytes(16), title(b"MEDATTN"), ("*",), True),
        (title(b"CT\\1"), title(b"MEDATTN"), ("*",), True),
        (title(b"  SCANNER"), title(b" MEDATTN"), ("SCANNER",), True),
        (title(b"SCANNER"), title(b""), ("SCANNER",), False),
    ],
)
def test_titles_that_others_write_are_read_as_others_read_them(node, tmp_path, calling, called, calling_ae, taken):
    [path] = files_of(tmp_path, slices=1)

    class Titled(Raw):
        def write(self, data: bytes) -> None:
            if data[:1] == b"\1":
                data = data[:10] + called + calling + data[42:]
            super().write(data)

    with Serving(node, calling_ae=calling_ae) as serving, Titled(serving.port) as raw:
        if taken:
            raw.associate()
            assert raw.store(path) == 0
            assert serving.reasons == []
        else:
            with pytest.raises((EOFError, ConnectionError)):
                raw.associate()
            wait(lambda: serving.reasons)
            [line] = serving.events("rejected")
            assert (line["reason"] in {"calling_ae", "called_ae"}, line["peer"]) == (True, "127.0.0.1")


def test_the_oldest_half_open_connection_makes_room_and_those_of_other_addresses_stay():
    dropped, now = [], [0.0]
    pairs = [socket.socketpair() for _ in range(6)]
    half_open = HalfOpen(10, 4, 2, lambda *about: dropped.append(about), lambda: now[0])
    for (ours, _), address in zip(pairs, ["a", "a", "a", "b", "c", "d"], strict=True):
        half_open.add(ours, address)
    assert dropped == [("a", "too_many_connections"), ("a", "too_many_connections")]
    assert [ended(theirs) for _, theirs in pairs[:2]] == [True, True]
    assert half_open.done(pairs[3][0])
    assert not half_open.done(pairs[0][0])
    now[0] = 10
    half_open.expire()
    assert dropped[2:] == [("a", "no_request"), ("c", "no_request"), ("d", "no_request")]
    assert len(half_open) == 0
    for pair in pairs:
        close(list(pair))


@pytest.fixture
def page(node):
    text = io.StringIO()
    log = Log(text, allow=("status", *ADMISSION_REASONS))
    server = StatusServer(Status(port=0), Watched(node), log, timeout_s=0.5)
    yield server.start(), text
    server.stop()


def asked(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/status.json")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_page_answers_a_hundred_at_once_beside_a_hundred_that_are_silent(page):
    port, text = page
    held, answers = silent(port, 60), []
    threads = [threading.Thread(target=lambda: answers.append(asked(port))) for _ in range(100)]
    for one in threads:
        one.start()
    held += silent(port, 40)
    for one in threads:
        one.join(60)
    assert answers == [200] * 100
    assert "too_many_connections" in text.getvalue() or "no_request" in text.getvalue()
    close(held)


def test_a_request_to_the_page_that_trickles_ends_at_its_deadline(page):
    port, text = page
    [one] = silent(port, 1)
    one.sendall(b"GET / HTTP/1.1\r\nX: ")
    assert ended(one)
    one.close()
    wait(lambda: '"reason": "no_request"' in text.getvalue())
