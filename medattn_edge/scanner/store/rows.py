"""What every part of the store does to a row: find it, and change its state as transitions.py allows."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medattn_edge.scanner.store.database import Database
from medattn_edge.scanner.store.keys import SiteKey
from medattn_edge.scanner.store.records import Delivery, Job, Policy, code
from medattn_edge.scanner.store.transitions import DeliveryState, State, check, check_delivery

Notes = Mapping[str, float | str | None]  # column -> value, written with a state
_SHORT = 8
REPLACED, REFUSED = "replaced", "refused"  # outcomes in the table `conflicts`


@dataclass
class StoreContext:
    """What the parts of one store share. The policy changes when a node takes over another configuration.

    Attributes:
        database: of the node.
        site: the key that series are filed under.
        policy: what the store follows.
        clock: seconds since 1970.
    """

    database: Database
    site: SiteKey
    policy: Policy
    clock: Callable[[], float]


def quarantine_row(
    database: sqlite3.Connection, row: sqlite3.Row, reason: str, detail: str, now: float, notes: Notes | None = None
) -> State:
    """Quarantine a version, with a code and a detail for people."""
    notes = {**(notes or {}), "reason": code(reason), "detail": detail, "finished": now}
    return move(database, row, State.QUARANTINED, notes)


def settle(database: sqlite3.Connection, version_id: int, now: float) -> None:
    """End a version whose deliveries have all ended."""
    row = database.execute("SELECT * FROM versions WHERE id = ?", (version_id,)).fetchone()
    rows = database.execute("SELECT state FROM deliveries WHERE version_id = ?", (version_id,))
    states = {one["state"] for one in rows}
    if row["state"] == State.SEGMENTED and DeliveryState.WAITING not in states:
        after = State.FAILED if DeliveryState.DEAD in states else State.DELIVERED
        move(database, row, after, {"finished": now})


def latest_version(database: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    """The row of a series's latest version."""
    row: sqlite3.Row | None = database.execute(
        "SELECT * FROM versions WHERE key = ? ORDER BY version DESC LIMIT 1", (key,)
    ).fetchone()
    return row


def missing_from(database: sqlite3.Connection, key: str) -> tuple[str, str] | None:
    """Why a series is not whole, as a code, and a detail for people; None when it is whole."""
    row = database.execute(
        "SELECT reason, COUNT(*) OVER () FROM refusals WHERE key = ? ORDER BY refused LIMIT 1", (key,)
    ).fetchone()
    if row is not None:
        return row[0], f"{row[1]} objects were sent and not taken"
    row = database.execute("SELECT reason, hashes FROM gone WHERE key = ?", (key,)).fetchone()
    if row is not None:
        here = database.execute("SELECT sop_uid FROM instances WHERE key = ?", (key,))
        missing = split_hashes(row["hashes"]) - {short_hash(uid) for (uid,) in here}
        if missing:
            return row["reason"], f"{len(missing)} objects were here once and have not come again"
    return None


def short_hash(sop_uid: str) -> bytes:
    """What the table `gone` remembers of an instance."""
    return hashlib.sha256(sop_uid.encode()).digest()[:_SHORT]


def split_hashes(joined: bytes) -> set[bytes]:
    """The hashes in one value of the table `gone`."""
    return {joined[start : start + _SHORT] for start in range(0, len(joined), _SHORT)}


def held_version(database: sqlite3.Connection, job: Job) -> sqlite3.Row | None:
    """The row of a job that still runs for whoever claimed it."""
    row: sqlite3.Row | None = database.execute(
        "SELECT * FROM versions WHERE id = ? AND state = ? AND attempts = ?", (job.id, State.RUNNING, job.attempt)
    ).fetchone()
    return row


def move(database: sqlite3.Connection, row: sqlite3.Row, after: State, notes: Notes | None = None) -> State:
    """Change a version's state, and note what belongs to it. Raises TransitionRefused."""
    check(State(row["state"]), after)
    columns = {"state": after, **(notes or {})}
    database.execute(
        f"UPDATE versions SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?",  # noqa: S608 (names of ours; values are bound)
        (*columns.values(), row["id"]),
    )
    return after


def move_delivery(
    database: sqlite3.Connection, delivery: Delivery, after: DeliveryState, notes: Notes | None = None
) -> int:
    """Change a delivery's state, and note what belongs to it. The id of its version. Raises TransitionRefused."""
    row = database.execute("SELECT version_id, state FROM deliveries WHERE id = ?", (delivery.id,)).fetchone()
    check_delivery(DeliveryState(row["state"]), after)
    columns = {"state": after, **(notes or {})}
    database.execute(
        f"UPDATE deliveries SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?",  # noqa: S608 (names of ours; values are bound)
        (*columns.values(), delivery.id),
    )
    return int(row["version_id"])
