"""What a node is measured with: itself as a process, an archive in a process of its own, and a sender."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("medattn-edge")
QUIET_S = 1.0
ARCHIVE = """
import sys, time
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
_config.LOG_HANDLER_LEVEL = "none"
def store(event):
    found = event.dataset
    [series] = found.ReferencedSeriesSequence
    print(series.SeriesInstanceUID, found.SOPInstanceUID, time.time(), flush=True)
    return 0
ae = AE(ae_title="ARCHIVE")
ae.add_supported_context("1.2.840.10008.5.1.4.1.1.66.4", ALL_TRANSFER_SYNTAXES)
server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
print(server.server_address[1], flush=True)
sys.stdin.read()
"""


class Archive:
    """A storing SCP in a process of its own."""

    def __enter__(self) -> Archive:
        words = [sys.executable, "-c", ARCHIVE]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._accepted: dict[str, tuple[str, float]] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            series, instance, when = line.split()
            with self._news:
                known = self._accepted.get(series)
                if known is not None and known[0] != instance:
                    sys.exit("one series was delivered under two identities")
                self._accepted.setdefault(series, (instance, float(when)))
                self._news.notify_all()

    def wait(self, series: str, seconds: float = 300.0) -> float:
        """When the segmentation of a series was accepted, in seconds since 1970."""
        with self._news:
            if not self._news.wait_for(lambda: series in self._accepted, seconds):
                sys.exit(f"no segmentation within {seconds:g} s")
            return self._accepted[series][1]


@dataclass
class Node:
    """A node with one model and one archive."""

    folder: Path
    artifact: Path
    archive: int

    def __enter__(self) -> Node:
        self.port, self.status_port = free_port(), free_port()
        self.config, self.process = self.folder / "node.toml", None
        self.config.write_text(
            f"""
[node]
root = "root"
[receive]
calling_ae = ["SCANNER"]
port = {self.port}
max_associations = 32
[[model]]
name = "model"
artifact = {json.dumps(str(self.artifact))}
[[destination]]
name = "archive"
host = "127.0.0.1"
port = {self.archive}
ae_title = "ARCHIVE"
[limits]
quiet_s = {QUIET_S}
max_used_fraction = 1.0
min_free_gb = 0.1
[status]
port = {self.status_port}
""",
            encoding="utf-8",
        )
        return self

    def __exit__(self, *ended: object) -> None:
        self._end()

    def start(self) -> float:
        """End the one that runs, start another; seconds until it is ready."""
        self._end()
        start = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, "node", "--config", self.config], stderr=log)
        while self._get("/ready") is None:
            if self.process.poll() is not None or time.perf_counter() - start > 300:
                sys.exit((self.folder / "log").read_text(encoding="utf-8"))
            time.sleep(0.005)
        return time.perf_counter() - start

    def status(self) -> dict[str, Any]:
        """What the node says of itself."""
        found: dict[str, Any] = json.loads(self._get("/status.json") or b"{}")
        return found

    def memory(self) -> tuple[float, float]:
        """Resident MB of the node and of its worker."""
        assert self.process is not None
        [worker] = self.status()["workers"]
        return resident_mb(self.process.pid), resident_mb(worker["pid"])

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}{path}", timeout=10) as answer:
                found: bytes = answer.read()
                return found
        except (urllib.error.URLError, ConnectionError):
            return None

    def _end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def send(port: int, sources: list[Any]) -> tuple[str, float]:
    """One association with one series under new UIDs; its UID, and when the last object was answered."""
    from pydicom.uid import generate_uid
    from pynetdicom import AE, _config

    _config.LOG_HANDLER_LEVEL = "none"
    ae, uid = AE(ae_title="SCANNER"), str(generate_uid())
    ae.add_requested_context(sources[0].SOPClassUID, sources[0].file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title="MEDATTN")
    if not association.is_established:
        sys.exit("the node did not accept the association")
    for number, source in enumerate(sources, start=1):
        dataset = copy.copy(source)
        dataset.file_meta = copy.copy(source.file_meta)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uid, f"{uid[:56]}.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        status = association.send_c_store(dataset)
        if status.Status != 0:
            sys.exit(f"the node answered {status.Status:04x}")
    answered = time.time()
    association.release()
    return uid, answered


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def resident_mb(pid: int) -> float:
    """The resident set of a process, in 1e6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
