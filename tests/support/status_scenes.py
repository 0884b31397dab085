"""What a status page may have to show: real stores in the states of a night, and the health that a node would tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from medattn_edge.scanner.observe.health import Health, WorkerSeen
from medattn_edge.scanner.store.disk import Disk
from medattn_edge.scanner.store.records import Job
from medattn_edge.scanner.store.snapshot import Snapshot
from tests.support.durable_node import Node

MODELS = (("lungs", "cpu", "onnx"), ("vessels", "cuda:0", "engine"))
VOLUMES_ML = {"right_lung": 2345.678, "left_lung": 2101.0, "nodule": 0.0421, "spine": 0.0}
WORKERS = (WorkerSeen("cpu", True, False, 4242, 0, 310.4), WorkerSeen("cuda:0", True, True, 4243, 2, 2048.0))


@dataclass
class Watched:
    """A node of files and rows, as its page sees it; its health is that of a node whose workers are ready."""

    node: Node
    ready: bool = True
    why: str = ""
    name: str = "reading-room-2"
    config: str = ""
    destinations: tuple[str, ...] = ("pacs", "folder")
    workers: tuple[WorkerSeen, ...] = WORKERS
    disk: Disk | None = None

    def snapshot(self) -> Snapshot:
        return self.node.store.snapshot()

    def health(self) -> Health:
        return Health(
            ready=self.ready,
            why=self.why,
            started=self.node.now - 90_000,
            version="9.9.0",
            name=self.name,
            site=self.node.store.site.fingerprint,
            draining=self.why == "draining",
            workers=self.workers,
            models=MODELS,
            destinations=self.destinations,
            associations=1,
            disk=self.disk or self.node.custody.disk(),
            config=self.config,
        )

    def thumbnail(self, key: str, version: int) -> Path | None:
        path = self.node.spool.result(key, version) / "overlay.png"
        return path if path.is_file() else None


def picture(path: Path, shade: int) -> None:
    """A picture like an overlay: slices in grey, labels in colour."""
    image = Image.new("RGB", (512, 240), (20, 20, 24))
    draw = ImageDraw.Draw(image)
    for left in (10, 180, 350):
        draw.ellipse((left, 30, left + 150, 200), fill=(shade, shade, shade))
        draw.rectangle((left + 40, 80, left + 90, 140), outline=(255, 200, 40), width=3)
    image.save(path)


def running(node: Node, series: object, count: int = 3, seconds: float = 60) -> Job:
    """A series that a worker has claimed."""
    for number in range(count):
        node.keep(series, number)
        node.pass_time(0.5)
    node.pass_time(seconds)
    node.custody.queue_complete()
    node.pass_time(2)
    job = node.custody.claim("worker-0")
    assert job is not None
    return job


def segmented(node: Node, series: object, *destinations: str, seconds: float = 7.25) -> Job:
    """A series whose result is on disk, with a picture."""
    job = running(node, series)
    node.pass_time(seconds)
    assert node.segment(job, *destinations, volumes_ml=VOLUMES_ML)
    picture(node.spool.result(job.key, job.version) / "overlay.png", 90 + len(str(series)) * 10)
    return job


def accepted(node: Node, job: Job, *, seconds: float = 1.5) -> None:
    """Every destination takes the result."""
    node.pass_time(seconds)
    for due in node.store.deliveries.due():
        if due.key == job.key:
            node.store.deliveries.record_delivered(due)


def refused(node: Node, job: Job, destination: str, reason: str, times: int) -> None:
    """A destination does not take the result; the third time it is dead."""
    for _ in range(times):
        node.pass_time(1_000)
        for due in node.store.deliveries.due(destination):
            if due.key == job.key:
                node.store.deliveries.record_failure(due, reason)


def nothing_yet(node: Node) -> Watched:
    """Started just now."""
    return Watched(node, ready=False, why="starting", workers=tuple(replace(one, ready=False) for one in WORKERS))


def calm(node: Node) -> Watched:
    """Some series, all delivered, one on its way."""
    for series in range(3):
        accepted(node, segmented(node, series, "pacs", "folder"))
    running(node, "now")
    node.pass_time(12)
    return Watched(node)


def many(node: Node) -> Watched:
    """A full day: more series than the page lists, in every state that is not a trouble."""
    for series in range(40):
        accepted(node, segmented(node, series, "pacs", "folder", seconds=4 + series % 9))
    segmented(node, "fresh", "pacs", "folder")
    running(node, "running")
    for series in range(4):
        node.keep(f"queued{series}", 1)
    node.pass_time(60)
    node.custody.queue_complete()
    for series in range(3):
        node.keep(f"coming{series}", 1)
    node.pass_time(3)
    return Watched(node)


def quarantine(node: Node) -> Watched:
    """Poison of several kinds."""
    accepted(node, segmented(node, "good", "pacs", "folder"))
    for series in range(7):
        node.custody.quarantine(running(node, f"hole{series}", 40), "missing_slice", "12.5 mm between slices 17 and 18")
    node.custody.quarantine(running(node, "crash"), "crashed")
    node.custody.quarantine(running(node, "lonely", 1), "no_model")
    node.custody.quarantine(running(node, "shape"), "shape", "2 voxels along z; expected at least 4")
    node.pass_time(5_000)
    return Watched(node, config="/etc/medattn edge/node.toml")


def all_down(node: Node) -> Watched:
    """No worker, no archive, no disk."""
    given_up = segmented(node, "lost", "pacs", "folder")
    refused(node, given_up, "pacs", "calling_title_unknown", 3)
    refused(node, given_up, "folder", "folder_missing", 1)
    for series in range(8):
        refused(node, segmented(node, f"waits{series}", "pacs", "folder"), "pacs", "no_connection", 2)
    node.custody.quarantine(running(node, "big"), "out_of_memory")
    node.keep("coming", 1)
    return Watched(
        node,
        ready=False,
        why="disk_full",
        workers=(replace(WORKERS[0], ready=False, pid=None, restarts=17, rss_mb=0.0), WORKERS[1]),
        disk=Disk(500_000_000_000, 3_200_000_000, refuses=True),
    )


SCENES: dict[str, Callable[[Node], Any]] = {
    made.__name__: made for made in (nothing_yet, calm, many, quarantine, all_down)
}
