"""TLS for the listeners and the destinations: 1.2 or newer, and a certificate on both sides unless told otherwise."""

from __future__ import annotations

import ssl
from pathlib import Path

from medattn_edge.errors import UsageError, quoted
from medattn_edge.scanner.config.sections import Destination, Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """For a listener; with `mutual`, a caller without a certificate of `clients_ca` gets no association.

    Raises UsageError for files that are no certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, tls.certificate, tls.key)
    if tls.mutual:
        if tls.clients_ca is None:
            raise UsageError(
                "no authority is named whose certificates callers may have",
                expected="clients_ca",
                hint="clients_ca = 'PEM file', or mutual = false",
            )
        _trust(context, tls.clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(destination: Destination) -> ssl.SSLContext:
    """For a destination: its certificate must be signed by `ca` (or the system's authorities) and name its host.

    Raises UsageError for files that are no certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if destination.ca is not None:
        # Only this authority: one that the system trusts as well would defeat the purpose of naming it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, destination.ca)
    if destination.certificate is not None and destination.key is not None:
        _load(context, destination.certificate, destination.key)
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{certificate} and {key} are no certificate with its key ({error})",
            expected="two PEM files, the key without a password",
            hint=f"openssl x509 -noout -subject -in {quoted(certificate)}",
        ) from error


def _no_password() -> str:
    """Never ask: nobody sits at a node that starts at three in the morning."""
    return ""


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(authorities)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{authorities} holds no certificates ({error})",
            expected="a PEM file of the authorities",
            hint=f"openssl x509 -noout -subject -in {quoted(authorities)}",
        ) from error
