"""Studies on record: series that are the channels of one network are gathered into one job.

A study is filed like a series, under a key of its own: its versions have the same states, results and deliveries. While
its channels come, its version is `receiving`; the series that are channels are `joined`, and have no job of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from medattn_edge.reasons import AMBIGUOUS_CHANNEL, BLANK_UID, CHANNEL_MISSING, ROUTE_CHANGED
from medattn_edge.scanner.store.records import Job, Placement, StudyGathering
from medattn_edge.scanner.store.rows import (
    StoreContext,
    missing_from,
    move,
    open_study_version,
    quarantine_row,
)
from medattn_edge.scanner.store.transitions import State

Place = Callable[[Job], Placement | None]
_OF_STUDY = (
    "s.study_uid = ? AND s.key NOT IN (SELECT key FROM studies)"
    " AND v.version = (SELECT MAX(version) FROM versions l WHERE l.key = v.key)"
)
_COMING = (State.RECEIVING, State.QUEUED)


@dataclass
class _Study:
    """What is here of one study.

    Attributes:
        wanted: the channels of its model, in order; empty when no series is a channel of it.
        ready: keys and versions of the series of each channel that may be segmented.
        refused: why each series of a channel may not, for people.
        coming: whether one of its series is still received.
        several: series that fit several channels, and these.
    """

    wanted: tuple[str, ...] = ()
    ready: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    coming: bool = False
    several: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def ambiguous(self) -> str:
        """Which series cannot be told apart, for people; "" when none."""
        found = [f"the series {key} fits the channels {' and '.join(channels)}" for key, channels in self.several]
        for channel, series in self.ready.items():
            if len(series) > 1:
                found.append(f"the series {' and '.join(key for key, _ in series)} fit the channel {channel}")
        return "; ".join(found)

    @property
    def missing(self) -> str:
        """Which channels are not here, for people; "" when all are."""
        absent = [channel for channel in self.wanted if channel not in self.ready]
        return "; ".join(", ".join((f"no series for {one}", *self.refused.get(one, ()))) for one in absent)


class Studies:
    """From `queued` series to `queued` studies. Every method is one durable transaction, for any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def gather(self, place: Place) -> StudyGathering:
        """Let every series that is a channel join its study, and queue every study whose channels are all complete.

        A study with two series for one channel is quarantined, and so is one that waits for too long.

        Args:
            place: which channel a series is; called inside the transaction, so it only looks at its argument.
        """
        now = self._context.clock()
        joined, queued, quarantined = [], [], []
        with self._context.database.writing() as database:
            for row in _routed(database, "v.state = ? AND s.key NOT IN (SELECT key FROM studies)", State.QUEUED):
                placement = place(_job_of(row))
                if placement is None:
                    continue
                study = self._join(database, row, placement, now)
                if study:
                    joined.append((row["key"], study))
                else:
                    quarantined.append((row["key"], BLANK_UID))
            database.execute("UPDATE studies SET waits_since = ? WHERE waits_since > ?", (now, now))  # clock set back
            for row in _routed(database, "v.state = ? AND s.key IN (SELECT key FROM studies)", State.RECEIVING):
                state, reason = self._decide(database, row, place, now)
                if state is State.QUEUED:
                    queued.append(row["key"])
                elif state is State.QUARANTINED:
                    quarantined.append((row["key"], reason))
        return StudyGathering(tuple(joined), tuple(queued), tuple(quarantined))

    def _join(self, database: sqlite3.Connection, row: sqlite3.Row, placement: Placement, now: float) -> str:
        """Make a queued series a channel of its study; the key of that, "" when it names no study."""
        if not row["study_uid"]:
            quarantine_row(database, row, BLANK_UID, "no StudyInstanceUID says which study it is of", now)
            return ""
        study = self._context.site.study_key(row["study_uid"], placement.model)
        database.execute(
            "INSERT INTO series VALUES (?, ?, ?, ?, '', '', ?) ON CONFLICT (key) DO NOTHING",
            (study, f"study {study}", row["study_uid"], row["modality"], row["calling_ae"]),
        )
        database.execute(
            "INSERT INTO studies VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", (study, placement.model, now)
        )
        database.execute("INSERT OR REPLACE INTO members VALUES (?, ?)", (row["key"], study))
        move(database, row, State.JOINED, {"reason": "", "detail": ""})
        open_study_version(database, study, now, row)
        return study

    def _decide(self, database: sqlite3.Connection, row: sqlite3.Row, place: Place, now: float) -> tuple[State, str]:
        """The state that a version of a study has from now on, and the code of the reason."""
        study = _look(database, row, place)
        waits_since, reason, detail = row["waits_since"], "", ""
        if study.coming:
            detail = "waits for a series that is still received"
        elif not study.wanted:
            reason, detail = ROUTE_CHANGED, "no series is a channel of its model any more"
        elif study.ambiguous:
            reason, detail = AMBIGUOUS_CHANNEL, study.ambiguous
        elif study.missing:
            reason = CHANNEL_MISSING if waits_since <= now - self._context.policy.max_study_wait_s else ""
            detail = study.missing
        else:
            parts = [(row["id"], number, one, *study.ready[one][0]) for number, one in enumerate(study.wanted)]
            database.executemany("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", parts)
            return move(database, row, State.QUEUED, {"completed": now, "detail": ""}), ""
        if reason:
            return quarantine_row(database, row, reason, detail, now, {"completed": now}), reason
        if detail != row["detail"]:
            database.execute("UPDATE versions SET detail = ? WHERE id = ?", (detail, row["id"]))
        return State.RECEIVING, ""


def _look(database: sqlite3.Connection, row: sqlite3.Row, place: Place) -> _Study:
    """Every series of the study, as far as it is a channel of the study's model now."""
    found = _Study()
    for one in _routed(database, _OF_STUDY, row["study_uid"]):
        placement = place(_job_of(one))
        if placement is None or placement.model != row["model"]:
            _leave(database, one, row["key"])
            continue
        found.wanted = placement.wanted
        why = _refused(database, one)
        if one["state"] in _COMING:
            found.coming = True
        elif why:
            for channel in placement.channels:
                found.refused.setdefault(channel, []).append(f"and the series {one['key']} is {why}")
        elif len(placement.channels) > 1:
            found.several.append((one["key"], placement.channels))
        else:
            found.ready.setdefault(placement.channels[0], []).append((one["key"], one["version"]))
    return found


def _leave(database: sqlite3.Connection, row: sqlite3.Row, study: str) -> None:
    """A series that was a channel and is none under this configuration is routed anew, unless a result has it."""
    left = database.execute("DELETE FROM members WHERE key = ? AND study = ?", (row["key"], study)).rowcount
    used = database.execute(
        "SELECT 1 FROM parts p JOIN versions v ON v.id = p.version_id WHERE p.key = ? AND p.version = ?"
        " AND v.segmented IS NOT NULL",
        (row["key"], row["version"]),
    ).fetchone()
    if left and used is None and row["state"] == State.JOINED:
        move(database, row, State.QUEUED)


def _refused(database: sqlite3.Connection, row: sqlite3.Row) -> str:
    """Why a series that is not coming any more is no channel, for people; "" when it is one."""
    if row["state"] != State.JOINED:
        return f"{row['state']} ({row['reason']})" if row["reason"] else str(row["state"])
    missing = missing_from(database, row["key"])
    return "" if missing is None else f"not whole ({missing[0]})"


def _routed(database: sqlite3.Connection, where: str, value: str) -> list[sqlite3.Row]:
    """Rows of versions with what decides where they belong. where: a condition of ours, with one value."""
    return database.execute(
        "SELECT v.*, s.study_uid, s.modality, s.body_part, s.description, s.calling_ae, t.model, t.waits_since"  # noqa: S608
        " FROM versions v JOIN series s USING (key) LEFT JOIN studies t USING (key)"
        f" WHERE {where} ORDER BY v.id",
        (value,),
    ).fetchall()


def _job_of(row: sqlite3.Row) -> Job:
    """A series as far as it decides where it belongs: without its files."""
    about = (row["modality"], row["body_part"], row["description"], row["calling_ae"])
    return Job(row["id"], row["key"], row["version"], row["attempts"], (), *about)
