"""A node, measured from outside: from the last C-STORE of a series to its segmentation in the archive.

    python benchmarks/node.py ARTIFACT SCAN -o results.json [--series 24] [--many 100] [--senders 4] [--deadline 5]

SCAN becomes CT series (the same voxels under new UIDs), which go to a node by C-STORE; an archive in a process of its
own writes down when it has accepted which segmentation. Cold start: from the start of the process until /ready.
Latency: one series at a time. Throughput: several senders at once. Memory: the resident sets of the node and its worker
over many series. Stages are the node's own, the whole is by the sender's and the archive's clock, which are one here.
The quiet time is part of the whole, and told: nobody can know sooner that a series is complete.
"""

from __future__ import annotations

import copy
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from volume import environment

# The series are those that the tests send as well.
sys.path.append(str(Path(__file__).parent.parent / "tests"))

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


def main(  # noqa: PLR0913
    artifact: Path,
    scan: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    series: Annotated[int, typer.Option(min=1, help="For latency.")] = 24,
    many: Annotated[int, typer.Option(min=0, help="For memory.")] = 100,
    senders: Annotated[int, typer.Option(min=1)] = 4,
    deadline: Annotated[float, typer.Option(help="Seconds from the last C-STORE, the quiet time included.")] = 5.0,
    slices: Annotated[int, typer.Option(min=2, help="Of each series, from the middle of the scan.")] = 64,
) -> None:
    """Measure, and write one JSON file."""
    sources = made(scan, slices)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        archive = stack.enter_context(Archive())
        node = stack.enter_context(Node(Path(folder), artifact.absolute(), archive.port))
        cold = [node.start() for _ in range(5)]
        one(node, archive, sources)  # the first series of a process pays for its first imports
        latency = [one(node, archive, sources) for _ in range(series)]
        stages = node.status()["stages"]
        throughput = at_once(node, archive, sources, senders, max(2, series // senders))
        memory = []
        for _ in range(many):
            one(node, archive, sources)
            memory.append(node.memory())
        last = node.status()
    settled = memory[len(memory) // 10 :]
    document = {
        "kind": "node",
        "environment": environment(0),
        "artifact": artifact.name,
        "scan": {"slices": len(sources), "rows": int(sources[0].Rows), "columns": int(sources[0].Columns)},
        "quiet_s": QUIET_S,
        "cold_start_s": {"runs": cold, "median": statistics.median(cold)},
        "latency": {
            "series": len(latency),
            "whole_s": spread(latency),
            "deadline_s": deadline,
            "deadline_misses": sum(seconds > deadline for seconds in latency),
            "stages_s": {name: {part: told[part] for part in ("p50", "p90", "max")} for name, told in stages.items()},
        },
        "throughput": throughput,
        "memory": {
            "series": len(memory),
            "node_mb": growth([node_mb for node_mb, _ in settled]),
            "worker_mb": growth([worker_mb for _, worker_mb in settled]),
        }
        if memory
        else None,
        "states": last["states"],
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: document[key] for key in ("cold_start_s", "latency", "throughput", "memory")}, indent=1))


def made(scan: Path, slices: int) -> list[Any]:
    """The slices of one CT series."""
    import numpy as np
    from dicom_phantoms import make_series

    from medattn_edge.io import read_volume

    volume = read_volume(scan).to_lps()
    start = max(0, (volume.shape[0] - slices) // 2)
    affine = np.array(volume.affine)
    affine[:3, 3] = volume.point(start, 0, 0)
    voxels = np.ascontiguousarray(volume.voxels[start : start + slices]).round().astype(np.int16)
    return list(make_series(voxels, affine))


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
most_used = 1.0
least_free_gb = 0.1
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


def one(node: Node, archive: Archive, sources: list[Any]) -> float:
    """Send one series; seconds from the answer to its last object until the archive has its segmentation."""
    uid, sent = send(node.port, sources)
    return archive.wait(uid) - sent


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


def at_once(node: Node, archive: Archive, sources: list[Any], senders: int, each: int) -> dict[str, Any]:
    """Several senders, each with several series; from the first association to the last segmentation."""
    uids: list[str] = []

    def work() -> None:
        for _ in range(each):
            uids.append(send(node.port, sources)[0])

    start = time.time()
    threads = [threading.Thread(target=work) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    received = time.time()
    end = max(archive.wait(uid, 1800) for uid in uids)
    size = sum(len(source.PixelData) for source in sources) * len(uids)
    return {
        "senders": senders,
        "series": len(uids),
        "received_mb_per_s": size / 1e6 / (received - start),
        "received_objects_per_s": len(uids) * len(sources) / (received - start),
        "series_per_minute": 60 * len(uids) / (end - start),
    }


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


def spread(values: list[float]) -> dict[str, float]:
    """Median, 90th percentile and maximum, each a value that occurred."""
    ordered = sorted(values)
    count = len(ordered)
    return {"p50": ordered[(count - 1) // 2], "p90": ordered[-(-9 * count // 10) - 1], "max": ordered[-1]}


def growth(values: list[float]) -> dict[str, float]:
    """The medians of the first and the last quarter, and the largest."""
    quarter = max(1, len(values) // 4)
    return {
        "first_quarter": statistics.median(values[:quarter]),
        "last_quarter": statistics.median(values[-quarter:]),
        "max": max(values),
    }


if __name__ == "__main__":
    typer.run(main)
