"""A snapshot and the health of a node in which no two numbers are the same: one that is mixed up is seen."""

from __future__ import annotations

import math
from typing import Any

from medattn_edge.scanner.observe.health import Health, WorkerSeen
from medattn_edge.scanner.store.disk import Disk
from medattn_edge.scanner.store.snapshot import ChannelSeen, ConflictSeen, DeliverySeen, Snapshot, Spread, VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State

NOW = 1_000_000.0


def version_seen(key: str = "a" * 32, state: State = State.DELIVERED, **changes: Any) -> VersionSeen:
    """A version of a series; the changes are fields."""
    plain: dict[str, Any] = {
        "version": 1,
        "modality": "CT",
        "instances": 3,
        "attempts": 1,
        "worker": "cpu",
        "reason": "",
        "detail": "",
        "times": {"last_received": NOW - 90},
        "deliveries": (),
    }
    return VersionSeen(key=key, state=state, **(plain | changes))


def delivery_seen(destination: str, state: DeliveryState, **changes: Any) -> DeliverySeen:
    """A delivery; the changes are fields."""
    plain: dict[str, Any] = {"attempts": 1, "next_try": NOW + 30, "accepted": None, "reason": "no_connection"}
    return DeliverySeen(destination=destination, state=state, **(plain | changes))


def snapshot_seen(**changes: Any) -> Snapshot:
    """A snapshot; the changes are fields."""
    plain: dict[str, Any] = {
        "now": NOW,
        "states": {state: 200 + number for number, state in enumerate(State)},
        "deliveries": {state: 300 + number for number, state in enumerate(DeliveryState)},
        "instances": 401,
        "bytes": 402_000,
        "conflicts": 403,
        "attempts": 404,
        "retries": 405,
        "stages": {
            "waiting": Spread(0, math.nan, math.nan, math.nan),
            "segmenting": Spread(5, 1.5, 2.5, 3.5),
        },
        "recent": (),
        "quarantined": (),
        "undelivered": (),
        "conflicted": (),
        "commitments": {"waiting": 601, "answered": 602, "dead": 603},
        "committed": 604,
        "gathering": (),
    }
    return Snapshot(**(plain | changes))


def health_seen(**changes: Any) -> Health:
    """The health of a node; the changes are fields."""
    plain: dict[str, Any] = {
        "ready": True,
        "why": "",
        "started": 900_000.25,
        "version": "9.9.0",
        "name": "reading-room-2",
        "site": "f" * 16,
        "draining": False,
        "workers": (WorkerSeen("cpu", True, False, 4242, 7, 310.5), WorkerSeen("cuda:0", False, True, None, 8, 2048.0)),
        "models": (("lungs", "cpu", "onnx"), ("vessels", "cuda:0", "engine")),
        "destinations": ("pacs", "shelf"),
        "associations": 9,
        "disk": Disk(500_000_000_000, 123_400_000_000, False),
        "config": "",
        "model_hashes": {"lungs": "5" * 64},
    }
    return Health(**(plain | changes))


CONFLICTED = (ConflictSeen("c" * 32, 2, 3, NOW - 5),)
CHANNELLED = version_seen("b" * 32, State.SEGMENTED, model="glioma", channels=(ChannelSeen("T1", "d" * 32, 4),))
