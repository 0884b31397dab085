"""What no type of a key can tell of the network side of a configuration: who may call, ports, TLS, destinations."""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.io.dicomweb.address import Archive, Credentials
from medattn_edge.nearby import place_hint
from medattn_edge.scanner.config.node_config import NodeConfig
from medattn_edge.scanner.config.sections import Destination, Receive, Tls
from medattn_edge.scanner.config.storage_classes import sop_class_uid
from medattn_edge.scanner.config.tls import client_context, server_context
from medattn_edge.scanner.config.toml import Reader

_AE_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")


def check_network(config: NodeConfig, reader: Reader) -> None:
    """Raises UsageError, naming the file and the place, for what could not work."""
    if config.receive is not None:
        _check_receive(config.receive, reader)
    _check_ports(config, reader)
    if config.tls is not None:
        _check_tls(config.tls, reader)
    for one in config.destinations:
        _check_destination(one, f"[[destination]] {one.name}:", reader)
    _check_commitment(config, reader)


def _check_receive(receive: Receive, reader: Reader) -> None:
    if not receive.calling_ae:
        raise reader.wrong("[receive] calling_ae", "is empty", 'calling_ae = ["CT1"]', "the titles that may send")
    _check_ae_title(receive.ae_title, "[receive] ae_title", reader)
    for title in receive.calling_ae:
        _check_ae_title(title, "[receive] calling_ae", reader)
    if not receive.addresses:
        raise reader.wrong("[receive] addresses", "is empty", 'addresses = ["127.0.0.0/8"]', "networks that may send")
    for network in receive.addresses:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise reader.wrong(
                "[receive] addresses", f"has {network!r}: {error}", "192.168.1.0/24", "networks as CIDR"
            ) from error
    _check_classes(receive.sop_classes, reader)


def _check_classes(classes: Sequence[str], reader: Reader) -> None:
    if not classes:
        raise reader.wrong("[receive] sop_classes", "is empty", 'sop_classes = ["CTImageStorage"]', "what is taken")
    for name in classes:
        try:
            if name[:1].isdigit() and not re.fullmatch(r"[0-9]+(\.[0-9]+)+", name):
                raise UsageError("", expected="the keyword or the UID of a storage class", hint="CTImageStorage")
            sop_class_uid(name)
        except UsageError as error:
            raise reader.wrong("[receive] sop_classes", f"has {name!r}", error.hint, error.expected) from error


def _check_ports(config: NodeConfig, reader: Reader) -> None:
    receive, tls, status = config.receive, config.tls, config.status
    if receive is not None and receive.plain is False and tls is None:
        raise reader.wrong("[receive] plain", "is false, and there is no [tls]", "plain = true", "a listener")
    if receive is None and tls is not None:
        raise reader.wrong("[tls]", "stands without [receive]", "[receive]", "the titles that may call")
    if status is not None and not is_loopback(status.host):
        raise reader.wrong("[status] host", f"is {status.host!r}", 'host = "127.0.0.1"', "an address of this machine")
    ports = [("[receive] port", receive.port)] if receive is not None else []
    ports += [("[tls] port", tls.port)] if tls is not None else []
    ports += [("[status] port", status.port)] if status is not None else []
    for where, port in ports:
        if not 0 <= port <= 65535 or (port and [number for _, number in ports].count(port) > 1):
            raise reader.wrong(where, f"is {port}", "port = 11112", "0 to 65535, each port once")


def _check_tls(tls: Tls, reader: Reader) -> None:
    if tls.mutual and tls.clients_ca is None:
        raise reader.wrong(
            "[tls]", "is mutual without clients_ca", 'clients_ca = "ca.crt"', "who signs callers' certificates"
        )
    _check_files("[tls]", (("certificate", tls.certificate), ("key", tls.key), ("clients_ca", tls.clients_ca)), reader)
    try:
        server_context(tls)
    except UsageError as error:
        raise reader.wrong("[tls]", error.found, error.hint, error.expected) from error
    _check_key("[tls]", tls.key, reader)


def _check_commitment(config: NodeConfig, reader: Reader) -> None:
    titles = [one.ae_title for one in config.commitment_peers]
    for one in config.commitment_peers:
        where = f"[[commitment_peer]] {one.ae_title}:"
        if titles.count(one.ae_title) > 1:
            raise reader.wrong(f"{where} ae_title", "comes twice", 'ae_title = "CT1"', "each peer once")
        if not one.host:
            raise reader.wrong(f"{where} host", "is empty", 'host = "ct1.example"', "where the answer goes")
        _check_destination(one.address, where, reader)
        allowed = () if config.receive is None else config.receive.calling_ae
        if config.storage_commitment.enabled and config.receive is not None and not {"*", one.ae_title} & set(allowed):
            hint = f'calling_ae = ["{one.ae_title}"]'
            raise reader.wrong(f"{where} ae_title", "is not in calling_ae of [receive]", hint, "a title that may call")
    if config.storage_commitment.enabled and config.receive is None:
        raise reader.wrong("[storage_commitment]", "stands without [receive]", "[receive]", "the titles that may call")
    if config.storage_commitment.enabled and not titles:
        raise reader.wrong(
            "[storage_commitment]",
            "is enabled without a [[commitment_peer]]",
            "[[commitment_peer]]",
            "who may ask, and where the answer goes",
        )


def _check_destination(one: Destination, where: str, reader: Reader) -> None:
    peer = bool(one.host) and one.port != 0 and bool(one.ae_title)
    ways = (one.folder is not None, peer, bool(one.dicomweb))
    of_peer = one.host or one.port or one.tls
    if ways.count(True) != 1 or (of_peer and not peer):
        expected = "a folder, or host, port and ae_title, or dicomweb"
        raise reader.wrong(where, "is no destination", 'folder = "results"', expected)
    if one.credentials is not None and not one.dicomweb:
        raise reader.wrong(f"{where} credentials", "stands without dicomweb", 'dicomweb = "https://..."', "an address")
    if one.dicomweb:
        _check_dicomweb(one, where, reader)
    elif peer:
        _check_peer(one, where, reader)


def _check_peer(one: Destination, where: str, reader: Reader) -> None:
    _check_ae_title(one.ae_title, f"{where} ae_title", reader)
    if one.calling_ae_title:
        _check_ae_title(one.calling_ae_title, f"{where} calling_ae_title", reader)
    if not 0 < one.port <= 65535:
        raise reader.wrong(f"{where} port", f"is {one.port}", "port = 104", "1 to 65535")
    if (one.certificate is None) != (one.key is None):
        raise reader.wrong(where, "has a certificate without its key, or the reverse", 'key = "node.key"', "both")
    if not one.tls:
        if one.ca is not None or one.certificate is not None:
            # Sent in the clear where somebody thought of TLS: rather not at all.
            raise reader.wrong(where, "has certificates, and no TLS", "tls = true", "tls = true, or no certificates")
        return
    _check_tls_files(one, where, reader)


def _check_dicomweb(one: Destination, where: str, reader: Reader) -> None:
    if one.ae_title or one.calling_ae_title:
        raise reader.wrong(where, "has dicomweb and AE titles", f'dicomweb = "{one.dicomweb}"', "one way to an archive")
    if (one.certificate is None) != (one.key is None):
        raise reader.wrong(where, "has a certificate without its key, or the reverse", 'key = "node.key"', "both")
    if find_spec("dicomweb_client") is None:
        raise MissingDependency.of_extra("dicomweb_client", "dicomweb")
    try:
        Archive(one.dicomweb, None, one.ca, one.certificate, one.key, one.timeout_s)
    except UsageError as error:
        raise reader.wrong(f"{where} dicomweb", f"is {error.found}", error.hint, error.expected) from error
    _check_tls_files(one, where, reader)
    try:
        archive_of(one)
    except UsageError as error:
        raise reader.wrong(f"{where} credentials", error.found, error.hint, error.expected) from error


def archive_of(one: Destination) -> Archive:
    """The DICOMweb service of a destination, with the credentials that its file has now.

    Raises:
        UsageError: for credentials that cannot be used.
    """
    credentials = None if one.credentials is None else Credentials.read(one.credentials)
    return Archive(one.dicomweb, credentials, one.ca, one.certificate, one.key, one.timeout_s)


def _check_tls_files(one: Destination, where: str, reader: Reader) -> None:
    _check_files(where, (("ca", one.ca), ("certificate", one.certificate), ("key", one.key)), reader)
    try:
        client_context(one)
    except UsageError as error:
        raise reader.wrong(where, error.found, error.hint, error.expected) from error
    _check_key(where, one.key, reader)


def _check_files(where: str, files: Sequence[tuple[str, Path | None]], reader: Reader) -> None:
    for name, path in files:
        if path is not None and not path.is_file():
            raise reader.wrong(f"{where} {name}", f"{path} is no file", place_hint(path), "a PEM file")


def _check_key(where: str, path: Path | None, reader: Reader) -> None:
    """Its group may read it: that is how systems hand keys to services."""
    mode = 0 if path is None else stat.S_IMODE(path.stat().st_mode)
    if path is not None and mode & 0o007:
        what = f"{path} has the mode {mode:04o}: others may read it"
        raise reader.wrong(f"{where} key", what, f"chmod o= {quoted(path)}", "0600 or 0640")


def _check_ae_title(title: str, where: str, reader: Reader) -> None:
    if not _AE_TITLE.fullmatch(title) or not title.strip():
        raise reader.wrong(where, f"has the AE title {title!r}", "CT1", "1 to 16 ASCII characters, no backslash")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
