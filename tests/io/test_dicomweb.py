"""A series from an archive by DICOMweb: every object of it, byte for byte, or an error that says what is wrong."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from medattn_edge.errors import HostError, MedattnError, ScanError, UsageError  # noqa: E402
from medattn_edge.io.dicom.volume import find_series, read_series  # noqa: E402
from medattn_edge.io.dicomweb import query, transport  # noqa: E402
from medattn_edge.io.dicomweb.address import VARIABLE, Archive, Credentials  # noqa: E402
from medattn_edge.io.dicomweb.client import Connection  # noqa: E402
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError  # noqa: E402
from medattn_edge.io.dicomweb.query import ListedSeries, list_series, parse_query  # noqa: E402
from medattn_edge.io.dicomweb.retrieve import choose_listed, retrieve  # noqa: E402
from medattn_edge.io.dicomweb.scan import ArchivedScan  # noqa: E402
from medattn_edge.io.dicomweb.store import read_object, store  # noqa: E402
from medattn_edge.reasons import ARCHIVE_REASONS  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.web_archive import BOUNDARY, Request, WebArchive, cut_off, multipart, report  # noqa: E402

MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    ct = real_ct(4, 12, 10)
    return write_series(tmp_path_factory.mktemp("series"), ct.voxels, ct.affine)


@pytest.fixture
def archive(files: list[Path]) -> Iterator[WebArchive]:
    with WebArchive(files) as running:
        yield running


def study_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0]).StudyInstanceUID)


def listed_of(files: list[Path]) -> ListedSeries:
    first = pydicom.dcmread(files[0])
    return ListedSeries(str(first.StudyInstanceUID), str(first.SeriesInstanceUID), "CT", len(files))


def retrieved(archive: WebArchive, files: list[Path], folder: Path, timeout_s: float = TIMEOUT_S) -> list[Path]:
    with Connection(Archive(archive.url, timeout_s=timeout_s)) as connection:
        series, _ = choose_listed(connection, study_of(files))
        return list(retrieve(connection, series, folder))


def refusal(archive: WebArchive, files: list[Path], folder: Path, timeout_s: float = TIMEOUT_S) -> Any:
    with pytest.raises((ArchiveError, ArchiveDataError)) as raised:
        retrieved(archive, files, folder, timeout_s)
    error = raised.value
    assert error.exit_code == (3 if isinstance(error, HostError) else 4)
    assert isinstance(error, HostError | ScanError)
    assert error.hint
    assert error.expected
    assert archive.url in error.found
    assert study_of(files) not in str(error), "an identifier"
    assert ARCHIVE_REASONS[error.reason].meaning in error.found
    return error


# What is well


def test_every_object_comes_byte_for_byte_and_reads_as_the_files_it_was_made_of(archive, files, tmp_path):
    found = retrieved(archive, files, tmp_path)
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in files]
    [ours], [theirs] = find_series(tmp_path), find_series(files[0].parent)
    assert (read_series(ours).voxels == read_series(theirs).voxels).all()


def test_a_compressed_series_is_asked_for_as_it_is(archive, files, tmp_path):
    retrieved(archive, files, tmp_path)
    accept = archive.requests[-1][2]["Accept"]
    assert "transfer-syntax=*" in accept


def test_the_host_of_a_request_has_its_port(archive, files, tmp_path):
    retrieved(archive, files, tmp_path)
    assert {headers["Host"] for *_, headers in archive.requests} == {archive.url.split("/")[2]}


def test_long_lists_come_page_by_page(archive, files, tmp_path, monkeypatch):
    monkeypatch.setattr(query, "PAGE", 3)
    assert len(retrieved(archive, files, tmp_path)) == 4
    assert [path for _, path, _ in archive.requests if "instances" in path and "offset=3" in path]


def test_a_scan_of_an_archive_is_here_only_while_it_is_needed(archive, files):
    scan = ArchivedScan(Archive(archive.url), listed_of(files))
    voxels = scan.read().voxels
    assert voxels.shape == (4, 12, 10)
    folder = scan.path
    assert folder.stat().st_mode & 0o077 == 0, "others may look at a patient"
    scan.release()
    assert not folder.exists()
    assert scan.shown == f"{archive.url} series {scan.listed.hash}"


def test_nothing_stays_of_a_series_that_did_not_come_whole(archive, files, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    archive.fault = only_retrieval(lambda request: request.reply(500, b""))
    with pytest.raises(ArchiveError):
        ArchivedScan(Archive(archive.url), listed_of(files)).fetch()
    assert list(tmp_path.iterdir()) == []


# Which series


def test_the_only_scan_of_a_study_is_taken_and_the_rest_is_told(archive, files, tmp_path):
    ct = real_ct(4, 12, 10)
    study = study_of(files)
    scout = {
        "SeriesInstanceUID": "1.2.3.4",
        "StudyInstanceUID": study,
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
    }
    report = {"SeriesInstanceUID": "1.2.3.5", "StudyInstanceUID": study, "Modality": "SR"}
    for name, voxels, changes in (("scout", ct.voxels[:2], scout), ("report", ct.voxels, report)):
        archive.contents += [path.read_bytes() for path in write_series(tmp_path / name, voxels, ct.affine, **changes)]
    with Connection(Archive(archive.url)) as connection:
        series, notes = choose_listed(connection, study)
        assert series == listed_of(files)
        assert "localizer" in notes[0]
        assert "SR of 4 objects" in notes[0]
        assert choose_listed(connection, study, "1.2.3.4")[0].instances == 2
        assert choose_listed(connection, study, series.hash[:6])[0] == series


def test_several_scans_of_a_study_are_listed_by_hash(archive, files, tmp_path):
    ct = real_ct(4, 12, 10)
    more = write_series(
        tmp_path / "s", ct.voxels, ct.affine, SeriesInstanceUID="1.2.7", StudyInstanceUID=study_of(files)
    )
    archive.contents += [path.read_bytes() for path in more]
    error = refusal(archive, files, tmp_path)
    assert error.reason == "several_series"
    assert listed_of(files).hash in error.found
    assert error.hint.startswith("--series ")


@pytest.mark.parametrize("wanted", ["1.2.3", "ffffffffffff"])
def test_a_series_that_is_not_there_is_told(archive, files, wanted):
    with Connection(Archive(archive.url)) as connection, pytest.raises(ArchiveDataError) as raised:
        choose_listed(connection, study_of(files), wanted)
    assert raised.value.reason == "no_such_series"
    assert listed_of(files).hash in raised.value.found


# What is wrong


def only_retrieval(fault: Callable[[Request], Any]) -> Callable[[Request], bool]:
    """A fault of WADO-RS alone."""

    def act(request: Request) -> bool:
        if request.command != "GET" or "?" in request.path:
            return False
        fault(request)
        return True

    return act


def everything(fault: Callable[[Request], Any]) -> Callable[[Request], bool]:
    def act(request: Request) -> bool:
        fault(request)
        return True

    return act


def of_status(status: int, **headers: str) -> Callable[[Request], bool]:
    return everything(lambda request: request.reply(status, b"<html>patient</html>", "text/html", **headers))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, "redirected"),
        (307, "redirected"),
        (400, "request_refused"),
        (401, "credentials_refused"),
        (403, "forbidden"),
        (404, "no_service"),
        (405, "no_service"),
        (429, "unavailable"),
        (500, "unavailable"),
        (503, "unavailable"),
    ],
)
def test_a_status_is_a_reason_of_its_own_and_nothing_is_tried_twice(archive, files, tmp_path, status, reason):
    archive.fault = of_status(status, Location=archive.url + "/elsewhere")
    began = time.monotonic()
    error = refusal(archive, files, tmp_path)
    assert (error.reason, error.status) == (reason, status)
    assert len(archive.requests) == 1
    assert time.monotonic() - began < 2


def test_a_page_to_log_in_is_no_list_and_no_series(archive, files, tmp_path):
    archive.fault = of_status(200)
    assert refusal(archive, files, tmp_path).reason == "not_dicomweb"
    archive.fault = only_retrieval(of_status(200))
    error = refusal(archive, files, tmp_path)
    assert error.reason == "not_dicomweb"
    assert "HTML" in error.found


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[1]", b'{"a": 1}', b'"text"', b'[{"0020000D": "x"}]', b"\xff"),
        b'[{"0020000E": {"Value": ["/../"]}}]',
    ],
    ids=["empty", "half", "numbers", "object", "text", "no value", "no UTF-8", "no UID"],
)
def test_a_list_of_something_else_is_refused(archive, files, tmp_path, content):
    archive.fault = everything(lambda request: request.reply(200, content))
    assert refusal(archive, files, tmp_path).reason in {"not_dicomweb", "no_such_study"}


def test_a_study_that_is_not_there_is_told(archive, files, tmp_path):
    archive.contents = []
    assert refusal(archive, files, tmp_path).reason == "no_such_study"
    archive.fault = everything(lambda request: request.reply(204, b""))
    assert refusal(archive, files, tmp_path).reason == "no_such_study"


def test_a_series_without_objects_is_told(archive, files, tmp_path):
    archive.fault = lambda request: "instances" in request.path and (request.reply_json([]) or True)
    assert refusal(archive, files, tmp_path).reason == "no_objects"


def parts(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Request], bool]:
    """A series that is sent otherwise than it is."""
    return only_retrieval(lambda request: request.reply_parts(change(request.archive.contents)))


def changed(content: bytes, **values: str) -> bytes:
    from io import BytesIO

    dataset = pydicom.dcmread(BytesIO(content))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    out = BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda sent: [], "missing_objects"),
        (lambda sent: sent[:-1], "missing_objects"),
        (lambda sent: [*sent, sent[0]], "repeated_object"),
        (lambda sent: [*sent[:-1], sent[0]], "repeated_object"),
        (lambda sent: [changed(sent[0], StudyInstanceUID="1.2.9"), *sent[1:]], "other_object"),
        (lambda sent: [*sent[:-1], changed(sent[3], SeriesInstanceUID="1.2.9")], "other_object"),
        (lambda sent: [*sent, changed(sent[3], SOPInstanceUID="1.2.9")], "other_object"),
        (lambda sent: [b"<html>patient</html>", *sent], "not_dicom"),
        (lambda sent: [b"", *sent], "not_dicom"),
        (lambda sent: [sent[0][:200], *sent[1:]], "not_dicom"),
    ],
)
def test_other_objects_than_those_of_the_series_are_refused(archive, files, tmp_path, change, reason):
    archive.fault = parts(change)
    assert refusal(archive, files, tmp_path).reason == reason


@pytest.mark.parametrize("end", [0.3, 0.5, 0.9, 0.999])
def test_an_answer_that_ends_in_the_middle_is_refused(archive, files, tmp_path, end):
    whole = multipart(archive.contents)
    cut = whole[: int(end * len(whole))]
    archive.fault = only_retrieval(lambda request: cut_off(request, cut, MULTIPART, len(whole)))
    assert refusal(archive, files, tmp_path).reason == "aborted"


@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_that_ends_between_two_objects_is_refused(archive, files, tmp_path, count):
    """Without a length, the end of the connection is the end of the answer."""

    def half(request: Request) -> None:
        request.close_connection = True
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        request.end_headers()
        request.wfile.write(multipart(request.archive.contents[:count], closed=False))

    archive.fault = only_retrieval(half)
    assert refusal(archive, files, tmp_path).reason == "missing_objects"


def test_parts_that_cannot_be_told_apart_are_refused(archive, files, tmp_path):
    archive.fault = only_retrieval(lambda request: request.reply(200, b"--x\r\nno end of a head", MULTIPART))
    assert refusal(archive, files, tmp_path).reason == "not_dicomweb"


def test_one_object_that_is_sent_without_parts_is_taken(archive, files, tmp_path):
    archive.contents = archive.contents[:1]
    archive.fault = only_retrieval(lambda request: request.reply(200, request.archive.contents[0], "application/dicom"))
    [path] = retrieved(archive, files, tmp_path)
    assert path.read_bytes() == files[0].read_bytes()


def test_more_than_a_series_may_have_is_refused_before_it_is_all_here(archive, files, tmp_path, monkeypatch):
    for name, size in (("MOST_BYTES", 3000), ("MOST_OBJECT_BYTES", 1000), ("MOST_LIST_BYTES", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(transport, name, size)
            assert refusal(archive, files, tmp_path).reason == "too_much"


def test_compression_that_nobody_asked_for_is_refused(archive, files, tmp_path):
    archive.fault = everything(lambda request: request.reply(200, b"[]", Content_Encoding="gzip"))
    assert refusal(archive, files, tmp_path).reason == "not_dicomweb"


def test_a_list_that_starts_again_and_again_is_refused(archive, files, tmp_path, monkeypatch):
    monkeypatch.setattr(query, "PAGE", 2)
    page = [{"0020000E": {"Value": [uid]}, "0020000D": {"Value": [study_of(files)]}} for uid in ("1.2.1", "1.2.2")]
    archive.fault = everything(lambda request: request.reply_json(page))
    assert refusal(archive, files, tmp_path).reason == "endless_list"


def test_a_short_list_of_an_archive_that_knows_no_pages_is_whole(archive, files):
    page = [{"0020000E": {"Value": ["1.2.1"]}, "0020000D": {"Value": [study_of(files)]}}]
    archive.fault = everything(lambda request: request.reply_json(page))
    with Connection(Archive(archive.url)) as connection:
        assert len(list_series(connection, {"StudyInstanceUID": study_of(files)}).series) == 1


def test_series_of_another_study_are_refused(archive, files, tmp_path):
    page = [{"0020000E": {"Value": ["1.2.1"]}, "0020000D": {"Value": ["1.2.2"]}}]
    archive.fault = everything(lambda request: request.reply_json(page))
    assert refusal(archive, files, tmp_path).reason == "filter_ignored"


# Silence


def test_nobody_at_the_address_and_no_such_host_are_told(files, tmp_path):
    for url, reason in (
        ("http://127.0.0.1:9/dicom-web", "no_connection"),
        ("http://no.host.invalid/x", "host_unknown"),
    ):
        with Connection(Archive(url)) as connection, pytest.raises(ArchiveError) as raised:
            choose_listed(connection, study_of(files))
        assert raised.value.reason == reason


def silence(request: Request) -> None:
    time.sleep(3 * TIMEOUT_S)


def drop(request: Request) -> None:
    request.close_connection = True


def drip_head(request: Request) -> None:
    for _ in range(10):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
        request.wfile.flush()
        time.sleep(TIMEOUT_S / 4)


def drip(request: Request) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/dicom+json")
    request.send_header("Content-Length", "1000")
    request.end_headers()
    for _ in range(10):
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(TIMEOUT_S / 4)


def halt(request: Request) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/dicom+json")
    request.send_header("Content-Length", "1000")
    request.end_headers()
    time.sleep(3 * TIMEOUT_S)


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        (silence, {"no_answer"}),
        (drop, {"aborted"}),
        (drip_head, {"no_answer"}),
        (drip, {"too_slow"}),
        (halt, {"no_answer"}),
    ],
)
def test_no_answer_and_a_byte_now_and_then_have_an_end(archive, files, tmp_path, fault, reasons):
    archive.fault = everything(fault)
    began = time.monotonic()
    assert refusal(archive, files, tmp_path).reason in reasons
    assert time.monotonic() - began < 6 * TIMEOUT_S


# Who may


def test_credentials_are_sent_and_never_shown(archive, files, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "credentials"
    path.write_text("basic someone:s3cret\n")
    path.chmod(0o600)
    given = Archive(archive.url, Credentials.given(path))
    with Connection(given) as connection:
        connection.check()
    assert archive.requests[-1][2]["Authorization"] == "Basic c29tZW9uZTpzM2NyZXQ="
    monkeypatch.setenv(VARIABLE, "Bearer t0ken")
    with Connection(Archive(archive.url, Credentials.given(None))) as connection:
        connection.check()
    assert archive.requests[-1][2]["Authorization"] == "Bearer t0ken"
    shown = repr(given) + caplog.text
    assert not {"s3cret", "t0ken", "c29tZW9uZTpzM2NyZXQ="} & set(shown.replace("'", " ").split())


def test_what_libraries_log_of_a_request_is_not_said(archive, files, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    retrieved(archive, files, tmp_path)
    archive.fault = everything(lambda request: cut_off(request, b"[", "application/dicom+json", 100))
    refusal(archive, files, tmp_path)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    "text", ["", "t0ken", "bearer", "bearer a b", "bearer tök", "basic someone", "basic :x", "bearer a\nbearer b"]
)
def test_what_are_no_credentials_is_refused_without_being_repeated(tmp_path, text):
    path = tmp_path / "credentials"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="holds no credentials") as raised:
        Credentials.read(path)
    assert not text or text not in str(raised.value).replace("bearer TOKEN", "").replace("basic USER", "")


def test_credentials_that_anybody_may_read_are_refused(tmp_path):
    path = tmp_path / "credentials"
    path.write_text("bearer t0ken")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="0644") as raised:
        Credentials.read(path)
    assert raised.value.hint == f"chmod o= {path}"


def test_credentials_do_not_go_over_a_network_in_the_clear():
    token = Credentials.of("bearer t0ken", "a test")
    for near in ("http://127.0.0.1:8042/x", "http://localhost/x", "http://[::1]:80/x", "https://pacs.example/x"):
        assert Archive(near, token).credentials is token
    with pytest.raises(UsageError, match="in the clear") as raised:
        Archive("http://pacs.example/dicom-web", token)
    assert raised.value.hint == "https://pacs.example/dicom-web"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("dicomweb://u:s3cret@pacs:80/x", "http://pacs:80/x"),
        ("dicomwebs://pacs/x", "https://pacs/x"),
        ("https://u:s3cret@pacs/x", "https://pacs/x --credentials FILE"),
        ("https://s3cret@pacs/x", "https://pacs/x --credentials FILE"),
        ("ftp://pacs/x", "https://HOST:PORT/dicom-web"),
        ("http:///x", "https://HOST:PORT/dicom-web"),
        ("http://pacs:99999/x", "https://HOST:PORT/dicom-web"),
        ("http://pacs/x?token=s3cret", "https://HOST:PORT/dicom-web"),
        ("http://pacs/x y", "https://HOST:PORT/dicom-web"),
        ("http://pacs/{x}", "https://HOST:PORT/dicom-web"),
    ],
)
def test_what_is_no_address_is_refused_and_secrets_in_it_are_not_repeated(url, hint):
    with pytest.raises(UsageError) as raised:
        Archive(url)
    assert raised.value.hint == hint
    assert "s3cret" not in str(raised.value)


def test_neither_a_proxy_nor_a_netrc_of_the_surroundings_is_used(archive, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Connection(Archive(archive.url)) as connection:
        connection.check()
    assert "Authorization" not in archive.requests[-1][2]


def test_tls_needs_the_authority_that_was_named_and_no_other(files, tmp_path):
    pytest.importorskip("cryptography", reason="the extra dev is not installed")
    import ssl

    from tests.support.archive_peer import make_certificates

    ours, others = make_certificates(_folder(tmp_path / "a")), make_certificates(_folder(tmp_path / "b"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.archive, ours.archive_key)
    with WebArchive(files, context) as archive:
        with Connection(Archive(archive.url, ca=ours.ca, timeout_s=5)) as connection:
            assert choose_listed(connection, study_of(files))[0] == listed_of(files)
        for ca in (others.ca, None):
            with (
                Connection(Archive(archive.url, ca=ca, timeout_s=5)) as connection,
                pytest.raises(ArchiveError) as raised,
            ):
                connection.check()
            assert raised.value.reason == "tls_refused"
    with pytest.raises(UsageError, match="has no TLS"):
        Archive("http://127.0.0.1/x", ca=ours.ca)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# Queries


def test_a_query_is_keys_of_dicom_with_values():
    assert parse_query(["Modality=CT,StudyDate=20260101-20261126", "BodyPartExamined=CHEST"]) == {
        "Modality": "CT",
        "StudyDate": "20260101-20261126",
        "BodyPartExamined": "CHEST",
    }


@pytest.mark.parametrize(
    "text", ["", "Modality", "Modality=", "=CT", "Modalty=CT", "Modality=CT,Modality=MR", "Modality=CT,"]
)
def test_what_is_no_query_is_refused(text):
    with pytest.raises(UsageError) as raised:
        parse_query([text])
    assert "--query Modality=CT" in raised.value.hint


def test_an_archive_that_ignores_a_key_is_found_out_where_its_list_shows_it(archive, files):
    archive.fault = lambda request: request.reply_json(_all(archive, request)) or True
    with Connection(Archive(archive.url)) as connection:
        found = list_series(connection, {"Modality": "CT", "StudyDate": "20190101-20201231", "Manufacturer": "X"})
        assert len(found.series) == 1
        assert found.notes == ("the archive was trusted to have looked at Manufacturer: its list does not show it",)
        for filters in ({"Modality": "MR"}, {"StudyDate": "20260101-"}, {"StudyDate": "-20191231"}):
            with pytest.raises(ArchiveDataError) as raised:
                list_series(connection, filters)
            assert raised.value.reason == "filter_ignored"


def _all(archive: WebArchive, request: Request) -> Any:
    return archive._series(["series"], {}) if "offset=0" in request.path else []


def test_more_series_than_allowed_are_refused_and_not_left_out(archive, files):
    with Connection(Archive(archive.url)) as connection:
        assert len(list_series(connection, {"Modality": "CT"}, 1).series) == 1
        with pytest.raises(ArchiveDataError, match="more than 0"):
            list_series(connection, {"Modality": "CT"}, 0)


# Storing


def stored(archive: WebArchive, file: Path) -> int:
    with Connection(Archive(archive.url, timeout_s=TIMEOUT_S)) as connection:
        return store(connection, read_object(file))


def test_an_object_is_stored_as_it_is_and_again_without_harm(archive, files):
    assert [stored(archive, files[0]), stored(archive, files[0])] == [0, 0]
    assert archive.stored == [pydicom.dcmread(files[0])] * 2


def of_report(status: int, **answer: Any) -> Callable[[Request], bool]:
    return everything(lambda request: request.reply_json(report(**answer), status))


@pytest.mark.parametrize(
    ("status", "failed", "reason"),
    [
        (409, 0xA700, "out_of_resources"),
        (409, 0xA900, "data_set_mismatch"),
        (202, 0xC000, "not_understood"),
        (409, 0x0110, "refused"),
        (409, 0x0122, "class_not_supported"),
        (409, 0xC122, "class_not_supported"),
        (200, 0x0124, "forbidden"),
    ],
)
def test_a_failure_is_read_from_the_answer_whatever_its_status(archive, files, status, failed, reason):
    uid = pydicom.dcmread(files[0]).SOPInstanceUID
    archive.fault = of_report(status, failed=[{"uid": uid, "code": failed}])
    with pytest.raises(ArchiveError) as raised:
        stored(archive, files[0])
    assert (raised.value.reason, raised.value.status) == (reason, failed)


def test_a_warning_is_a_success_and_a_duplicate_is_one_too(archive, files):
    uid = pydicom.dcmread(files[0]).SOPInstanceUID
    archive.fault = of_report(202, referenced=[{"uid": uid, "code": 0xB000}])
    assert stored(archive, files[0]) == 0xB000
    archive.fault = of_report(409, failed=[{"uid": uid, "code": 0x0111}])
    assert stored(archive, files[0]) == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (of_report(200), "not_confirmed"),
        (of_report(200, referenced=[{"uid": "1.2.3"}]), "not_confirmed"),
        (of_status(200), "not_confirmed"),
        (everything(lambda request: request.reply(200, b"")), "not_confirmed"),
        (everything(lambda request: request.reply(204, b"")), "object_refused"),
        (everything(lambda request: request.reply(200, b"{")), "not_confirmed"),
        (everything(lambda request: request.reply(200, b"[1]")), "not_confirmed"),
        (of_report(400), "object_refused"),
        (of_status(400), "object_refused"),
        (of_status(401), "credentials_refused"),
        (of_status(413), "request_refused"),
        (of_status(503), "unavailable"),
        (of_status(507), "unavailable"),
        (drop, "aborted"),
    ],
)
def test_what_is_not_named_as_stored_is_not_stored(archive, files, fault, reason):
    archive.fault = fault if fault is not drop else everything(fault)
    with pytest.raises(ArchiveError) as raised:
        stored(archive, files[0])
    assert raised.value.reason == reason


def test_a_file_that_is_not_dicom_is_not_sent(archive, tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    with pytest.raises(MedattnError, match="cannot be read"):
        stored(archive, tmp_path / "x.dcm")
    assert archive.requests == []
    shutil.rmtree(tmp_path, ignore_errors=True)
