"""Storage commitment on record: who has asked for what, what was answered, and which files the node has to keep."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from medattn_edge.scanner.store.records import code
from medattn_edge.scanner.store.rows import REFUSED, StoreContext

Reference = tuple[str, str]  # SOP class and SOP instance
_AT_ONCE = 500  # parameters of one statement


@dataclass(frozen=True)
class CommitmentRequest:
    """One request that waits for its answer.

    Attributes:
        id: of the request.
        requester: the AE title of who asked.
        transaction_uid: by which the requester knows the answer.
        duplicate: whether that UID was in use for something else.
        instances: that it names, each once.
        attempts: to answer, those that failed.
    """

    id: int
    requester: str
    transaction_uid: str
    duplicate: bool
    instances: tuple[Reference, ...]
    attempts: int


@dataclass(frozen=True)
class HeldObject:
    """An object on record that a request names.

    Attributes:
        key: of its series.
        name: of its file.
        sop_class: of the object.
        file_sha256: of the file as it was received, in hex; "" where it is not known.
        doubtful: whether something else was sent under its UID since, and refused.
    """

    key: str
    name: str
    sop_class: str
    file_sha256: str
    doubtful: bool


class CommitmentRequests:
    """Every method is one durable transaction, for any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def record(
        self, requester: str, transaction_uid: str, instances: Collection[Reference], max_waiting: int
    ) -> int | None:
        """Put a request on record: once this returns, it will be answered. Its id; None: too many wait already.

        The same request again is the same row, and is answered again where it was answered. Another one under a
        transaction UID that is known is a duplicate.
        """
        now, named = self._context.clock(), json.dumps(sorted(set(instances)))
        with self._context.database.writing() as database:
            known = database.execute(
                "SELECT id, state FROM commitment_requests WHERE transaction_uid = ? AND requester = ?"
                " AND instances = ? ORDER BY id LIMIT 1",
                (transaction_uid, requester, named),
            ).fetchone()
            if known is not None and known["state"] == "waiting":
                database.execute("UPDATE commitment_requests SET next_try = ? WHERE id = ?", (now, known["id"]))
                return int(known["id"])
            [waiting] = database.execute("SELECT COUNT(*) FROM commitment_requests WHERE state = 'waiting'").fetchone()
            if waiting >= max_waiting:
                return None
            if known is not None:
                database.execute(
                    "UPDATE commitment_requests SET state = 'waiting', attempts = 0, next_try = ?, ended = NULL,"
                    " reason = '' WHERE id = ?",
                    (now, known["id"]),
                )
                return int(known["id"])
            [used] = database.execute(
                "SELECT COUNT(*) FROM commitment_requests WHERE transaction_uid = ?", (transaction_uid,)
            ).fetchone()
            made = database.execute(
                "INSERT INTO commitment_requests (requester, transaction_uid, duplicate, instances, received, state,"
                " next_try) VALUES (?, ?, ?, ?, ?, 'waiting', ?)",
                (requester, transaction_uid, used > 0, named, now, now),
            )
            assert made.lastrowid is not None
            return made.lastrowid

    def due(self, requester: str, limit: int = 20) -> tuple[CommitmentRequest, ...]:
        """Requests of one peer that may be answered now, those that wait for longest first."""
        now = self._context.clock()
        with self._context.database.reading() as database:
            rows = database.execute(
                "SELECT * FROM commitment_requests WHERE state = 'waiting' AND requester = ?"
                # Later than the longest pause: the clock was set back, and would hold it for that long.
                " AND (next_try <= ? OR next_try > ?) ORDER BY next_try, id LIMIT ?",
                (requester, now, now + self._context.policy.retry_max_s, limit),
            ).fetchall()
        return tuple(
            CommitmentRequest(
                row["id"],
                row["requester"],
                row["transaction_uid"],
                bool(row["duplicate"]),
                tuple((sop_class, uid) for sop_class, uid in json.loads(row["instances"])),
                row["attempts"],
            )
            for row in rows
        )

    def held(self, sop_uids: Sequence[str], key: str | None = None) -> dict[str, list[HeldObject]]:
        """The objects on record (of one series) under these UIDs, by UID; several where several series have one."""
        found: dict[str, list[HeldObject]] = {}
        with self._context.database.reading() as database:
            for row in _rows(database, sop_uids, key):
                one = HeldObject(row["key"], row["name"], row["sop_class"], row["file_sha256"], bool(row["doubtful"]))
                found.setdefault(row["sop_uid"], []).append(one)
        return found

    def promise(self, key: str, names: Collection[str], keep_until: float) -> None:
        """Record, before it is promised, that these files of a series stay at least until then."""
        with self._context.database.writing() as database:
            database.executemany(
                "INSERT INTO commitments VALUES (?, ?, ?) ON CONFLICT (key, name)"
                " DO UPDATE SET keep_until = MAX(keep_until, excluded.keep_until)",
                [(key, name, keep_until) for name in names],
            )

    def promised(self) -> frozenset[tuple[str, str]]:
        """The key and the name of every file that has to stay."""
        with self._context.database.reading() as database:
            rows = database.execute(
                "SELECT key, name FROM commitments WHERE keep_until > ?", (self._context.clock(),)
            ).fetchall()
        return frozenset((row["key"], row["name"]) for row in rows)

    def record_answered(self, request: CommitmentRequest, committed: int, failed: int) -> None:
        """Record that the peer has taken the answer, and how many instances it said what of."""
        with self._context.database.writing() as database:
            database.execute(
                "UPDATE commitment_requests SET state = 'answered', ended = ?, committed = ?, failed = ?, reason = ''"
                " WHERE id = ? AND state = 'waiting'",
                (self._context.clock(), committed, failed, request.id),
            )

    def record_failure(self, request: CommitmentRequest, reason: str) -> float | None:
        """Record that the peer did not take the answer. When it is tried again; None: it is given up now."""
        attempts, policy, now = request.attempts + 1, self._context.policy, self._context.clock()
        with self._context.database.writing() as database:
            if attempts >= policy.delivery_attempts:
                database.execute(
                    "UPDATE commitment_requests SET state = 'dead', ended = ?, attempts = ?, reason = ?"
                    " WHERE id = ? AND state = 'waiting'",
                    (now, attempts, code(reason), request.id),
                )
                return None
            # To spread the attempts, and the same each time; nothing secret hangs on it.
            spread = random.Random(f"{policy.seed}:commitment:{request.id}:{attempts}").uniform(0.5, 1.0)  # noqa: S311
            next_try = now + spread * min(policy.retry_max_s, policy.retry_initial_s * 2.0 ** min(attempts - 1, 60))
            database.execute(
                "UPDATE commitment_requests SET attempts = ?, next_try = ?, reason = ?"
                " WHERE id = ? AND state = 'waiting'",
                (attempts, next_try, code(reason), request.id),
            )
        return next_try

    def forget_old(self, before: float) -> None:
        """Forget what was answered or given up before a time (seconds since 1970), and promises that have run out."""
        with self._context.database.writing() as database:
            database.execute("DELETE FROM commitment_requests WHERE state != 'waiting' AND ended < ?", (before,))
            database.execute("DELETE FROM commitments WHERE keep_until <= ?", (self._context.clock(),))


def _rows(database: sqlite3.Connection, sop_uids: Sequence[str], key: str | None) -> Iterator[sqlite3.Row]:
    for start in range(0, len(sop_uids), _AT_ONCE):
        some = sop_uids[start : start + _AT_ONCE]
        yield from database.execute(
            "SELECT i.*, EXISTS (SELECT 1 FROM refusals r WHERE r.key = i.key AND r.sop_uid = i.sop_uid)"  # noqa: S608 (marks only; values are bound)
            " OR EXISTS (SELECT 1 FROM conflicts c WHERE c.key = i.key AND c.sop_uid = i.sop_uid"
            "  AND c.outcome = ? AND c.received >= i.received) AS doubtful"
            f" FROM instances i WHERE i.sop_uid IN ({', '.join('?' * len(some))}) AND i.key = COALESCE(?, i.key)",
            (REFUSED, *some, key),
        ).fetchall()
