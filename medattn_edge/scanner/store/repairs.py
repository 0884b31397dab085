"""Repairs on record: what a crash, a lost file, a clean-up or an operator asks for."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medattn_edge.errors import UsageError
from medattn_edge.reasons import CLEANED_UP, INTERRUPTED, RESULT_LOST, RESULT_REPLACED
from medattn_edge.scanner.store.records import code
from medattn_edge.scanner.store.rows import (
    REPLACED,
    Notes,
    StoreContext,
    latest_version,
    missing_from,
    move,
    open_study_version,
    quarantine_row,
    settle,
    short_hash,
    split_hashes,
    withdraw_channel,
)
from medattn_edge.scanner.store.transitions import DeliveryState, State

_STUDIES = (
    "SELECT key, study FROM members UNION SELECT p.key, o.key FROM parts p JOIN versions o ON o.id = p.version_id"
)
# With one value: JOINED, after which nothing more happens to a series by itself.
_OWN_VERSIONS = (
    "SELECT id, key, state, finished FROM versions WHERE state != ? UNION SELECT v.id, m.key, v.state, v.finished"  # noqa: S608 (ours)
    f" FROM ({_STUDIES}) m JOIN versions v ON v.key = m.study"
)


@dataclass(frozen=True)
class Filed:
    """A series as it is on record.

    Attributes:
        key: of the series.
        state: of its latest version.
        sizes: bytes of each of its files, by name.
    """

    key: str
    state: State
    sizes: Mapping[str, int]


class Repairs:
    """Outside the usual way of a series. Every method is one durable transaction, and may be called by any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def requeue(self, key: str) -> State:
        """By an operator: try the quarantined series, or the dead deliveries of the latest version, again.

        A study gathers its channels anew, as the configuration has them now. Results keep their identity.

        Raises UsageError for a key that is not known or has nothing to try again.
        """
        now = self._context.clock()
        with self._context.database.writing() as database:
            row = latest_version(database, key)
            if row is None:
                raise UsageError(
                    f"the series {key!r} is not known",
                    expected="a key that the status shows",
                    hint="medattn-edge node status",
                )
            missing = missing_from(database, key)
            if row["state"] == State.QUARANTINED and missing is not None:
                raise UsageError(
                    f"the series {key} is not whole ({missing[0]}); {missing[1]}",
                    expected="a series of which every object is here",
                    hint="have it sent again; that opens a new version by itself",
                )
            if row["state"] == State.QUARANTINED and _is_study(database, key):
                open_study_version(database, key, now)
                return State.RECEIVING
            if row["state"] == State.QUARANTINED and _has_instances(database, key):
                again: Notes = {"failures": 0, "interruptions": 0, "reason": "", "detail": "", "finished": None}
                return move(database, row, State.QUEUED, {**again, "completed": now})
            changed = database.execute(
                "UPDATE deliveries SET state = ?, attempts = 0, next_try = ? WHERE version_id = ? AND state = ?",
                (DeliveryState.WAITING, now, row["id"], DeliveryState.DEAD),
            )
            if changed.rowcount == 0:
                raise UsageError(
                    f"the series {key} is {row['state']}, and none of its deliveries is dead",
                    expected="one that is quarantined with its files, or has a dead delivery",
                    hint="medattn-edge node status",
                )
            if row["state"] == State.FAILED:
                move(database, row, State.SEGMENTED, {"finished": None})
            return State.SEGMENTED

    def requeue_interrupted(self) -> tuple[int, int]:
        """Take back what ran when the node ended. How many versions were queued again, and how many quarantined.

        A version is quarantined that was interrupted more often than the policy allows, since it may be the cause.
        """
        with self._context.database.writing() as database:
            rows = database.execute("SELECT * FROM versions WHERE state = ?", (State.RUNNING,)).fetchall()
            suspects = [row for row in rows if row["interruptions"] >= self._context.policy.interruptions]
            for row in rows:
                notes = {"interruptions": row["interruptions"] + 1}
                if row in suspects:
                    detail = f"the node ended {row['interruptions'] + 1} times while this ran"
                    quarantine_row(database, row, INTERRUPTED, detail, self._context.clock(), notes)
                else:
                    move(database, row, State.QUEUED, notes)
        return len(rows) - len(suspects), len(suspects)

    def inventory(self) -> dict[str, Filed]:
        """Every series that has a version, by key."""
        with self._context.database.reading() as database:
            sizes: dict[str, dict[str, int]] = {}
            for row in database.execute("SELECT key, name, bytes FROM instances"):
                sizes.setdefault(row["key"], {})[row["name"]] = row["bytes"]
            # SQLite takes the other columns of a MAX from its row.
            states = database.execute("SELECT key, state, MAX(version) FROM versions GROUP BY key").fetchall()
        return {row["key"]: Filed(row["key"], State(row["state"]), sizes.get(row["key"], {})) for row in states}

    def unhashed(self) -> tuple[tuple[str, str], ...]:
        """Key and name of every file that was recorded before files were hashed."""
        with self._context.database.reading() as database:
            rows = database.execute("SELECT key, name FROM instances WHERE file_sha256 = ''").fetchall()
        return tuple((row["key"], row["name"]) for row in rows)

    def record_hash(self, key: str, name: str, file_sha256: str) -> None:
        """Record the sha256 of a file."""
        with self._context.database.writing() as database:
            database.execute(
                "UPDATE instances SET file_sha256 = ? WHERE key = ? AND name = ?", (file_sha256, key, name)
            )

    def forget_files(self, key: str, names: Collection[str], reason: str) -> None:
        """Record that these files of a series are not there any more.

        What waits for work, or is being worked on, is quarantined with them: a node that ends here would segment the
        rest at its next start. A version that is still received may get them again; with a result or a delivery they
        are not needed.
        """
        with self._context.database.writing() as database:
            _forget(database, key, names, reason)
            latest = latest_version(database, key)
            detail = f"{len(names)} objects are not there any more"
            if latest is not None and latest["state"] in {State.QUEUED, State.RUNNING}:
                quarantine_row(database, latest, reason, detail, self._context.clock())
            elif latest is not None:
                withdraw_channel(database, latest, reason, detail, self._context.clock())

    def forget_series(self, key: str) -> None:
        """Record that the files of a delivered series were removed on purpose."""
        with self._context.database.writing() as database:
            names = [name for (name,) in database.execute("SELECT name FROM instances WHERE key = ?", (key,))]
            _forget(database, key, names, CLEANED_UP)

    def cleanable(self, key: str | None = None) -> tuple[tuple[str, float], ...]:
        """Series (or the one) whose files may go, and when they were finished, oldest first.

        Of such a series a version is delivered, no version waits for anything, no delivery is waiting or dead, and
        nobody was promised that its files stay. For one that is or was a channel, the versions of its study count as
        its own.
        """
        with self._context.database.reading() as database:
            rows = database.execute(
                f"WITH own AS ({_OWN_VERSIONS}) SELECT key, MAX(finished) AS finished FROM own v"  # noqa: S608 (ours)
                " WHERE key = COALESCE(?, key) GROUP BY key HAVING"
                " SUM(state NOT IN (?, ?)) = 0 AND SUM(state = ?) > 0"
                " AND EXISTS (SELECT 1 FROM instances i WHERE i.key = v.key)"
                " AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN own o ON o.id = d.version_id"
                "  WHERE o.key = v.key AND d.state != ?)"
                " AND NOT EXISTS (SELECT 1 FROM commitments c WHERE c.key = v.key AND c.keep_until > ?)"
                " ORDER BY finished, key",
                (
                    *(State.JOINED, key, State.DELIVERED, State.SUPERSEDED, State.DELIVERED, DeliveryState.DELIVERED),
                    self._context.clock(),
                ),
            ).fetchall()
        return tuple((row["key"], row["finished"]) for row in rows)

    def studies_of(self, key: str) -> tuple[str, ...]:
        """Keys of the studies that a series is or was a channel of."""
        with self._context.database.reading() as database:
            rows = database.execute(f"SELECT study FROM ({_STUDIES}) WHERE key = ?", (key,)).fetchall()  # noqa: S608
        return tuple(row["study"] for row in rows)

    def results(self) -> dict[tuple[str, int], tuple[State, tuple[str, ...]]]:
        """The state, and the names of the outputs, of every version of every series, by key and version."""
        with self._context.database.reading() as database:
            by_version: dict[tuple[str, int], tuple[State, tuple[str, ...]]] = {}
            for row in database.execute(
                "SELECT v.key, v.version, v.state, o.name FROM versions v LEFT JOIN outputs o ON o.version_id = v.id"
            ):
                state, names = by_version.get((row["key"], row["version"]), (State(row["state"]), ()))
                by_version[row["key"], row["version"]] = state, names if row["name"] is None else (*names, row["name"])
        return by_version

    def requeue_lost_result(self, key: str, version: int) -> None:
        """Have a result made again that vanished; to who has accepted it already it is not sent again.

        A result of objects that were replaced since is given up instead: the later version goes out.
        """
        with self._context.database.writing() as database:
            row = database.execute("SELECT * FROM versions WHERE key = ? AND version = ?", (key, version)).fetchone()
            replaced = database.execute(
                "SELECT 1 FROM conflicts c JOIN (SELECT ? AS key, ? AS version"
                "  UNION SELECT key, version FROM parts WHERE version_id = ?) of USING (key)"
                " WHERE c.outcome = ? AND c.version > of.version",
                (key, version, row["id"], REPLACED),
            ).fetchone()
            if replaced is None:
                move(database, row, State.QUEUED, {"reason": RESULT_LOST, "completed": self._context.clock()})
                return
            # Its objects were corrected meanwhile: what it was made of is not here any more, and a later version is.
            database.execute(
                "UPDATE deliveries SET state = ?, reason = ? WHERE version_id = ? AND state = ?",
                (DeliveryState.DEAD, RESULT_REPLACED, row["id"], DeliveryState.WAITING),
            )
            settle(database, row["id"], self._context.clock())


def _is_study(database: sqlite3.Connection, key: str) -> bool:
    return database.execute("SELECT 1 FROM studies WHERE key = ?", (key,)).fetchone() is not None


def _has_instances(database: sqlite3.Connection, key: str) -> bool:
    return database.execute("SELECT 1 FROM instances WHERE key = ? LIMIT 1", (key,)).fetchone() is not None


def _forget(database: sqlite3.Connection, key: str, names: Collection[str], reason: str) -> None:
    row = database.execute("SELECT hashes FROM gone WHERE key = ?", (key,)).fetchone()
    hashes = set() if row is None else split_hashes(row["hashes"])
    for name in names:
        [uid] = database.execute("SELECT sop_uid FROM instances WHERE key = ? AND name = ?", (key, name)).fetchone()
        hashes.add(short_hash(uid))
        database.execute("DELETE FROM instances WHERE key = ? AND name = ?", (key, name))
    database.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)", (key, code(reason), b"".join(sorted(hashes))))
