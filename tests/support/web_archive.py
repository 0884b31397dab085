"""An archive that speaks DICOMweb over HTTP on loopback, as plainly as can be, and does wrong what a test wants."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

BOUNDARY = "b0undary"
_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "ImageType", "StudyDate", "SOPClassUID")


class Request(BaseHTTPRequestHandler):
    """One request; `archive` is who answers."""

    archive: WebArchive
    protocol_version = "HTTP/1.1"
    body = b""

    def reply(self, status: int, content: bytes, kind: str = "application/dicom+json", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def reply_json(self, value: Any, status: int = 200) -> None:
        """A list or a report."""
        self.reply(status, json.dumps(value).encode())

    def reply_parts(self, parts: Iterable[bytes]) -> None:
        """Objects of a series."""
        self.reply(200, multipart(parts), f'multipart/related; type="application/dicom"; boundary={BOUNDARY}')

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """A list or a series."""
        self._answer()

    def do_POST(self) -> None:
        """An object to store."""
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        self.archive.requests.append((self.command, self.path, dict(self.headers)))
        if self.archive.fault is None or not self.archive.fault(self):
            self.archive.answer(self)


Fault = Callable[[Request], Any]  # whether it has answered


def multipart(parts: Iterable[bytes], *, closed: bool = True) -> bytes:
    """The body that holds objects."""
    whole = b"".join(
        b"\r\n--" + BOUNDARY.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + part for part in parts
    )
    return whole + (b"\r\n--" + BOUNDARY.encode() + b"--" if closed else b"")


class WebArchive:
    """files: what it has. stored: what it was sent. requests: (method, path, headers) of each. fault: asked first."""

    def __init__(self, files: Sequence[Path] = (), tls: ssl.SSLContext | None = None) -> None:
        self.contents = [path.read_bytes() for path in files]
        self.stored: list[Any] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.fault: Fault | None = None
        self._tls, self._server = tls, ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=True)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, address: None  # type: ignore[assignment]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}/dicom-web"

    def __enter__(self) -> WebArchive:
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def datasets(self) -> list[Any]:
        """What it has, parsed."""
        return [pydicom.dcmread(BytesIO(content)) for content in self.contents]

    def of_series(self, uid: str) -> list[bytes]:
        """Its objects of a series."""
        return [
            content
            for content, dataset in zip(self.contents, self.datasets, strict=True)
            if uid == dataset.SeriesInstanceUID
        ]

    def answer(self, request: Request) -> None:
        """As it should be."""
        place, query = urlsplit(request.path), parse_qs(urlsplit(request.path).query)
        words = place.path.split("/")[2:]
        if request.command == "POST":
            request.reply_json(self._store(request.body))
        elif words[-1] == "instances":
            found = [one for one in self.datasets if one.SeriesInstanceUID == words[3]]
            request.reply_json(_page([_entry(one) for one in found], query))
        elif words[-1] in ("series", "studies"):
            request.reply_json(_page(self._series(words, query), query))
        else:
            request.reply_parts(self.of_series(words[3]))

    def _series(self, words: list[str], query: dict[str, list[str]]) -> list[Any]:
        series: dict[str, list[Any]] = {}
        for one in self.datasets:
            fits = all(
                str(getattr(one, key, "")) == values[0]
                for key, values in query.items()
                if key in _KEYS and "-" not in values[0]
            )
            if fits and (len(words) < 3 or str(one.StudyInstanceUID) == words[1]):
                series.setdefault(str(one.SeriesInstanceUID), []).append(one)
        return [
            {**_entry(ones[0]), "00201209": {"vr": "IS", "Value": [len(ones)]}} for _, ones in sorted(series.items())
        ]

    def _store(self, body: bytes) -> dict[str, Any]:
        datasets = [pydicom.dcmread(BytesIO(part)) for part in parts_of(body)]
        self.stored += datasets
        return report(referenced=[{"uid": one.SOPInstanceUID} for one in datasets])

    def _handler(self) -> type[Request]:
        return type("Bound", (Request,), {"archive": self})


def parts_of(body: bytes) -> list[bytes]:
    """The objects of a request to store."""
    boundary = body.lstrip().split(b"\r\n", 1)[0]
    return [part.split(b"\r\n\r\n", 1)[1] for part in body.split(b"\r\n" + boundary)[1:] if not part.startswith(b"--")]


def report(referenced: Sequence[dict[str, Any]] = (), failed: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """An answer to STOW-RS. Each: uid, and perhaps a code: of a warning, or of a failure."""

    def items(ones: Sequence[dict[str, Any]], tag: str) -> list[Any]:
        found = []
        for one in ones:
            item = {"00081155": {"vr": "UI", "Value": [str(one["uid"])]}}
            found.append({**item, tag: {"vr": "US", "Value": [one["code"]]}} if "code" in one else item)
        return found

    return {
        "00081198": {"vr": "SQ", "Value": items(failed, "00081197")},
        "00081199": {"vr": "SQ", "Value": items(referenced, "00081196")},
    }


def cut_off(request: Request, content: bytes, kind: str, promised: int) -> None:
    """An answer that ends before as many bytes as it promises."""
    request.send_response(200)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(promised))
    request.end_headers()
    request.wfile.write(content)
    request.wfile.flush()
    request.connection.shutdown(socket.SHUT_RDWR)


def _entry(dataset: Any) -> dict[str, Any]:
    full = json.loads(dataset.to_json(suppress_invalid_tags=True))
    tags = {f"{pydicom.datadict.tag_for_keyword(key):08X}" for key in _KEYS}
    return {tag: element for tag, element in full.items() if tag in tags}


def _page(entries: list[Any], query: dict[str, list[str]]) -> list[Any]:
    offset, limit = (int(query.get(key, [default])[0]) for key, default in (("offset", "0"), ("limit", "10000")))
    return entries[offset : offset + limit]
