"""What a node says of itself, beside the counts of its store; and what the status page asks it for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medattn_edge.scanner.store.disk import Disk
from medattn_edge.scanner.store.snapshot import Snapshot


@dataclass(frozen=True)
class WorkerSeen:
    """One worker process.

    Attributes:
        device: cpu or cuda:N.
        ready: whether it has passed its canary.
        busy: whether it segments a series.
        pid: None while there is none.
        restarts: how often it was started after the first time.
        rss_mb: resident memory in 1e6 bytes.
    """

    device: str
    ready: bool
    busy: bool
    pid: int | None
    restarts: int
    rss_mb: float


@dataclass(frozen=True)
class Health:
    """What a node says of itself.

    Attributes:
        ready: whether series are segmented.
        why: a code of READINESS_REASONS, "" when ready.
        started: seconds since 1970.
        version: of medattn-edge.
        name: of the node.
        site: the fingerprint of the site key, which tells this node from another one.
        draining: whether it ends.
        workers: one for each device.
        models: (name, device, kind of artifact).
        destinations: their names.
        associations: that are open.
        disk: the room that is left.
        model_hashes: the SHA-256 of each model's artifact, by its name.
        config: the file that the node was started with, for the commands that the page gives; "" when nobody said.
    """

    ready: bool
    why: str
    started: float
    version: str
    name: str
    site: str
    draining: bool
    workers: tuple[WorkerSeen, ...]
    models: tuple[tuple[str, str, str], ...]
    destinations: tuple[str, ...]
    associations: int
    disk: Disk
    config: str = ""
    model_hashes: Mapping[str, str] = field(default_factory=dict)


class Watched(Protocol):
    """A node, as its page sees it. Every method may be called by any thread."""

    def snapshot(self) -> Snapshot:
        """Counts, times and recent jobs."""

    def health(self) -> Health:
        """Whether it works, and why not."""

    def thumbnail(self, key: str, version: int) -> Path | None:
        """The picture of a result, None when there is none or none may be shown."""
