"""A node's own small web server, for this machine only: the page, its JSON, the metrics, the pictures."""

from __future__ import annotations

import base64
import hashlib
import http.server
import ipaddress
import json
import math
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import HostError, MedattnError
from medattn_edge.scanner.config.sections import Status
from medattn_edge.scanner.observe.half_open import HalfOpen
from medattn_edge.scanner.observe.health import Health, Watched
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.observe.metrics import CONTENT_TYPE, text_of
from medattn_edge.scanner.observe.page import page_of, page_without_records
from medattn_edge.scanner.observe.style import STYLE
from medattn_edge.scanner.store.snapshot import Snapshot, VersionSeen

_THUMBNAIL: Final = re.compile(r"/thumbnails/([0-9a-f]{32})-v([0-9]{1,9})\.png")
_PATHS: Final = ("/", "/status.json", "/metrics", "/ready", "/live")
_TIMEOUT_S: Final = 10.0  # of a request, and of the time to take the answer
_CONNECTIONS: Final = 32  # at once; others wait in the system's queue
_ANSWERS: Final = 4  # that are made at once: more at a time make none faster
_TEXT: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class _Answer:
    status: int
    kind: str
    body: bytes


class StatusServer:
    """Answers GET and HEAD on a loopback address; nothing can be changed through it."""

    def __init__(self, status: Status, watched: Watched, log: Log, timeout_s: float = _TIMEOUT_S) -> None:
        self._status, self._watched, self._log, self._timeout_s = status, watched, log, timeout_s
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; the port. Raises HostError when it is taken."""
        host, port = self._status.host, self._status.port
        try:
            self._server = _Server(host, port, self._watched, self._log, self._timeout_s)
        except OSError as error:
            raise HostError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                expected="a free port",
                hint="another [status] port in the configuration, or 0 for any",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="status", daemon=True)
        self._thread.start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Close the port. What was not started may be stopped, and twice."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, watched: Watched, log: Log, timeout_s: float = _TIMEOUT_S) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.watched, self.log = watched, log
        self.answers = threading.BoundedSemaphore(_ANSWERS)
        self.half_open = HalfOpen(timeout_s, _CONNECTIONS, _CONNECTIONS, self._dropped)
        self._places = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the network for the name of this machine as the library would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, when there is a place; of those that have one and ask nothing, the oldest goes."""
        while not self._places.acquire(timeout=0.05):
            self.half_open.drop_oldest()
        self.half_open.add(request, str(client_address[0]))
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """And then there is a place again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.half_open.done(request)
            self._places.release()

    def service_actions(self) -> None:
        """Several times a second."""
        self.half_open.expire()

    def _dropped(self, address: str, reason: str) -> None:
        self.log.event("rejected", level=Level.WARNING, listener="status", reason=reason, peer=address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news; anything else is a bug, and goes to the log."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self.log.failure("status_failed", error)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    # What the library answers by itself: to what is no HTTP, and to other methods. It would quote the request.
    error_content_type, error_message_format = _TEXT, "%(code)d\n"
    server: _Server

    def do_GET(self) -> None:
        """Answer, if the question was for this machine."""
        self._send(self._answer(), body=True)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self._send(self._answer(), body=False)

    def do_POST(self) -> None:
        """Nothing can be changed here."""
        self._send(_Answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET and HEAD only\n"), body=True)

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - the library's names

    def version_string(self) -> str:
        """Nothing of the versions that run here."""
        return "medattn-edge"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: whoever looks at the page is no event, and what was asked for may be anything."""

    def _answer(self) -> _Answer:
        self.server.half_open.done(self.connection)  # it has asked
        # A page elsewhere that has its own name lead here would read this one through the reader's browser.
        if not _is_this_machine(self.headers.get("Host", "")):
            return _Answer(HTTPStatus.MISDIRECTED_REQUEST, _TEXT, b"for this machine only\n")
        path, _, query = self.path.partition("?")
        with self.server.answers:
            return _answer(path, query, self.server.watched, self.server.log)

    def _send(self, answer: _Answer, *, body: bool) -> None:
        self.send_response(answer.status)
        for name, value in {**_HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if body:
            self.wfile.write(answer.body)


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine by a name that nobody else can have."""
    name = re.sub(r":\d{1,5}$", "", host).lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _answer(path: str, query: str, watched: Watched, log: Log) -> _Answer:
    if path == "/live":
        return _Answer(200, _TEXT, b"live\n")
    try:
        if found := _THUMBNAIL.fullmatch(path):
            picture = watched.thumbnail(found[1], int(found[2]))
            data = None if picture is None else _read(picture)
            return _Answer(404, _TEXT, b"no such picture\n") if data is None else _Answer(200, "image/png", data)
        if path not in _PATHS:
            return _Answer(404, _TEXT, f"{' '.join(_PATHS)}\n".encode())
        health = watched.health()
        if path == "/ready":
            return _Answer(200 if health.ready else 503, _TEXT, f"{health.why or 'ready'}\n".encode())
        return _seen(path, query, health, watched)
    except (MedattnError, OSError) as error:
        # The node's disk is full or gone: that is what the page has to say then. No message: it may name files.
        log.failure("status_failed", error, level=Level.WARNING)
        code = error.code if isinstance(error, MedattnError) else "disk"
        if path == "/":
            return _Answer(503, _HTML, page_without_records(code).encode())
        return _Answer(503, _TEXT, f"the records of the node cannot be read: {code}\n".encode())


def _seen(path: str, query: str, health: Health, watched: Watched) -> _Answer:
    snapshot = watched.snapshot()
    if path == "/metrics":
        return _Answer(200, CONTENT_TYPE, text_of(snapshot, health).encode())
    if path == "/status.json":
        text = json.dumps(document(snapshot, health), indent=1, allow_nan=False)
        return _Answer(200, "application/json; charset=utf-8", f"{text}\n".encode())
    shown = frozenset(
        (one.key, one.version) for one in snapshot.recent if watched.thumbnail(one.key, one.version) is not None
    )
    return _Answer(200, _HTML, page_of(snapshot, health, shown, refresh=query != "refresh=off").encode())


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None  # cleaned up while it was asked for


def document(snapshot: Snapshot, health: Health | None) -> dict[str, Any]:
    """What scripts read: fields may be added, never renamed. health: None when no node runs. NaN becomes null."""
    about_node = {} if health is None else _health(health)
    return {
        "running": health is not None,
        "ready": health is not None and health.ready,
        **about_node,
        "time": snapshot.now,
        "states": {state.value: count for state, count in snapshot.states.items()},
        "deliveries": {state.value: count for state, count in snapshot.deliveries.items()},
        "objects": snapshot.instances,
        "bytes": snapshot.bytes,
        "conflicts": snapshot.conflicts,
        "commitments": dict(snapshot.commitments),
        "committed": snapshot.committed,
        "attempts": snapshot.attempts,
        "delivery_retries": snapshot.retries,
        "stages": {name: _plain(asdict(spread)) for name, spread in snapshot.stages.items()},
        "recent": [_version(one) for one in snapshot.recent],
        "quarantined": [_version(one) for one in snapshot.quarantined],
        "undelivered": [_version(one) for one in snapshot.undelivered],
        "conflicted": [asdict(one) for one in snapshot.conflicted],
        "gathering": [_version(one) for one in snapshot.gathering],
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "why": health.why,
        "started": health.started,
        "version": health.version,
        "name": health.name,
        "site": health.site,
        "draining": health.draining,
        "workers": [asdict(worker) for worker in health.workers],
        "models": [
            {"name": name, "device": device, "artifact": artifact, "sha256": health.model_hashes.get(name, "")}
            for name, device, artifact in health.models
        ],
        "destinations": list(health.destinations),
        "associations": health.associations,
        "disk": {"total": health.disk.total, "free": health.disk.free, "refuses": health.disk.refuses},
    }


def _version(one: VersionSeen) -> dict[str, Any]:
    deliveries = [{**asdict(delivery), "state": delivery.state.value} for delivery in one.deliveries]
    return {**asdict(one), "state": one.state.value, "times": dict(one.times), "deliveries": deliveries}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
