"""TLS for the listeners and the destinations: 1.2 or newer, and a certificate on both sides unless told otherwise."""

from __future__ import annotations

import ssl

from medattn_edge.errors import UsageError
from medattn_edge.io.tls import connecting_context, show, trust
from medattn_edge.scanner.config.sections import Destination, Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """For a listener; with `mutual`, a caller without a certificate of `clients_ca` gets no association.

    Raises UsageError for files that are no certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    show(context, tls.certificate, tls.key)
    if tls.mutual:
        if tls.clients_ca is None:
            raise UsageError(
                "no authority is named whose certificates callers may have",
                expected="clients_ca",
                hint="clients_ca = 'PEM file', or mutual = false",
            )
        trust(context, tls.clients_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(destination: Destination) -> ssl.SSLContext:
    """For a destination: its certificate must be signed by `ca` (or the system's authorities) and name its host.

    Raises UsageError for files that are no certificate and its key.
    """
    return connecting_context(destination.ca, destination.certificate, destination.key)
