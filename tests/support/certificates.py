"""Certificates for TLS on loopback: an authority, a server and a client that it signed, and a stranger it never saw."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medattn_edge.newer_python import UTC

_ADDRESS = x509.SubjectAlternativeName(
    [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")],
)


@dataclass(frozen=True)
class Certificates:
    """PEM files. ca signed server and client; the stranger's is signed by an authority of its own."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    stranger_cert: Path
    stranger_key: Path


def make(folder: Path) -> Certificates:
    """Write them all; they name 127.0.0.1 and localhost, and are valid for a day."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, other = _sign("authority"), _sign("other authority")
    pairs = {
        "server": _sign("server", authority),
        "client": _sign("client", authority),
        "stranger": _sign("stranger", other),
    }
    found = {"ca": _write(folder / "ca.pem", authority[0].public_bytes(serialization.Encoding.PEM))}
    for name, (certificate, key) in pairs.items():
        text = certificate.public_bytes(serialization.Encoding.PEM)
        found[f"{name}_cert"] = _write(folder / f"{name}.pem", text)
        found[f"{name}_key"] = _write(folder / f"{name}.key", _private(key))
    return Certificates(**found)


def _sign(name: str, authority: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
    """A certificate and its key; without an authority it is one."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, key) if authority is None else (authority[0].subject, authority[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority is None, None), critical=True)
        .add_extension(_ADDRESS, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # From 3.13 on Python wants these two as well.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority is None:
        builder = builder.add_extension(_signs(), critical=True)
    return builder.sign(signer, hashes.SHA256()), key


def _signs() -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **unused)


def _private(key: Any) -> bytes:
    coding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    text: bytes = key.private_bytes(coding, form, serialization.NoEncryption())
    return text


def _write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    path.chmod(0o600 if path.suffix == ".key" else 0o644)
    return path
