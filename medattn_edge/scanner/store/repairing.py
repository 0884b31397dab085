"""The store's fourth part: what a crash, a lost file or a clean-up leaves is put right, or remembered."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medattn_edge.scanner.reasons import CLEANED_UP, INTERRUPTED, RESULT_LOST
from medattn_edge.scanner.store.records import code
from medattn_edge.scanner.store.rows import Rows, latest_version, move, short_hash, split_hashes
from medattn_edge.scanner.store.transitions import DeliveryState, State


@dataclass(frozen=True)
class Filed:
    """A series as it is on record. state: of its latest version. sizes: bytes of each of its files, by name."""

    key: str
    state: State
    sizes: Mapping[str, int]


class Repairing(Rows):
    """What happens at the start and at the clean-up."""

    def interrupted(self) -> tuple[int, int]:
        """Nobody runs anything any more: every running version is queued again, or quarantined when it was interrupted
        more often than the policy allows, since it may be the cause. How many of each.
        """
        with self.database.writing() as database:
            rows = database.execute("SELECT * FROM versions WHERE state = ?", (State.RUNNING,)).fetchall()
            suspects = [row for row in rows if row["interruptions"] >= self.policy.interruptions]
            for row in rows:
                notes = {"interruptions": row["interruptions"] + 1}
                if row in suspects:
                    detail = f"the node ended {row['interruptions'] + 1} times while this ran"
                    self.quarantine_row(database, row, INTERRUPTED, detail, notes)
                else:
                    move(database, row, State.QUEUED, notes)
        return len(rows) - len(suspects), len(suspects)

    def inventory(self) -> dict[str, Filed]:
        """Every series that has a version, by key."""
        with self.database.reading() as database:
            sizes: dict[str, dict[str, int]] = {}
            for row in database.execute("SELECT key, name, bytes FROM instances"):
                sizes.setdefault(row["key"], {})[row["name"]] = row["bytes"]
            # SQLite takes the other columns of a MAX from its row.
            states = database.execute("SELECT key, state, MAX(version) FROM versions GROUP BY key").fetchall()
        return {row["key"]: Filed(row["key"], State(row["state"]), sizes.get(row["key"], {})) for row in states}

    def gone(self, key: str, names: Collection[str], reason: str) -> None:
        """These files of a series are not there any more. What waits for work without them is quarantined.

        A version that is still received may get them again; with a result or a delivery they are not needed.
        """
        with self.database.writing() as database:
            _forget(database, key, names, reason)
            latest = latest_version(database, key)
            if latest is not None and latest["state"] == State.QUEUED:
                self.quarantine_row(database, latest, reason, f"{len(names)} objects are not there any more")

    def cleaned(self, key: str) -> None:
        """The files of a delivered series were removed on purpose."""
        with self.database.writing() as database:
            names = [name for (name,) in database.execute("SELECT name FROM instances WHERE key = ?", (key,))]
            _forget(database, key, names, CLEANED_UP)

    def cleanable(self, key: str | None = None) -> tuple[tuple[str, float], ...]:
        """Series (or the one) whose files may go, and when they were finished, oldest first: a version is delivered, no
        version waits for anything, and no delivery of any is waiting or dead.
        """
        with self.database.reading() as database:
            rows = database.execute(
                "SELECT key, MAX(finished) AS finished FROM versions v WHERE key = COALESCE(?, key) GROUP BY key HAVING"
                " SUM(state NOT IN (?, ?)) = 0 AND SUM(state = ?) > 0"
                " AND EXISTS (SELECT 1 FROM instances i WHERE i.key = v.key)"
                " AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN versions o ON o.id = d.version_id"
                "  WHERE o.key = v.key AND d.state != ?)"
                " ORDER BY finished, key",
                (key, State.DELIVERED, State.SUPERSEDED, State.DELIVERED, DeliveryState.DELIVERED),
            ).fetchall()
        return tuple((row["key"], row["finished"]) for row in rows)

    def results(self) -> dict[tuple[str, int], tuple[State, tuple[str, ...]]]:
        """The state, and the names of the outputs, of every version of every series, by key and version."""
        with self.database.reading() as database:
            found: dict[tuple[str, int], tuple[State, tuple[str, ...]]] = {}
            for row in database.execute(
                "SELECT v.key, v.version, v.state, o.name FROM versions v LEFT JOIN outputs o ON o.version_id = v.id"
            ):
                state, names = found.get((row["key"], row["version"]), (State(row["state"]), ()))
                found[row["key"], row["version"]] = state, names if row["name"] is None else (*names, row["name"])
        return found

    def result_lost(self, key: str, version: int) -> None:
        """The result of a version that is still delivered is not there any more: it is made again, and where it was
        accepted already it is not sent again.
        """
        with self.database.writing() as database:
            row = database.execute("SELECT * FROM versions WHERE key = ? AND version = ?", (key, version)).fetchone()
            move(database, row, State.QUEUED, {"reason": RESULT_LOST, "completed": self.clock()})


def _forget(database: sqlite3.Connection, key: str, names: Collection[str], reason: str) -> None:
    row = database.execute("SELECT hashes FROM gone WHERE key = ?", (key,)).fetchone()
    hashes = set() if row is None else split_hashes(row["hashes"])
    for name in names:
        [uid] = database.execute("SELECT sop_uid FROM instances WHERE key = ? AND name = ?", (key, name)).fetchone()
        hashes.add(short_hash(uid))
        database.execute("DELETE FROM instances WHERE key = ? AND name = ?", (key, name))
    database.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)", (key, code(reason), b"".join(sorted(hashes))))
