"""What every part of the store does to a row: find it, and change its state as transitions.py allows."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medattn_edge.scanner.store.database import Database
from medattn_edge.scanner.store.keys import SiteKey
from medattn_edge.scanner.store.records import Delivery, Job, Policy, code
from medattn_edge.scanner.store.transitions import (
    BIRTH,
    DeliveryState,
    State,
    check,
    check_delivery,
    is_superseded_by_a_late_image,
)

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


def open_version(database: sqlite3.Connection, key: str, latest: sqlite3.Row | None, now: float) -> int:
    """The number of the version that what comes now belongs to, opened if it must be. latest: as `latest_version`."""
    if latest is not None and latest["state"] == BIRTH:
        database.execute("UPDATE versions SET last_received = ? WHERE id = ?", (now, latest["id"]))
        return int(latest["version"])
    if latest is not None and is_superseded_by_a_late_image(State(latest["state"])):
        move(database, latest, State.SUPERSEDED, {"finished": now})
    version = 1 if latest is None else int(latest["version"]) + 1
    database.execute(
        "INSERT INTO versions (key, version, state, first_received, last_received) VALUES (?, ?, ?, ?, ?)",
        (key, version, BIRTH, now, now),
    )
    return version


def open_study_version(
    database: sqlite3.Connection, study: str, now: float, channel: sqlite3.Row | None = None
) -> None:
    """Have a study wait for its channels, in a new version unless it waits already.

    The version before it makes way while it has no result, as that of a series does.

    Args:
        database: with a transaction begun.
        study: its key.
        now: seconds since 1970.
        channel: the version of the series that came; None when it is only awaited.
    """
    latest = latest_version(database, study)
    opened = open_version(database, study, latest, now) != (0 if latest is None else latest["version"])
    database.execute("UPDATE studies SET waits_since = ? WHERE key = ?", (now, study))
    if channel is not None:
        first, last = channel["first_received"], channel["last_received"]
        if not opened and latest is not None:
            first, last = min(first, latest["first_received"]), max(last, latest["last_received"])
        database.execute(
            "UPDATE versions SET first_received = ?, last_received = ? WHERE key = ? AND state = ?",
            (first, last, study, BIRTH),
        )


def study_of(database: sqlite3.Connection, key: str) -> str:
    """The key of the study that a series is a channel of; "" for one that is none."""
    row = database.execute("SELECT study FROM members WHERE key = ?", (key,)).fetchone()
    return "" if row is None else str(row["study"])


def withdraw_channel(database: sqlite3.Connection, latest: sqlite3.Row, reason: str, detail: str, now: float) -> None:
    """Quarantine a channel that is not whole any more, and the job of its study while that has no result."""
    study = latest_version(database, study_of(database, latest["key"]))
    if latest["state"] != State.JOINED or study is None:
        return
    if study["state"] in {State.QUEUED, State.RUNNING}:
        quarantine_row(database, study, reason, f"the series {latest['key']}: {detail}", now)
    elif study["state"] != BIRTH:
        return
    quarantine_row(database, latest, reason, detail, now)


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
