"""The other ends: Orthanc, dcmtk's programs, and a pynetdicom archive that can be down, slow, or refuse."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from pynetdicom import AE, _config, evt

AE_TITLE = "MEDATTN"
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_config.LOG_HANDLER_LEVEL = "none"

# pynetdicom installs programs of the same names into an environment, and an active one comes first in PATH.
_NOT_OURS = os.pathsep.join(
    folder for folder in os.get_exec_path() if not (Path(folder).parent / "pyvenv.cfg").is_file()
)
needs_dcmtk = pytest.mark.skipif(shutil.which("storescu", path=_NOT_OURS) is None, reason="apt-get install dcmtk")
needs_orthanc = pytest.mark.skipif(shutil.which("Orthanc") is None, reason="apt-get install orthanc")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# dcmtk


def dcmtk(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run one of dcmtk's programs."""
    found = shutil.which(program, path=_NOT_OURS) or program
    return subprocess.run([found, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)


def storescu(port: int, files: Iterable[Path], *more: object, called: str = AE_TITLE, calling: str = "SCANNER") -> Any:
    """One association with all files."""
    return dcmtk("storescu", *more, "-aet", calling, "-aec", called, "127.0.0.1", port, *files)


def dcmsend(port: int, files: Iterable[Path], *more: object) -> Any:
    """As storescu, with a transfer syntax for every file."""
    return dcmtk("dcmsend", *more, "-aet", "SCANNER", "-aec", AE_TITLE, "127.0.0.1", port, *files)


# A scanner


class Sent(NamedTuple):
    """How a sender's association went. statuses: of each object; None where no answer came."""

    accepted: bool
    statuses: list[int | None]


def send(
    port: int,
    objects: Iterable[Any],
    *,
    calling: str = "SCANNER",
    called: str = AE_TITLE,
    tls: Any = None,
    each: Callable[[int], None] | None = None,
) -> Sent:
    """C-STORE data sets or files in one association. each: called after each answer with its number."""
    datasets = [pydicom.dcmread(one) if isinstance(one, Path) else one for one in objects]
    ae = AE(ae_title=calling)
    ae.connection_timeout, ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = 10, 30, 10, 60
    for kind in sorted({(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in datasets}):
        ae.add_requested_context(*kind)
    with closing_sockets() as opened:
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, opened)]
        association = ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls, evt_handlers=handlers)
        if not association.is_established:
            return Sent(False, [])
        return Sent(True, _sent(association, datasets, each))


def _sent(association: Any, datasets: Sequence[Any], each: Callable[[int], None] | None) -> list[int | None]:
    statuses: list[int | None] = []
    for number, dataset in enumerate(datasets):
        if not association.is_established:
            break
        try:
            answer = association.send_c_store(dataset, msg_id=number % 65535 + 1)
        except RuntimeError:
            break
        statuses.append(answer.Status if "Status" in answer else None)
        if each is not None:
            each(number)
    if association.is_established:
        association.release()
    association.join(5)
    return statuses


@contextmanager
def closing_sockets() -> Iterator[Callable[[Any], None]]:
    """Takes EVT_CONN_OPEN: the library forgets to close a socket that the other side has closed."""
    found = []
    try:
        yield lambda event: found.append(event.assoc.dul.socket.socket)
    finally:
        for one in found:
            one.close()


# An archive


class Archive:
    """stored: every object in the order of its coming. before: called in the middle of each C-STORE.

    status: what it answers; nothing is stored unless it is 0. slow_s: before each answer.
    """

    def __init__(self, port: int = 0, tls: Any = None) -> None:
        self.stored: list[Any] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.status, self.slow_s, self.port = 0, 0.0, port or free_port()
        self._tls, self._lock = tls, threading.Lock()
        self._server: Any = None
        self._sockets = ExitStack()

    def __enter__(self) -> Archive:
        self.up()
        return self

    def __exit__(self, *ended: object) -> None:
        self.down()

    def up(self) -> None:
        """Listen, at the same port as ever."""
        ae = AE(ae_title="PACS")
        for one in (SEG, "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.1"):
            ae.add_supported_context(one, [EXPLICIT, IMPLICIT])
        opened = self._sockets.enter_context(closing_sockets())
        handlers: list[Any] = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_CONN_OPEN, opened)]
        address = ("127.0.0.1", self.port)
        self._server = ae.start_server(address, block=False, evt_handlers=handlers, ssl_context=self._tls)

    def down(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        self._sockets.close()

    @property
    def destination(self) -> dict[str, Any]:
        """Its section of a configuration."""
        return {"name": "pacs", "host": "127.0.0.1", "port": self.port, "ae_title": "PACS", "timeout_s": 10.0}

    @property
    def segs(self) -> list[Any]:
        with self._lock:
            return [one for one in self.stored if one.SOPClassUID == SEG]

    def identities(self) -> dict[tuple[str, frozenset[str]], set[str]]:
        """(series, its instances that were segmented) -> the SOPInstanceUIDs of the segmentations of them."""
        found: dict[tuple[str, frozenset[str]], set[str]] = {}
        for one in self.segs:
            found.setdefault(about(one), set()).add(str(one.SOPInstanceUID))
        return found

    def _on_store(self, event: Any) -> int:
        self.before()
        time.sleep(self.slow_s)
        if self.status == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            with self._lock:
                self.stored.append(dataset)
        self.after()
        return self.status


def about(seg: Any) -> tuple[str, frozenset[str]]:
    """The series that a segmentation refers to, and which of its instances."""
    [series] = seg.ReferencedSeriesSequence
    return str(series.SeriesInstanceUID), frozenset(
        str(one.ReferencedSOPInstanceUID) for one in series.ReferencedInstanceSequence
    )
