"""Series on record: objects become series, series become complete and are queued."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from medattn_edge.scanner.store.records import Completion, Fate, Header, Instance, Received, code
from medattn_edge.scanner.store.rows import (
    REFUSED,
    REPLACED,
    StoreContext,
    latest_version,
    missing_from,
    move,
    open_study_version,
    open_version,
    quarantine_row,
    study_of,
    withdraw_channel,
)
from medattn_edge.scanner.store.transitions import State

_LATE = "an object was sent late and not taken"


class SeriesRecords:
    """Everything up to `queued`. Every method is one durable transaction, and may be called by any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def state_of(self, key: str) -> State | None:
        """The state of a series's latest version; None for a series that is not known."""
        with self._context.database.reading() as database:
            row = latest_version(database, key)
        return None if row is None else State(row["state"])

    def known(self, key: str, sop_uid: str) -> tuple[str, str] | None:
        """The sha256 and the name of the file of the instance that is on record, or None."""
        with self._context.database.reading() as database:
            row = database.execute(
                "SELECT sha256, name FROM instances WHERE key = ? AND sop_uid = ?", (key, sop_uid)
            ).fetchone()
        return None if row is None else (str(row["sha256"]), str(row["name"]))

    def usage(self, key: str) -> tuple[int, int]:
        """How many instances of a series are on record, and their bytes."""
        with self._context.database.reading() as database:
            [count, size] = database.execute(
                "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM instances WHERE key = ?", (key,)
            ).fetchone()
        return int(count), int(size)

    def record_received(self, instance: Instance) -> Received:
        """Record an object that is durable in the spool. Idempotent: it may be called again after a crash.

        An image that comes after its series was complete opens the next version, which contains all instances. The
        version before it makes way (`superseded`) while it has no result; a result stays and goes on being delivered.
        """
        header, now = instance.header, self._context.clock()
        key = self._context.site.series_key(header.series_uid)
        with self._context.database.writing() as database:
            _file_series(database, key, header, instance.calling_ae)
            latest = latest_version(database, key)
            held = database.execute(
                "SELECT sha256 FROM instances WHERE key = ? AND sop_uid = ?", (key, header.sop_uid)
            ).fetchone()
            if latest is not None and held is not None:
                if held["sha256"] != instance.sha256:
                    raise ValueError("an instance with other bytes replaces the one on record: record_replacement")
                return _again(database, latest, now)
            version = self._open_version(database, key, latest, now)
            facts = (header.sop_class, instance.name, instance.sha256, instance.bytes, version, now)
            database.execute(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, header.sop_uid, *facts, instance.file_sha256),
            )
            database.execute("DELETE FROM refusals WHERE key = ? AND sop_uid = ?", (key, header.sop_uid))
        return Received(key, version, Fate.NEW, late=latest is not None and version > latest["version"])

    def record_replacement(self, instance: Instance) -> tuple[Received, str]:
        """Record that an object that is durable in the spool takes the place of the one with its UID.

        It belongs to the version that is being received, or opens the next one, as a late image does.

        Returns:
            What became of it, and the name of the file that it replaces.
        """
        header, now = instance.header, self._context.clock()
        key = self._context.site.series_key(header.series_uid)
        with self._context.database.writing() as database:
            latest = latest_version(database, key)
            held = database.execute(
                "SELECT name, sha256 FROM instances WHERE key = ? AND sop_uid = ?", (key, header.sop_uid)
            ).fetchone()
            version = self._open_version(database, key, latest, now)
            database.execute(
                "INSERT INTO conflicts (key, sop_uid, sha256, received, outcome, version) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key, sop_uid, sha256) DO UPDATE SET received = excluded.received,"
                " outcome = excluded.outcome, version = excluded.version, count = count + 1",
                (key, header.sop_uid, held["sha256"], now, REPLACED, version),
            )
            facts = (header.sop_class, instance.name, instance.sha256, instance.file_sha256, instance.bytes)
            database.execute(
                "UPDATE instances SET sop_class = ?, name = ?, sha256 = ?, file_sha256 = ?, bytes = ?, version = ?,"
                " received = ? WHERE key = ? AND sop_uid = ?",
                (*facts, version, now, key, header.sop_uid),
            )
            database.execute("DELETE FROM refusals WHERE key = ? AND sop_uid = ?", (key, header.sop_uid))
            # What was corrected may be what decides which model takes the series.
            database.execute(
                "UPDATE series SET modality = ?, body_part = ?, description = ? WHERE key = ?",
                (header.modality, header.body_part, header.description, key),
            )
        late = latest is not None and version > latest["version"]
        return Received(key, version, Fate.REPLACED, late=late), str(held["name"])

    def record_conflict_refused(self, key: str, sop_uid: str) -> None:
        """Record that an object with other bytes was refused: one row for each UID, however many come."""
        with self._context.database.writing() as database:
            database.execute(
                "INSERT INTO conflicts (key, sop_uid, sha256, received, outcome) VALUES (?, ?, '', ?, ?)"
                " ON CONFLICT (key, sop_uid, sha256) DO UPDATE SET received = excluded.received, count = count + 1",
                (key, sop_uid, self._context.clock(), REFUSED),
            )

    def replacements(self, key: str, sop_uid: str) -> int:
        """How often an object was replaced by other contents."""
        with self._context.database.reading() as database:
            [count] = database.execute(
                "SELECT COALESCE(SUM(count), 0) FROM conflicts WHERE key = ? AND sop_uid = ? AND outcome = ?",
                (key, sop_uid, REPLACED),
            ).fetchone()
        return int(count)

    def record_refusal(self, header: Header, reason: str, calling_ae: str = "") -> str:
        """Record that an object was not taken, with the code of the reason; the key of its series.

        Until that object comes after all, the series is not whole, and is quarantined instead of segmented in part.
        """
        key, now = self._context.site.series_key(header.series_uid), self._context.clock()
        with self._context.database.writing() as database:
            _file_series(database, key, header, calling_ae)
            database.execute(
                "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?, ?)",
                (key, header.sop_uid, code(reason), now),
            )
            latest = latest_version(database, key)
            if latest is not None and latest["state"] == State.RECEIVING:
                database.execute("UPDATE versions SET last_received = ? WHERE id = ?", (now, latest["id"]))
            elif latest is not None and latest["state"] in {State.QUEUED, State.RUNNING}:
                quarantine_row(database, latest, reason, _LATE, now)
            elif latest is not None:
                withdraw_channel(database, latest, reason, _LATE, now)
        return key

    def queue_complete(self, busy: Collection[str] = ()) -> Completion:
        """Queue every series that is complete. busy: keys of those that an open association delivered to.

        A series of which objects are missing is quarantined instead.
        """
        now = self._context.clock()
        queued, quarantined = [], []
        with self._context.database.writing() as database:
            # The clock was set back: a time in the future would hold its series for that long.
            database.execute(
                "UPDATE versions SET last_received = ? WHERE state = ? AND last_received > ?",
                (now, State.RECEIVING, now),
            )
            quiet = database.execute(
                "SELECT * FROM versions WHERE state = ? AND last_received <= ?"
                " AND key NOT IN (SELECT key FROM studies) ORDER BY last_received, id",
                (State.RECEIVING, now - self._context.policy.quiet_s),
            ).fetchall()
            for row in quiet:
                if row["key"] in busy and row["last_received"] > now - self._context.policy.max_wait_s:
                    continue
                missing = missing_from(database, row["key"])
                if missing is None:
                    queued.append(row["key"])
                    move(database, row, State.QUEUED, {"completed": now})
                else:
                    quarantined.append(row["key"])
                    quarantine_row(database, row, *missing, now, {"completed": now})
        return Completion(tuple(queued), tuple(quarantined))

    def _open_version(self, database: sqlite3.Connection, key: str, latest: sqlite3.Row | None, now: float) -> int:
        """The version that a new instance belongs to. Where that is a new one of a channel, its study waits for it."""
        version = open_version(database, key, latest, now)
        study = study_of(database, key)
        if study and (latest is None or version > latest["version"]):
            open_study_version(database, study, now)
        return version


def _file_series(database: sqlite3.Connection, key: str, header: Header, calling_ae: str) -> None:
    about = (header.series_uid, header.study_uid, header.modality, header.body_part, header.description)
    database.execute(
        "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", (key, *about, calling_ae)
    )


def _again(database: sqlite3.Connection, latest: sqlite3.Row, now: float) -> Received:
    """An instance that is on record came once more."""
    if latest["state"] == State.RECEIVING:  # somebody is still sending
        database.execute("UPDATE versions SET last_received = ? WHERE id = ?", (now, latest["id"]))
    return Received(latest["key"], latest["version"], Fate.DUPLICATE)
