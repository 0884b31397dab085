"""Delivery by DICOMweb: what an archive names as stored is delivered, the rest waits, what it judged is given up."""

from __future__ import annotations

import io
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("highdicom", reason="the extra node is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
pytest.importorskip("cryptography", reason="the extra dev is not installed")

from medattn_edge.reasons import DELIVERY_REASONS  # noqa: E402
from medattn_edge.scanner.config.sections import Destination  # noqa: E402
from medattn_edge.scanner.deliver.deliverer import Deliverer  # noqa: E402
from medattn_edge.scanner.deliver.send import DeliveryRefused  # noqa: E402
from medattn_edge.scanner.deliver.web import ask  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.store.transitions import DeliveryState, State  # noqa: E402
from tests.support.archive_peer import make_certificates, make_results, segment  # noqa: E402
from tests.support.web_archive import Request, WebArchive, report  # noqa: E402


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_results(tmp_path_factory.mktemp("results"), planning=True)


def at(url: str, **more: Any) -> Destination:
    return Destination("web", dicomweb=url, timeout_s=2.0, **more)


def deliver(node: Any, destination: Destination, log: Log | None = None) -> int:
    said = log or Log(io.StringIO(), allow=(*DELIVERY_REASONS, "web"))
    return Deliverer(destination, node.custody, said, "MEDATTN").deliver_due()


def seen(node: Any) -> list[tuple[DeliveryState, int, str]]:
    return [
        (one.state, one.attempts, one.reason) for version in node.store.snapshot().recent for one in version.deliveries
    ]


def answering(status: int, **failed: Any) -> Any:
    """Every object is answered with that failure."""

    def act(request: Request) -> bool:
        uid = next(iter(failed.get("uids", ["1.2.3"])))
        value = report(failed=[{"uid": uid, "code": failed["code"]}]) if "code" in failed else {}
        request.reply_json(value, status)
        return True

    return act


def test_every_output_of_a_result_is_stored_as_it_is_and_once(node, results):
    key = segment(node, results, 1, "web")
    with WebArchive() as archive:
        assert deliver(node, at(archive.url)) == 1
        assert deliver(node, at(archive.url)) == 0
    expected = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, results.values())}
    assert {str(one.SOPInstanceUID): one for one in archive.stored} == expected
    assert len(archive.stored) == 4
    assert node.store.series.state_of(key) is State.DELIVERED


def test_an_archive_that_is_down_gets_everything_when_it_is_up_and_the_clock_is_the_nodes(node, results):
    keys = [segment(node, results, number, "web", names=["seg.dcm"]) for number in (1, 2)]
    began = time.monotonic()
    assert deliver(node, at("http://127.0.0.1:9/dicom-web")) == 2
    assert time.monotonic() - began < 2, "the client waited by itself"
    assert seen(node) == [(DeliveryState.WAITING, 1, "no_connection")] * 2
    with WebArchive() as archive:
        assert deliver(node, at(archive.url)) == 0  # not before the pause is over
        node.pass_time(10)
        assert deliver(node, at(archive.url)) == 2
    assert [node.store.series.state_of(key) for key in keys] == [State.DELIVERED] * 2


@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [
        (401, "credentials_refused", 1),
        (404, "no_service", 1),
        (302, "redirected", 1),
        (403, "forbidden", 2),
        (413, "request_refused", 2),
        (429, "unavailable", 2),
        (503, "unavailable", 2),
        (200, "not_confirmed", 2),
    ],
)
def test_what_may_pass_is_tried_again_and_what_is_of_the_whole_archive_is_asked_once(
    node, results, status, reason, requests
):
    for number in (1, 2):
        segment(node, results, number, "web", names=["seg.dcm"])
    with WebArchive() as archive:
        archive.fault = answering(status)
        assert deliver(node, at(archive.url)) == 2
        assert len(archive.requests) == requests
        assert seen(node) == [(DeliveryState.WAITING, 1, reason)] * 2
        archive.fault = None
        node.pass_time(10)
        assert deliver(node, at(archive.url)) == 2
    assert {one[0] for one in seen(node)} == {DeliveryState.DELIVERED}


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(409, 0xA900, "data_set_mismatch"), (409, 0xC000, "not_understood"), (400, None, "object_refused")],
)
def test_an_object_that_the_archive_judged_is_given_up_at_once_with_a_letter(node, results, status, code, reason):
    for number in (1, 2):
        segment(node, results, number, "web", names=["seg.dcm"])
    uid = pydicom.dcmread(results["seg.dcm"]).SOPInstanceUID
    with WebArchive() as archive:
        archive.fault = answering(status) if code is None else answering(status, uids=[uid], code=code)
        assert deliver(node, at(archive.url)) == 2
        assert len(archive.requests) == 2, "each was judged by itself"
    assert seen(node) == [(DeliveryState.DEAD, 1, reason)] * 2
    letters = sorted((node.root / "dead").iterdir())
    assert len(letters) == 2
    texts = " ".join(path.read_text() for letter in letters for path in letter.iterdir() if path.suffix != ".dcm")
    assert reason in texts
    assert {path.name for path in letters[0].iterdir()} >= {"seg.dcm"}


@pytest.mark.parametrize(
    ("code", "reason"), [(0xA700, "out_of_resources"), (0x0110, "refused"), (0x0122, "class_not_supported")]
)
def test_a_failure_that_may_pass_is_tried_again(node, results, code, reason):
    segment(node, results, 1, "web", names=["seg.dcm"])
    uid = pydicom.dcmread(results["seg.dcm"]).SOPInstanceUID
    with WebArchive() as archive:
        archive.fault = answering(409, uids=[uid], code=code)
        deliver(node, at(archive.url))
    assert seen(node) == [(DeliveryState.WAITING, 1, reason)]


def test_of_a_result_that_was_stored_in_part_everything_goes_again_under_the_same_identity(node, results):
    key = segment(node, results, 1, "web")
    with WebArchive() as archive:
        archive.fault = lambda request: bool(archive.stored) and (request.reply(503, b"") or True)
        deliver(node, at(archive.url))
        assert seen(node) == [(DeliveryState.WAITING, 1, "unavailable")]
        archive.fault = None
        node.pass_time(10)
        deliver(node, at(archive.url))
    uids = [str(one.SOPInstanceUID) for one in archive.stored]
    assert (len(uids), len(set(uids))) == (5, 4)
    assert node.store.series.state_of(key) is State.DELIVERED


def test_a_warning_and_a_duplicate_are_stored_and_the_log_says_the_warning(node, results):
    segment(node, results, 1, "web", names=["seg.dcm"])
    uid = pydicom.dcmread(results["seg.dcm"]).SOPInstanceUID
    text = io.StringIO()
    with WebArchive() as archive:
        archive.fault = lambda request: request.reply_json(report([{"uid": uid, "code": 0xB006}]), 202) or True
        deliver(node, at(archive.url), Log(text, allow=(*DELIVERY_REASONS, "web")))
        segment(node, results, 2, "web", names=["seg.dcm"])
        archive.fault = answering(409, uids=[uid], code=0x0111)
        deliver(node, at(archive.url))
    assert {one[0] for one in seen(node)} == {DeliveryState.DELIVERED}
    [warned] = [
        line for line in map(json.loads, text.getvalue().splitlines()) if line["event"] == "accepted_with_warning"
    ]
    assert (warned["status"], warned["destination"]) == (0xB006, "web")
    assert uid not in text.getvalue()


def test_a_damaged_and_a_missing_result_are_told_and_nothing_is_sent(node, results, monkeypatch):
    key = segment(node, results, 1, "web", names=["seg.dcm"])
    monkeypatch.setattr(type(node.custody), "requeue_if_lost", lambda self, delivery: None)  # it vanishes afterwards
    path = node.spool.result(key, 1) / "seg.dcm"
    with WebArchive() as archive:
        path.write_bytes(b"nothing")
        deliver(node, at(archive.url))
        assert seen(node)[0][2] == "result_damaged"
        path.unlink()
        node.pass_time(10)
        deliver(node, at(archive.url))
        assert seen(node)[0][2] == "result_missing"
        assert archive.requests == []


def test_credentials_are_read_at_each_delivery_and_are_not_in_the_log(node, results, tmp_path):
    path = tmp_path / "credentials"
    text = io.StringIO()
    with WebArchive() as archive:
        for number, token in enumerate(("t0ken-1", "t0ken-2")):
            path.write_text(f"bearer {token}")
            path.chmod(0o600)
            segment(node, results, number, "web", names=["seg.dcm"])
            deliver(node, at(archive.url, credentials=path), Log(text, allow=(*DELIVERY_REASONS, "web")))
            assert archive.requests[-1][2]["Authorization"] == f"Bearer {token}"
        path.unlink()
        segment(node, results, 3, "web", names=["seg.dcm"])
        deliver(node, at(archive.url, credentials=path), Log(text, allow=(*DELIVERY_REASONS, "web")))
    assert "credentials_unusable" in {one[2] for one in seen(node)}
    assert "t0ken" not in text.getvalue()


def test_tls_takes_the_authority_that_was_named_and_shows_our_certificate(node, results, tmp_path):
    pem = make_certificates(tmp_path)
    (tmp_path / "b").mkdir()
    other = make_certificates(tmp_path / "b")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.archive, pem.archive_key)
    context.load_verify_locations(pem.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with WebArchive(tls=context) as archive:
        ask(at(archive.url, ca=pem.ca, certificate=pem.client, key=pem.client_key))
        with pytest.raises(DeliveryRefused) as raised:
            ask(at(archive.url, ca=other.ca, certificate=pem.client, key=pem.client_key))
        assert raised.value.reason == "tls_refused"
        with pytest.raises(DeliveryRefused) as raised:
            ask(at(archive.url, ca=pem.ca))
        assert raised.value.reason in {"tls_refused", "aborted"}
        with pytest.raises(DeliveryRefused) as raised:
            ask(at(archive.url, ca=results["seg.dcm"]))
        assert raised.value.reason == "tls_files_unusable"
    assert [path for _, path, _ in archive.requests if "2.25.0" not in path] == []


def test_an_archive_is_asked_for_what_nobody_has(node):
    with WebArchive() as archive:
        ask(at(archive.url))
        [(method, path, _)] = archive.requests
        assert (method, "StudyInstanceUID=2.25.0" in path) == ("GET", True)
        archive.fault = lambda request: request.reply(200, b"<html>", "text/html") or True
        with pytest.raises(DeliveryRefused) as raised:
            ask(at(archive.url))
    assert raised.value.reason == "not_dicomweb"
