"""Jobs on record: a complete series is claimed, and becomes a result or is quarantined."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence

from medattn_edge.scanner.store.records import Job, Output, code
from medattn_edge.scanner.store.rows import REPLACED, Notes, StoreContext, held_version, move, quarantine_row, settle
from medattn_edge.scanner.store.transitions import DeliveryState, State

_CONTENTS_DIGITS = 16


class Jobs:
    """From `queued` to `segmented` or `quarantined`. Every method is one durable transaction, for any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def claim(self, worker: str, accepts: Callable[[Job], bool] | None = None) -> Job | None:
        """The job that is complete for longest, running from now on; None if there is none.

        Args:
            worker: who claims it.
            accepts: whether this worker takes a job; called inside the transaction, so it only looks at its argument.
        """
        with self._context.database.writing() as database:
            queued = database.execute(
                "SELECT v.*, s.modality, s.body_part, s.description, s.calling_ae FROM versions v"
                " JOIN series s USING (key) WHERE state = ? ORDER BY completed, id",
                (State.QUEUED,),
            ).fetchall()
            for row in queued:
                job = _job(database, row)
                if accepts is None or accepts(job):
                    notes: Notes = {"attempts": job.attempt, "worker": worker, "claimed": self._context.clock()}
                    move(database, row, State.RUNNING, notes)
                    return job
        return None

    def file_hashes(self, job: Job) -> dict[str, str]:
        """The sha256 of each file of a job as it was received, by name; those of before there were any are left out."""
        with self._context.database.reading() as database:
            rows = database.execute("SELECT name, file_sha256 FROM instances WHERE key = ?", (job.key,)).fetchall()
        return {row["name"]: row["file_sha256"] for row in rows if row["name"] in job.names and row["file_sha256"]}

    def is_held(self, job: Job) -> bool:
        """Whether a job still runs for whoever claimed it: False once it was superseded or tried again."""
        with self._context.database.reading() as database:
            return held_version(database, job) is not None

    def record_result(self, job: Job, outputs: Sequence[Output], destinations: Sequence[str]) -> bool:
        """Record that the result is durable in its folder, to be delivered; at once where no destination is named.

        False when the job is not held any more: then the result is not delivered, and its files are to be removed.
        """
        now = self._context.clock()
        with self._context.database.writing() as database:
            row = held_version(database, job)
            if row is None:
                return False
            move(database, row, State.SEGMENTED, {"segmented": now, "reason": "", "detail": ""})
            database.execute("DELETE FROM outputs WHERE version_id = ?", (job.id,))
            database.executemany(
                "INSERT INTO outputs VALUES (?, ?, ?, ?, ?)",
                [(job.id, code(one.kind), one.name, one.sop_uid, one.sha256) for one in outputs],
            )
            # A destination that has it already, from before the result vanished, keeps its record.
            database.executemany(
                "INSERT INTO deliveries (version_id, destination, state, next_try) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (version_id, destination) DO NOTHING",
                [(job.id, destination, DeliveryState.WAITING, now) for destination in destinations],
            )
            settle(database, job.id, now)
        return True

    def fail(self, job: Job, reason: str, detail: str = "", *, retry: bool = True) -> State | None:
        """Record that the worker crashed, hung or gave up: queued again as often as the policy says, else quarantined.

        Args:
            job: as it was claimed.
            reason: a code.
            detail: for people, without identifiers.
            retry: False where a second try would not help.

        Returns:
            The state, or None when the job is not held any more.
        """
        with self._context.database.writing() as database:
            row = held_version(database, job)
            if row is None:
                return None
            failures: Notes = {"failures": row["failures"] + 1}
            if not retry or row["failures"] >= self._context.policy.retries:
                return quarantine_row(database, row, reason, detail, self._context.clock(), failures)
            return move(database, row, State.QUEUED, {**failures, "reason": code(reason), "detail": detail})

    def quarantine(self, job: Job, reason: str, detail: str = "") -> bool:
        """Quarantine a series that no second try would help. False when the job is not held any more."""
        return self.fail(job, reason, detail, retry=False) is not None


def _job(database: sqlite3.Connection, row: sqlite3.Row) -> Job:
    objects = database.execute(
        "SELECT name, sha256 FROM instances WHERE key = ? AND version <= ? ORDER BY name", (row["key"], row["version"])
    ).fetchall()
    return Job(
        row["id"],
        row["key"],
        row["version"],
        row["attempts"] + 1,
        tuple(one["name"] for one in objects),
        row["modality"],
        row["body_part"],
        row["description"],
        row["calling_ae"],
        _contents(database, row["key"], [one["sha256"] for one in objects]),
    )


def _contents(database: sqlite3.Connection, key: str, hashes: Sequence[str]) -> str:
    """What tells the results of corrected objects from those of the first, which have the same UIDs."""
    replaced = database.execute("SELECT 1 FROM conflicts WHERE key = ? AND outcome = ?", (key, REPLACED)).fetchone()
    return "" if replaced is None else hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()[:_CONTENTS_DIGITS]
