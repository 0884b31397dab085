"""What the status page, the metrics and `node status` show: counts, times, recent jobs. Free of identifiers."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from medattn_edge.scanner.store.rows import REFUSED, REPLACED
from medattn_edge.scanner.store.transitions import DeliveryState, State

LAST: Final = 100
_WITH_RESULT: Final = frozenset({State.SEGMENTED, State.DELIVERED, State.FAILED})
CONFLICTS_SHOWN_S: Final = 3 * 86_400.0  # long enough for a weekend
STAGES: Final = {
    "receiving": "first object to last object",
    "completing": "last object to complete",
    "waiting": "complete to claimed",
    "segmenting": "claimed to result on disk",
    "delivering": "result on disk to the last destination's acceptance",
    "whole": "last object to the last destination's acceptance",
}
# A modality is free text to whoever writes the object; only these are shown.
_MODALITIES: Final = frozenset({"CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SEG", "SR", "SC"})


@dataclass(frozen=True)
class Spread:
    """Seconds over the last 100 versions that have them: nearest rank. NaN where there are none.

    Attributes:
        count: of the versions.
        p50: the median.
        p90: the 90th percentile.
        max: the longest.
    """

    count: int
    p50: float
    p90: float
    max: float


@dataclass(frozen=True)
class DeliverySeen:
    """One delivery, as the page shows it.

    Attributes:
        destination: its name.
        state: of the delivery.
        attempts: those that failed.
        next_try: seconds since 1970.
        accepted: seconds since 1970; None before.
        reason: why the last attempt failed.
    """

    destination: str
    state: DeliveryState
    attempts: int
    next_try: float
    accepted: float | None
    reason: str


@dataclass(frozen=True)
class ChannelSeen:
    """One channel of a study's job.

    Attributes:
        channel: its name.
        key: of the series.
        version: of the series.
    """

    channel: str
    key: str
    version: int


@dataclass(frozen=True)
class VersionSeen:
    """One version of a series, or of a study, as the page shows it.

    Attributes:
        key: of the series.
        version: of the series.
        state: of the version.
        modality: `other` for one that is not usual.
        instances: how many objects it has.
        attempts: to segment it.
        worker: that claimed it.
        reason: a code; empty when nothing is wrong.
        detail: for people, without identifiers.
        times: seconds since 1970, of what has happened so far.
        deliveries: to each destination.
        study: of a series that is a channel, the key of the study; else "".
        model: of a study, the model that its channels are for; else "".
        channels: of a study, what each channel is, once all were complete.
        volumes_ml: of a result, the volume of every label; empty where there is none on record.
    """

    key: str
    version: int
    state: State
    modality: str
    instances: int
    attempts: int
    worker: str
    reason: str
    detail: str
    times: Mapping[str, float]
    deliveries: tuple[DeliverySeen, ...]
    study: str = ""
    model: str = ""
    channels: tuple[ChannelSeen, ...] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ConflictSeen:
    """A series of which objects came again with other contents, in the last days.

    Attributes:
        key: of the series.
        replaced: objects that took the place of others.
        refused: objects that were not taken.
        last: when the last of them came, in seconds since 1970.
    """

    key: str
    replaced: int
    refused: int
    last: float


@dataclass(frozen=True)
class Snapshot:
    """Everything that the page, the metrics and `node status` count.

    Attributes:
        now: when it was taken, in seconds since 1970.
        states: how many versions are in each state, zeros included.
        deliveries: how many deliveries are in each state, zeros included.
        instances: objects on record.
        bytes: of those.
        conflicts: objects with a known UID and other bytes.
        attempts: to segment, of all jobs.
        retries: attempts to deliver that failed.
        stages: seconds in each stage.
        recent: the latest versions, newest first.
        quarantined: newest first, at most 100.
        undelivered: newest first, at most 100.
        conflicted: series of the last three days with such objects, newest first, at most 100.
        commitments: requests for storage commitment in each state, zeros included.
        committed: objects that have to stay because of it.
        gathering: studies that wait for channels, newest first, at most 100.
    """

    now: float
    states: Mapping[State, int]
    deliveries: Mapping[DeliveryState, int]
    instances: int
    bytes: int
    conflicts: int
    attempts: int
    retries: int
    stages: Mapping[str, Spread]
    recent: tuple[VersionSeen, ...]
    quarantined: tuple[VersionSeen, ...]
    undelivered: tuple[VersionSeen, ...]
    conflicted: tuple[ConflictSeen, ...] = ()
    commitments: Mapping[str, int] = field(default_factory=dict)
    committed: int = 0
    gathering: tuple[VersionSeen, ...] = ()


def take(database: sqlite3.Connection, now: float, recent: int) -> Snapshot:
    """The snapshot, inside the caller's transaction."""
    states: dict[State, int] = dict.fromkeys(State, 0)
    for name, count in database.execute("SELECT state, COUNT(*) FROM versions GROUP BY state"):
        states[State(name)] = count
    deliveries: dict[DeliveryState, int] = dict.fromkeys(DeliveryState, 0)
    for name, count in database.execute("SELECT state, COUNT(*) FROM deliveries GROUP BY state"):
        deliveries[DeliveryState(name)] = count
    instances, size = database.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM instances").fetchone()
    [conflicts] = database.execute("SELECT COALESCE(SUM(count), 0) FROM conflicts").fetchone()
    [attempts] = database.execute("SELECT COALESCE(SUM(attempts), 0) FROM versions").fetchone()
    [retries] = database.execute("SELECT COALESCE(SUM(attempts), 0) FROM deliveries").fetchone()
    return Snapshot(
        now,
        states,
        deliveries,
        instances,
        size,
        conflicts,
        attempts,
        retries,
        _stages(database),
        _versions(database, tuple(State), recent),
        _versions(database, (State.QUARANTINED,), LAST),
        _versions(database, (State.SEGMENTED, State.FAILED), LAST),
        _conflicted(database, now),
        _commitments(database),
        database.execute("SELECT COUNT(*) FROM commitments WHERE keep_until > ?", (now,)).fetchone()[0],
        _versions(database, (State.RECEIVING,), LAST, "AND t.key IS NOT NULL"),
    )


def _commitments(database: sqlite3.Connection) -> dict[str, int]:
    counts = dict.fromkeys(("waiting", "answered", "dead"), 0)
    counts |= {row[0]: row[1] for row in database.execute("SELECT state, COUNT(*) FROM commitment_requests GROUP BY 1")}
    return counts


def _conflicted(database: sqlite3.Connection, now: float) -> tuple[ConflictSeen, ...]:
    rows = database.execute(
        "SELECT key, SUM(count * (outcome = ?)), SUM(count * (outcome = ?)), MAX(received) AS last FROM conflicts"
        " WHERE received > ? GROUP BY key ORDER BY last DESC, key LIMIT ?",
        (REPLACED, REFUSED, now - CONFLICTS_SHOWN_S, LAST),
    ).fetchall()
    return tuple(ConflictSeen(*row) for row in rows)


def _stages(database: sqlite3.Connection) -> dict[str, Spread]:
    rows = database.execute(
        "SELECT v.*, (SELECT MAX(accepted) FROM deliveries d WHERE d.version_id = v.id) AS accepted FROM versions v"
        " WHERE segmented IS NOT NULL ORDER BY segmented DESC, id DESC LIMIT ?",
        (LAST,),
    ).fetchall()

    def spread(start: str, end: str, *, delivered: bool = False) -> Spread:
        # A clock that was set back makes no negative time.
        return spread_of(
            [
                max(0.0, row[end] - row[start])
                for row in rows
                if row[start] is not None
                and row[end] is not None
                and (not delivered or row["state"] == State.DELIVERED)
            ]
        )

    return {
        "receiving": spread("first_received", "last_received"),
        "completing": spread("last_received", "completed"),
        "waiting": spread("completed", "claimed"),
        "segmenting": spread("claimed", "segmented"),
        "delivering": spread("segmented", "accepted", delivered=True),
        "whole": spread("last_received", "accepted", delivered=True),
    }


def spread_of(seconds: Sequence[float]) -> Spread:
    """Median, 90th percentile and maximum, each a value that occurred."""
    if not seconds:
        return Spread(0, math.nan, math.nan, math.nan)
    ordered = sorted(seconds)
    count = len(ordered)
    return Spread(count, ordered[math.ceil(0.5 * count) - 1], ordered[math.ceil(0.9 * count) - 1], ordered[-1])


def _versions(
    database: sqlite3.Connection, states: Sequence[State], limit: int, condition: str = ""
) -> tuple[VersionSeen, ...]:
    """condition: of ours, beside the states."""
    marks = ", ".join("?" * len(states))
    rows = database.execute(
        # A study has the objects of its channels.
        "SELECT v.*, s.modality, m.study, t.model, CASE WHEN t.key IS NULL"  # noqa: S608
        "  THEN (SELECT COUNT(*) FROM instances i WHERE i.key = v.key AND i.version <= v.version)"
        "  ELSE (SELECT COUNT(*) FROM instances i JOIN members o USING (key) WHERE o.study = v.key) END AS instances"
        " FROM versions v JOIN series s USING (key) LEFT JOIN members m USING (key) LEFT JOIN studies t USING (key)"
        f" WHERE v.state IN ({marks}) {condition} ORDER BY v.id DESC LIMIT ?",
        (*states, limit),
    ).fetchall()
    return tuple(_version(database, row) for row in rows)


def _version(database: sqlite3.Connection, row: sqlite3.Row) -> VersionSeen:
    deliveries = database.execute(
        "SELECT destination, state, attempts, next_try, accepted, reason FROM deliveries"
        " WHERE version_id = ? ORDER BY id",
        (row["id"],),
    )
    channels = database.execute(
        "SELECT channel, key, version FROM parts WHERE version_id = ? ORDER BY place", (row["id"],)
    )
    times = ("first_received", "last_received", "completed", "claimed", "segmented", "finished")
    return VersionSeen(
        row["key"],
        row["version"],
        State(row["state"]),
        row["modality"] if row["modality"] in _MODALITIES else "other",
        row["instances"],
        row["attempts"],
        row["worker"],
        row["reason"],
        row["detail"],
        {name: row[name] for name in times if row[name] is not None},
        tuple(
            DeliverySeen(one[0], DeliveryState(one[1]), one[2], one[3], one[4], one[5]) for one in deliveries.fetchall()
        ),
        row["study"] or "",
        row["model"] or "",
        tuple(ChannelSeen(*one) for one in channels.fetchall()),
        # A result that was lost is made again: until then its volumes are nobody's.
        json.loads(row["volumes"]) if row["volumes"] and row["state"] in _WITH_RESULT else {},
    )
