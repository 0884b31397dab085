"""A node as its users have it: a TOML file, the installed command as a process, signals, and what its port says."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pydicom.uid import generate_uid

from tests.support.dicom_peers import AE_TITLE, free_port
from tests.support.dicom_phantoms import real_ct, write_series
from tests.support.networks import export_checkpoint, gated_spec, random_checkpoint

COMMAND = (sys.executable, "-c", "import sys; sys.argv[0] = 'medattn-edge'; from medattn_edge.cli import main; main()")
# A test waits for a second where a hospital waits for a minute.
QUICK: Mapping[str, Any] = {
    "quiet_s": 0.4,
    "max_wait_s": 30.0,
    "retry_initial_s": 0.2,
    "retry_max_s": 0.5,
    "max_used_fraction": 1.0,
    "min_free_gb": 0.0,
    "drain_s": 20.0,
}
# What a series goes through; a state that stays as it is when nothing is left to do has no place here.
UNFINISHED = ("receiving", "queued", "running", "segmented")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run medattn-edge to its end."""
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


@cache
def tiny_model(*, attention: bool = False, **changes: Any) -> Path:
    """A 2-D network of 32 x 32 windows, exported once for the whole session; about half of a real CT becomes organ.

    Args:
        attention: whether it answers its attention maps as well.
        changes: of its spec.
    """
    from medattn_edge.spec import Intensity

    spec = gated_spec(labels=("background", "right_lung"), intensity=Intensity.window(-1000, 400))
    spec = replace(spec, outputs=0, **changes)
    folder = Path(mkdtemp(prefix="medattn-node-"))
    atexit.register(shutil.rmtree, folder)
    checkpoint = random_checkpoint(spec, 4, balanced=True)
    return export_checkpoint(checkpoint, folder / "network.onnx", attention=attention).path


def toml(sections: Mapping[str, Any]) -> str:
    """Sections to TOML; a list of mappings is an array of tables."""
    lines: list[str] = []
    for name, tables in sections.items():
        several = isinstance(tables, Sequence)
        for table in tables if several else [tables]:
            lines.append(f"[[{name}]]" if several else f"[{name}]")
            lines += [f"{key} = {_toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, default=str)  # a path is written as text; JSON's texts and numbers are TOML's


@dataclass
class RunningNode:
    """One root folder, and the processes that run on it one after the other.

    more: sections of the configuration that are added to, or replace, those of a plain listener and one model.
    """

    folder: Path
    model: Path
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root, self.log_file = self.folder / "root", self.folder / "node.log"
        self.config = self.folder / "node.toml"
        self.port, self.status_port, self.tls_port = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self, **more: Any) -> None:
        """Write the file, from what it was and `more`; a section that is None is left out."""
        self.more.update(more)
        plain = {
            "node": {"root": self.root, "log_file": self.log_file},
            "receive": {"ae_title": AE_TITLE, "port": self.port, "calling_ae": ["SCANNER", "ORTHANC"]},
            "model": [{"name": "lungs", "artifact": self.model, "threads": 1}],
            "limits": {},
            "status": {"port": self.status_port},
        }
        sections = {**plain, **self.more}
        sections["limits"] = {**QUICK, **sections["limits"]}
        self.config.write_text(toml({name: table for name, table in sections.items() if table is not None}))

    # The process

    def start(self, *, ready: bool = True) -> RunningNode:
        """Start the command; with `ready`, wait until it says that it is."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.folder / "stderr.txt").open("ab") as stderr:
            words = [*COMMAND, "node", "--config", str(self.config)]
            self.process = subprocess.Popen(words, stdout=stderr, stderr=stderr, env=environment)
        if ready:
            self.wait(lambda: self.get("/ready")[0] == 200, "ready", 60)
        return self

    def __enter__(self) -> RunningNode:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *ended: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of the node's children, as the kernel has them."""
        found: list[int] = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has ended since
                found += [int(pid) for pid in path.read_text().split()]
        return found

    def kill(self) -> None:
        """SIGKILL for the node; its worker ends by itself."""
        if self.process is not None:
            workers = self.workers()
            self.process.kill()
            self.process.wait()
            limit = time.monotonic() + 10
            while any(_runs(pid) for pid in workers):
                assert time.monotonic() < limit, "a worker outlives its node"
                time.sleep(0.01)

    def kill_worker(self) -> bool:
        """SIGKILL for the worker, False when there is none."""
        workers = self.workers()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(workers)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, within_s: float = 60) -> int:
        """SIGTERM, and wait; the exit code."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(within_s)

    # What it says

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body); (0, b"") while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def status(self) -> dict[str, Any]:
        """status.json; empty while nobody answers."""
        code, body = self.get("/status.json")
        return json.loads(body) if code == 200 else {}

    def log(self) -> list[dict[str, Any]]:
        """Every line of the log. A line that is no JSON fails the test."""
        if not self.log_file.exists():
            return []
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == name]

    def said(self) -> str:
        """For the message of a failed test: the end of the log and of stderr."""
        stderr = self.folder / "stderr.txt"
        log = self.log_file.read_text()[-3000:] if self.log_file.exists() else ""
        return f"{log}\n{stderr.read_text()[-3000:] if stderr.exists() else ''}"

    def wait(self, found: Callable[[], Any], what: str, seconds: float = 40) -> Any:
        """Poll until something is true; the node must live meanwhile."""
        limit = time.monotonic() + seconds
        while True:
            if result := found():
                return result
            assert self.alive, f"the node has ended while it was waited for: {what}\n{self.said()}"
            assert time.monotonic() < limit, f"not in {seconds} s: {what}\n{self.said()}"
            time.sleep(0.05)

    def wait_until_done(self, series: int, seconds: float = 60) -> dict[str, int]:
        """Wait until at least so many versions are on record and none has anything left to be done."""

        def done() -> dict[str, int]:
            states = self.status().get("states", {})
            return states if sum(states.values()) >= series and not _left(states) else {}

        states: dict[str, int] = self.wait(done, f"{series} series done", seconds)
        return states

    def unfinished(self) -> int:
        """How many versions have something left to be done; one while nobody answers."""
        return _left(self.status().get("states", {"receiving": 1}))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the database, read only."""
        database = sqlite3.connect(f"file:{self.root / 'node.sqlite'}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()


def _left(states: Mapping[str, int]) -> int:
    return sum(states.get(name, 0) for name in UNFINISHED)


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True)
class Scan:
    """A series of a real CT on disk: what a scanner would send. number: another one is another study."""

    folder: Path
    number: int
    slices: int = 6
    changes: Mapping[str, Any] = field(default_factory=dict)

    def write(self) -> list[Path]:
        """Its files in slice order, written once."""
        where = self.folder / f"series-{self.number}"
        if where.exists():
            return sorted(where.iterdir())
        scan = _real_ct()
        changes = {"SeriesInstanceUID": self.uid, **self.changes}
        return write_series(where, scan.voxels[: self.slices], scan.affine, **changes)

    @property
    def uid(self) -> str:
        return f"1.2.826.0.1.3680043.8.498.4711.{self.number}"

    @property
    def instances(self) -> frozenset[str]:
        return frozenset(generate_uid(entropy_srcs=[self.uid, str(index)]) for index in range(self.slices))

    @property
    def study(self) -> str:
        return str(generate_uid(entropy_srcs=["study", self.uid]))


@cache
def _real_ct() -> Any:
    return real_ct()
