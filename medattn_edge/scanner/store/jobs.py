"""Jobs on record: a complete series is claimed, and becomes a result or is quarantined."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from medattn_edge.scanner.store.records import Job, Output, Part, code
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
                "SELECT v.*, s.modality, s.body_part, s.description, s.calling_ae, t.model FROM versions v"
                " JOIN series s USING (key) LEFT JOIN studies t USING (key) WHERE state = ? ORDER BY completed, id",
                (State.QUEUED,),
            ).fetchall()
            for row in queued:
                job = _job(database, row)
                if accepts is None or accepts(job):
                    notes: Notes = {"attempts": job.attempt, "worker": worker, "claimed": self._context.clock()}
                    move(database, row, State.RUNNING, notes)
                    return job
        return None

    def file_hashes(self, key: str, names: Sequence[str]) -> dict[str, str]:
        """The sha256 of files of a series as they were received, by name; older ones have none and are left out."""
        with self._context.database.reading() as database:
            rows = database.execute("SELECT name, file_sha256 FROM instances WHERE key = ?", (key,)).fetchall()
        return {row["name"]: row["file_sha256"] for row in rows if row["name"] in names and row["file_sha256"]}

    def is_held(self, job: Job) -> bool:
        """Whether a job still runs for whoever claimed it: False once it was superseded or tried again."""
        with self._context.database.reading() as database:
            return held_version(database, job) is not None

    def record_result(
        self,
        job: Job,
        outputs: Sequence[Output],
        destinations: Sequence[str],
        volumes_ml: Mapping[str, float] | None = None,
    ) -> bool:
        """Record that the result is durable in its folder, to be delivered; at once where no destination is named.

        volumes_ml: of every label, for the page.

        False when the job is not held any more: then the result is not delivered, and its files are to be removed.
        """
        now = self._context.clock()
        with self._context.database.writing() as database:
            row = held_version(database, job)
            if row is None:
                return False
            volumes = json.dumps(dict(volumes_ml), allow_nan=False) if volumes_ml else ""
            move(database, row, State.SEGMENTED, {"segmented": now, "reason": "", "detail": "", "volumes": volumes})
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
    names, contents = _objects(database, row["key"], row["version"])
    job = Job(
        row["id"],
        row["key"],
        row["version"],
        row["attempts"] + 1,
        names,
        row["modality"],
        row["body_part"],
        row["description"],
        row["calling_ae"],
        contents,
    )
    return job if row["model"] is None else _of_study(database, job, row["model"])


def _of_study(database: sqlite3.Connection, job: Job, model: str) -> Job:
    """The job with the series of each channel."""
    rows = database.execute(
        "SELECT channel, key, version FROM parts WHERE version_id = ? ORDER BY place", (job.id,)
    ).fetchall()
    found = [(row, *_objects(database, row["key"], row["version"])) for row in rows]
    parts = tuple(Part(row["channel"], row["key"], row["version"], names) for row, names, _ in found)
    corrected = "".join(contents for _, _, contents in found)
    return replace(job, model=model, parts=parts, contents=_short(corrected) if corrected else "")


def _objects(database: sqlite3.Connection, key: str, version: int) -> tuple[tuple[str, ...], str]:
    """The names of the files of a version, and what tells their result from that of the first objects.

    Corrected objects have the same UIDs as the first: of a series with some, that is a short hash, else "".
    """
    objects = database.execute(
        "SELECT name, sha256 FROM instances WHERE key = ? AND version <= ? ORDER BY name", (key, version)
    ).fetchall()
    replaced = database.execute("SELECT 1 FROM conflicts WHERE key = ? AND outcome = ?", (key, REPLACED)).fetchone()
    contents = "" if replaced is None else _short("".join(sorted(one["sha256"] for one in objects)))
    return tuple(one["name"] for one in objects), contents


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_CONTENTS_DIGITS]
