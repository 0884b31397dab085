"""The TLS listener: who gets an association, who does not, and that the others never notice."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("cryptography", reason="the extra dev is not installed")

from medattn_edge.errors import UsageError  # noqa: E402
from medattn_edge.scanner.config.node_config import Destination, Tls  # noqa: E402
from medattn_edge.scanner.config.tls import client_context, server_context  # noqa: E402
from tests.support.certificates import Certificates, make  # noqa: E402
from tests.support.dicom_peers import dcmtk, needs_dcmtk, send, storescu  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.raw_sender import Raw  # noqa: E402
from tests.support.serving import Serving  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    scan = real_ct(2, 16, 16)
    return write_series(tmp_path_factory.mktemp("series"), scan.voxels, scan.affine)


def listener(made: Certificates, **changes: Any) -> Tls:
    return Tls(**{"certificate": made.server_cert, "key": made.server_key, "clients_ca": made.ca, "port": 0, **changes})


def caller(made: Certificates, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    return client_context(Destination("node", host="127.0.0.1", ca=made.ca, certificate=certificate, key=key))


def known(made: Certificates) -> ssl.SSLContext:
    return caller(made, made.client_cert, made.client_key)


def over(context: ssl.SSLContext) -> tuple[ssl.SSLContext, str]:
    return context, "127.0.0.1"


def wait(found: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def test_a_caller_with_a_certificate_of_the_authority_is_served_beside_one_without_tls(node, made, files):
    with Serving(node, listener(made), plain=True) as serving:
        assert send(serving.tls_port, files[:1], tls=over(known(made))).statuses == [0]
        assert send(serving.port, files[1:]).statuses == [0]
        assert serving.count() == 2
        assert send(serving.tls_port, files, calling="STRANGER", tls=over(known(made))).accepted is False
        assert serving.reasons == ["calling_ae"]


def test_with_tls_there_is_no_plain_listener_unless_it_is_asked_for(node, made, files):
    with Serving(node, listener(made)) as serving:
        assert serving.port == 0
        assert send(serving.tls_port, files, tls=over(known(made))).statuses == [0, 0]


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_plain_listener_beside_tls_is_a_warning_where_others_reach_it(node, made, host, warned):
    with Serving(node, listener(made), plain=True, host=host) as serving:
        assert [line["port"] for line in serving.events("plain_beside_tls")] == [serving.port] * warned


def test_a_caller_without_a_certificate_or_with_a_strangers_gets_no_association(node, made, files):
    with Serving(node, listener(made)) as serving:
        assert send(serving.tls_port, files, tls=over(caller(made))).accepted is False
        strange = caller(made, made.stranger_cert, made.stranger_key)
        assert send(serving.tls_port, files, tls=over(strange)).accepted is False
        wait(lambda: serving.reasons == ["no_tls", "no_tls"])
        assert serving.count() == 0
        assert send(serving.tls_port, files, tls=over(known(made))).statuses == [0, 0]


def test_a_caller_without_a_certificate_is_served_when_none_is_wanted(node, made, files):
    with Serving(node, listener(made, mutual=False, clients_ca=None)) as serving:
        assert send(serving.tls_port, files, tls=over(caller(made))).statuses == [0, 0]


def test_tls_older_than_1_2_is_refused_and_1_2_is_not(node, made):
    with Serving(node, listener(made)) as serving:
        old = known(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tested
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")  # or our own side would not even ask
        with socket.create_connection(("127.0.0.1", serving.tls_port), 10) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname="127.0.0.1")
        wait(lambda: serving.reasons == ["no_tls"])
        newer = known(made)
        newer.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", serving.tls_port), 10) as raw,
            newer.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() == "TLSv1.2"


def test_a_caller_without_tls_on_its_port_does_no_harm(node, made, files):
    with Serving(node, listener(made)) as serving:
        with pytest.raises((EOFError, ConnectionError)), Raw(serving.tls_port) as raw:
            raw.associate()
        wait(lambda: serving.reasons == ["no_tls"])
        assert send(serving.tls_port, files, tls=over(known(made))).statuses == [0, 0]


def test_a_caller_that_never_shakes_hands_blocks_nobody(node, made, files):
    with (
        Serving(node, listener(made)) as serving,
        socket.create_connection(("127.0.0.1", serving.tls_port)),
        socket.create_connection(("127.0.0.1", serving.tls_port)),
    ):
        began = time.monotonic()
        assert send(serving.tls_port, files, tls=over(known(made))).statuses == [0, 0]
        assert time.monotonic() - began < 5


@needs_dcmtk
def test_the_programs_of_dcmtk_are_served_with_a_certificate_and_not_without(node, made, files):
    with Serving(node, listener(made)) as serving:
        mine = ("+tls", made.client_key, made.client_cert, "+cf", made.ca)
        sent = storescu(serving.tls_port, files, *mine)
        assert sent.returncode == 0, sent.stderr
        assert serving.count() == 2
        anonymous = ("+tla", "+cf", made.ca, "-aet", "SCANNER", "-aec", "MEDATTN")
        assert dcmtk("echoscu", *anonymous, "127.0.0.1", serving.tls_port).returncode != 0


@pytest.mark.parametrize("what", ["another key", "no certificate", "missing", "no authority", "locked"])
def test_files_that_are_no_certificates_say_what_to_look_at(made, tmp_path, what):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("nothing")
    locked = tmp_path / "locked.key"
    if what == "locked":
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(made.server_key.read_bytes(), None)
        coding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        locked.write_bytes(key.private_bytes(coding, form, serialization.BestAvailableEncryption(b"secret")))
    changes: dict[str, dict[str, Any]] = {
        "another key": {"key": made.client_key},
        "no certificate": {"certificate": rubbish},
        "missing": {"key": tmp_path / "nowhere.key"},
        "no authority": {"clients_ca": rubbish},
        "locked": {"key": locked},
    }
    with pytest.raises(UsageError) as raised:
        server_context(listener(made, **changes[what]))
    assert "openssl x509" in raised.value.hint


def test_callers_certificates_are_never_left_unchecked_because_no_authority_is_named(made):
    with pytest.raises(UsageError, match="no authority"):
        server_context(listener(made, clients_ca=None))


def test_a_destination_must_show_a_certificate_of_its_authority_that_names_its_host(made, tmp_path):
    context = caller(made)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    subjects = [dict(part[0] for part in one["subject"])["commonName"] for one in context.get_ca_certs()]
    assert subjects == ["authority"]  # and none that the system trusts
    with pytest.raises(UsageError, match="holds no certificates"):
        client_context(Destination("node", host="127.0.0.1", ca=tmp_path / "nowhere.pem"))
