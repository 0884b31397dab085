"""HTTP for the client: no redirects, no proxies, no unbounded answers, no retries, and an end to every request."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError
from medattn_edge.io.tls import connecting_context

LEAST_BYTES_PER_S: Final = 125_000  # in the mean, after the timeout; a slow line is no archive that hangs
MOST_BYTES: Final = 8_000_000_000  # of a series, as the node takes
MOST_OBJECT_BYTES: Final = 2_048_000_000  # of one object, which is in memory as a whole
MOST_LIST_BYTES: Final = 64_000_000  # of an answer in JSON
_BLOCK: Final = 1 << 18
_REASONS: Final = {401: "credentials_refused", 403: "forbidden", 404: "no_service", 405: "no_service"}
_BUSY: Final = (408, 425, 429)


class Pace:
    """What one request has brought so far, and how long it may take."""

    def __init__(self, archive: Archive, most: int) -> None:
        self._archive, self._most = archive, most
        self._began, self._total, self._of_object = time.monotonic(), 0, 0

    def object_ended(self) -> None:
        """What comes now is the next object's."""
        self._of_object = 0

    def add(self, count: int) -> None:
        """Raise ArchiveError or ArchiveDataError when it is too much, or comes too slowly."""
        self._total, self._of_object = self._total + count, self._of_object + count
        if self._total > self._most or self._of_object > MOST_OBJECT_BYTES:
            raise ArchiveDataError("too_much", self._archive.url, f"more than {self._total - count:,} bytes")
        seconds = time.monotonic() - self._began - self._archive.timeout_s
        if seconds > self._total / LEAST_BYTES_PER_S:
            detail = f"{self._total:,} bytes in {seconds + self._archive.timeout_s:.0f} s"
            raise ArchiveError("too_slow", self._archive.url, detail)


class _Body:
    """The body of an answer, read in the blocks in which it comes."""

    def __init__(self, raw: Any, archive: Archive, pace: Pace) -> None:
        self._raw, self._archive, self._pace = raw, archive, pace

    def stream(self, amt: int = _BLOCK, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's, without waiting until a block is full: a byte now and then would hold us for ever."""
        whole = False
        try:
            while data := self._raw.read1(_BLOCK):
                self._pace.add(len(data))
                yield data
            whole = True
        except urllib3.exceptions.TimeoutError as error:
            raise ArchiveError("no_answer", self._archive.url, "in the middle of its answer") from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise ArchiveError("aborted", self._archive.url, "in the middle of its answer") from error
        finally:
            if not whole:
                self._raw.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _Watched(urllib3.connection.HTTPConnection):
    """A connection whose socket can be closed from outside."""

    open_sockets: list[socket.socket]

    def connect(self) -> None:
        super().connect()
        self.open_sockets.append(self.sock)


class _WatchedTls(urllib3.connection.HTTPSConnection):
    """The same with TLS."""

    open_sockets: list[socket.socket]

    def connect(self) -> None:
        super().connect()
        self.open_sockets.append(self.sock)


class Transport(HTTPAdapter):
    """Sends every request of a session to one archive; what is no good answer raises ArchiveError.

    Attributes:
        pace: of the last request.
    """

    def __init__(self, archive: Archive) -> None:
        """Nothing is opened yet. Raises UsageError for certificates that cannot be used."""
        self._archive = archive
        context = connecting_context(archive.ca, archive.certificate, archive.key) if archive.encrypted else None
        self._sockets: list[socket.socket] = []
        self._tls = {} if context is None else {"ssl_context": context}
        self.pace = Pace(archive, MOST_LIST_BYTES)
        super().__init__(max_retries=0)
        plain = type("Watched", (_Watched,), {"open_sockets": self._sockets})
        tls = type("WatchedTls", (_WatchedTls,), {"open_sockets": self._sockets})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """With our own TLS: the library would trust its own authorities as well."""
        place, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return place, dict(self._tls)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The same."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        """One request; its answer's body is not read yet, unless it is a refusal.

        Raises:
            ArchiveError: when there is no answer, or none that can be used.
        """
        request.headers.pop("Host", None)  # the client leaves the port out, and the library knows better
        size = len(request.body) if isinstance(request.body, bytes | bytearray) else 0
        wanted = str(request.headers.get("Accept", ""))
        self.pace = Pace(self._archive, MOST_LIST_BYTES if "json" in wanted else MOST_BYTES)
        late = threading.Event()
        watchdog = threading.Timer(self._archive.timeout_s + size / LEAST_BYTES_PER_S, self._hang_up, (late,))
        watchdog.daemon = True
        watchdog.start()
        try:
            answer = super().send(request, *args, **{**more, "proxies": None})
        except requests.RequestException as error:
            raise self._failure(error, late.is_set()) from error
        finally:
            watchdog.cancel()
        answer.raw = _Body(answer.raw, self._archive, self.pace)
        if 300 <= answer.status_code < 400 or "Content-Encoding" in answer.headers:
            self._refuse(answer, "redirected" if answer.status_code >= 300 else "not_dicomweb")
        refused = answer.status_code >= 400
        if refused and not (request.method == "POST" and answer.status_code in (400, 409)):
            self._refuse(answer, reason_of(answer.status_code))
        if not refused and request.method == "GET" and answer.status_code != 204:
            self._check_kind(answer, wanted)
        return answer

    def close(self) -> None:
        """Close every connection."""
        super().close()
        for one in self._sockets:
            one.close()

    def _hang_up(self, late: threading.Event) -> None:
        late.set()
        for one in self._sockets:
            try:
                # The plain socket's: that of TLS would first forget its keys, under a thread that uses them.
                socket.socket.shutdown(one, socket.SHUT_RDWR)
            except OSError:  # it is closed
                continue

    def _failure(self, error: requests.RequestException, late: bool) -> ArchiveError:
        chain = _causes(error)
        for kind, reason in (
            (urllib3.exceptions.NameResolutionError, "host_unknown"),
            (requests.exceptions.SSLError, "tls_refused"),
            (ssl.SSLError, "tls_refused"),
        ):
            if any(isinstance(one, kind) for one in chain):
                return ArchiveError(reason, self._archive.url)
        if late or isinstance(error, requests.exceptions.ReadTimeout):
            return ArchiveError("no_answer", self._archive.url, f"within {self._archive.timeout_s:g} s")
        new = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
        if any(isinstance(one, new) for one in chain):
            return ArchiveError("no_connection", self._archive.url)
        return ArchiveError("aborted", self._archive.url)

    def _refuse(self, answer: requests.Response, reason: str) -> None:
        answer.close()
        raise ArchiveError(reason, self._archive.url, status=answer.status_code)

    def _check_kind(self, answer: requests.Response, wanted: str) -> None:
        """A page to log in has the status of success as well."""
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        of_list = ("application/dicom+json", "application/json")
        allowed = of_list if "json" in wanted else ("multipart/related", "application/dicom")
        if kind not in allowed:
            answer.close()
            detail = f"{'text of HTML' if 'html' in kind else 'another kind of content'} instead of {allowed[0]}"
            raise ArchiveError("not_dicomweb", self._archive.url, detail)


def _causes(error: BaseException) -> list[BaseException]:
    """An error and all that it stands for: both libraries wrap one into another, each in its own way."""
    found, waiting = list[BaseException](), [error]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
            waiting += [cause for cause in inner if isinstance(cause, BaseException)]
    return found


def reason_of(status: int) -> str:
    """The reason that a status of HTTP from 400 on stands for."""
    if status in _REASONS:
        return _REASONS[status]
    return "unavailable" if status >= 500 or status in _BUSY else "request_refused"
