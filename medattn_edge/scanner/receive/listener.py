"""pynetdicom's server, made fit for a hospital network: nobody's silence blocks another, and nothing is printed."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import HostError
from medattn_edge.scanner.observe.half_open import HalfOpen
from medattn_edge.scanner.observe.log import Level, Log

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association

_HANG_UP_S: Final = 0.5
_MOST_BYTES: Final = 1 << 20  # of one protocol unit: eight times what callers are told, for those who cannot count
_CHUNK: Final = 1 << 16
REQUEST_S: Final = 10.0  # from accept to the end of the association request, the TLS handshake included
_HALF_OPEN, _OF_ADDRESS = 64, 16
_REQUEST: Final = b"\1"  # the type of an A-ASSOCIATE-RQ
_REQUEST_READS: Final = 2  # its head and its body
_TITLES: Final = (slice(4, 20), slice(20, 36))  # called and calling, in its body
BLANK: Final = "(blank)"  # what stands for a title of spaces, which the library would abort at


class Listener:
    """One port. Started at once; `close` ends it. Raises HostError for a port that cannot be had."""

    def __init__(
        self,
        name: str,
        ae: ApplicationEntity,
        address: tuple[str, int],
        networks: Sequence[str],
        context: ssl.SSLContext | None,
        handlers: list[Any],
        log: Log,
    ) -> None:
        from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

        allowed = [ipaddress.ip_network(network) for network in networks]

        def rejected(peer: str, reason: str) -> None:
            log.event("rejected", level=Level.WARNING, listener=name, reason=reason, peer=peer)

        half_open = HalfOpen(REQUEST_S, _HALF_OPEN, _OF_ADDRESS, rejected)
        self._half_open = half_open

        class Socket(AssociationSocket):
            """Reads no more at once than we said that we take; the library would read four gigabytes.

            Titles that are padded or spelt as others spell them reach the library as it can read them.
            """

            _reads = 0

            def recv(self, nr_bytes: int) -> bytearray:
                """So many bytes, or fewer at the end of the connection. Raises OSError for too many."""
                if nr_bytes > _MOST_BYTES:
                    log.event("refused", level=Level.WARNING, listener=name, reason="too_large")
                    raise OSError(errno.EMSGSIZE, "a protocol unit is too long")
                received = bytearray()
                while len(received) < nr_bytes:
                    piece = self.socket.recv(min(_CHUNK, nr_bytes - len(received)))  # type: ignore[union-attr]
                    if not piece:
                        break
                    received += piece
                self._reads += 1
                wrong = self._reads == 1 and bool(received) and received[:1] != _REQUEST
                if wrong or (self._reads <= _REQUEST_READS and len(received) < nr_bytes):
                    if half_open.done(self.socket) and (received or self._reads == _REQUEST_READS):
                        rejected(peer_of(self.assoc), "no_association_request")
                    # The library would take all that follows for units of the protocol, one after the other.
                    raise OSError(errno.EPROTO, "not an association request")
                return with_plain_titles(received) if self._reads == _REQUEST_READS else received

        class Handler(RequestHandler):
            """Gives each association our socket."""

            def _create_association(self) -> Association:
                association = super()._create_association()
                association.dul.event_queue.get_nowait()  # of the socket that ours replaces: it tells its start as well
                association.dul.socket = Socket(association, client_socket=self.request)
                return association

        class Server(ThreadedAssociationServer):
            """Looks at the address first, and shakes hands in the caller's own thread."""

            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> tuple[socket.socket, Any]:
                """Accept, and leave the handshake for later: whoever connects and keeps silent would block the port."""
                connection: socket.socket
                connection, peer = self.socket.accept()  # type: ignore[union-attr]
                connection.settimeout(REQUEST_S)
                return connection, peer

            def verify_request(self, request: Any, client_address: Any) -> bool:
                """Whether the address may connect."""
                taken = any(ipaddress.ip_address(_plain(client_address[0])) in network for network in allowed)
                if taken:
                    half_open.add(request, _plain(client_address[0]))
                else:
                    rejected(_plain(client_address[0]), "address_not_allowed")
                return taken

            def service_actions(self) -> None:
                """Several times a second: whoever is silent, or trickles, has its time, and no more."""
                super().service_actions()
                half_open.expire()

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                """In a thread of the connection's own."""
                try:
                    if context is not None:
                        plain = request
                        request = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                        if not half_open.exchange(plain, request):
                            raise ConnectionError
                        request.do_handshake()
                    request.settimeout(self.ae.network_timeout)
                except (OSError, ssl.SSLError):
                    if half_open.done(request):
                        rejected(_plain(client_address[0]), "no_tls")
                    self.shutdown_request(request)
                    return
                super().process_request_thread(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """The library would print a traceback with the address."""
                half_open.done(request)
                log.event("connection_failed", level=Level.WARNING, listener=name, peer=_plain(client_address[0]))

        try:
            self._server: Any = ae.make_server(
                address, evt_handlers=handlers, server_class=Server, request_handler=Handler
            )
        except OSError as error:
            raise HostError(
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
                expected="a free port, and an address of this machine",
                hint=f"ss -ltnp 'sport = :{address[1]}'",
            ) from error
        ae._servers.append(self._server)  # as start_server does; shutdown takes it out
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name=f"listen-{name}", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def asked(self, association: Association) -> None:
        """An association has said what it wants: from now on it is no half-open connection."""
        self._half_open.done(getattr(association.dul.socket, "socket", None))

    def close(self) -> None:
        """Take no new connection; those that are open go on."""
        self._server.shutdown()
        self._thread.join()


def hang_up(association: Association) -> None:
    """End an association now, whether or not the other side listens: by the protocol first, then without it.

    The library would wait for minutes for the rest of what a caller had begun to send.
    """
    if association.is_established:
        association.abort(block=False)
        association.join(_HANG_UP_S)
    if association.is_alive():
        found = getattr(association.dul.socket, "socket", None)
        if found is not None:
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
        # What it takes for a caller that has asked for nothing in time.
        association.dul.to_user_queue.put(None)
        association.join(_HANG_UP_S)


def with_plain_titles(body: bytearray) -> bytearray:
    """The body of an association request, with AE titles that the library can read.

    Other implementations pad with NUL, use Latin-1, or leave the calling title blank, and take each other's.
    Whether such a title may send is for the lists of the configuration to say, and not a matter of padding.
    """
    for place in _TITLES:
        title = bytes(body[place]).split(b"\0", 1)[0].decode("latin-1")
        plain = "".join(letter if " " <= letter <= "~" and letter != "\\" else "?" for letter in title).strip()
        if len(body) >= place.stop:
            body[place] = (plain or BLANK).ljust(16).encode("ascii")
    return body


def peer_of(association: Association) -> str:
    """The address of the other side."""
    about = association.requestor.address_info
    return "" if about is None else _plain(str(about.address))


def _plain(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket, as IPv4; and no scope."""
    return address.split("%")[0].removeprefix("::ffff:") if "." in address else address.split("%")[0]
