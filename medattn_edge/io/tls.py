"""TLS for whoever connects: 1.2 or newer, and only certificates of the authorities that were named."""

from __future__ import annotations

import ssl
from pathlib import Path

from medattn_edge.errors import UsageError, quoted


def connecting_context(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """For a connection to a server, whose certificate must name its host.

    Args:
        ca: PEM file of the authorities that sign the server's certificate; None: those of the system.
        certificate: PEM file to show to the server.
        key: PEM file of that certificate's key, without a password.

    Raises:
        UsageError: for files that are no certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        # Only this authority: one that the system trusts as well would defeat the purpose of naming it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        trust(context, ca)
    if certificate is not None and key is not None:
        show(context, certificate, key)
    return context


def show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Have a context show a certificate; raises UsageError for files that are none with its key."""
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{certificate} and {key} are no certificate with its key ({error})",
            expected="two PEM files, the key without a password",
            hint=f"openssl x509 -noout -subject -in {quoted(certificate)}",
        ) from error


def trust(context: ssl.SSLContext, authorities: Path) -> None:
    """Have a context trust the authorities of a PEM file; raises UsageError for a file without certificates."""
    try:
        context.load_verify_locations(authorities)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{authorities} holds no certificates ({error})",
            expected="a PEM file of the authorities",
            hint=f"openssl x509 -noout -subject -in {quoted(authorities)}",
        ) from error


def _no_password() -> str:
    """Never ask: nobody sits at a node that starts at three in the morning."""
    return ""
