"""The durable half of a node: its folder, a clock that stands still, and objects that look like DICOM to nobody but us.

The durable half of the node reads no DICOM: an object here is JSON with the UIDs, and `read_header` reads that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medattn_edge.errors import ScanError
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.disk import Watermark
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.records import Header, Job, Output, Placement, Policy, Received
from medattn_edge.scanner.store.recovery import Recovery
from medattn_edge.scanner.store.schema import MIGRATIONS, Migration
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store

POLICY = Policy(quiet_s=60, max_wait_s=600, delivery_attempts=3)


CHANNELS = ("T1", "FLAIR")  # series that are the channels of one study


def sample(series: object, number: object, more: str = "") -> tuple[bytes, Header]:
    """An object and its header. A series whose name is one of CHANNELS has that description."""
    header = _header(f"1.2.3.{series}.{number}", f"1.2.3.{series}")
    return json.dumps({"series": header.series_uid, "sop": header.sop_uid, "more": more}).encode(), header


def _header(sop_uid: str, series_uid: str) -> Header:
    name = series_uid.removeprefix("1.2.3.")
    description = name if name in CHANNELS else ""
    return Header(sop_uid, "1.2.840.10008.5.1.4.1.1.2", series_uid, "1.2.3", "CT", "CHEST", description)


def place(job: Job) -> Placement | None:
    """Which channel of the study a series is."""
    return Placement("glioma", (job.description,), CHANNELS) if job.description in CHANNELS else None


def read_header(path: Path) -> Header:
    """The header of an object that `sample` made. Raises ScanError for anything else."""
    try:
        told = json.loads(path.read_bytes())
        return _header(told["sop"], told["series"])
    except (ValueError, KeyError) as error:
        raise ScanError(f"cannot read {path.name}") from error


@dataclass
class Node:
    """The durable half of a node, and what a test does with it again and again."""

    root: Path
    policy: Policy = POLICY
    now: float = 1_000_000.0
    limits: dict[str, Any] = field(default_factory=lambda: {"max_used_fraction": 1.0, "min_free": 0})

    migrations: tuple[Migration, ...] = MIGRATIONS

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.spool = Spool(self.root)
        layout = self.spool.layout
        site = site_key(layout.site_key)
        self.store = Store(layout.database, site, self.policy, lambda: self.now, self.migrations)
        self.custody = Custody(self.spool, self.store, Watermark(self.root, **self.limits))

    def restart(self, read: Callable[[Path], Header] = read_header) -> Recovery:
        """What kill -9 and a new start do, as far as files and rows can tell."""
        self.store.close()
        self.open()
        return self.custody.recover(read)

    def keep(self, series: object, number: object, more: str = "", **header: str) -> Received:
        data, read = sample(series, number, more)
        return self.custody.keep(data, replace(read, **header), "SCANNER")

    def key(self, series: object) -> str:
        return self.store.site.series_key(f"1.2.3.{series}")

    @property
    def study_key(self) -> str:
        return self.store.site.study_key("1.2.3", "glioma")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def job(self, series: object = 1, count: int = 2) -> Job:
        """A running job of a new series."""
        for number in range(count):
            self.keep(series, number)
        self.pass_time(60)
        self.custody.queue_complete()
        job = self.custody.claim("worker-0")
        assert job is not None
        return job

    def segment(self, job: Job, *destinations: str, volumes_ml: Mapping[str, float] | None = None) -> bool:
        """Write a result and hand it in."""
        folder = self.custody.working_folder(job)
        (folder / "seg.dcm").write_bytes(b"seg of " + ",".join(job.names).encode())
        (folder / "overlay.png").write_bytes(b"picture")
        outputs = (Output("seg", "seg.dcm", "2.25.1"), Output("overlay", "overlay.png"))
        return self.custody.record_result(job, folder, outputs, destinations, volumes_ml)
