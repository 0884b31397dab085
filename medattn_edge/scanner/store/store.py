"""Store: what was received, what is to be segmented, what is to be delivered. Rows only; `Custody` moves the files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from medattn_edge.errors import UsageError
from medattn_edge.scanner.store.database import Database
from medattn_edge.scanner.store.delivering import Delivering
from medattn_edge.scanner.store.keys import SiteKey
from medattn_edge.scanner.store.receiving import Receiving
from medattn_edge.scanner.store.records import Policy
from medattn_edge.scanner.store.repairing import Repairing
from medattn_edge.scanner.store.rows import Notes, latest_version, missing_from, move
from medattn_edge.scanner.store.snapshot import Snapshot, take
from medattn_edge.scanner.store.transitions import DeliveryState, State
from medattn_edge.scanner.store.working import Working


class Store(Receiving, Working, Delivering, Repairing):
    """The database of a node. Every method is one durable transaction, and may be called by any thread.

    path: `node.sqlite`, made where there is none. clock: seconds since 1970. Raises IntegrityError for a damaged or
    foreign database, OutputError when the disk is full.
    """

    def __init__(
        self, path: Path, site: SiteKey, policy: Policy | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(Database(path, site.fingerprint), site, policy or Policy(), clock)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads."""
        self.database.close()

    def state_of(self, key: str) -> State | None:
        """The state of a series's latest version; None for a series that is not known."""
        with self.database.reading() as database:
            row = latest_version(database, key)
        return None if row is None else State(row["state"])

    def requeue(self, key: str) -> State:
        """By an operator: try the quarantined series, or the dead deliveries of the latest version, again.

        Results keep their identity. Raises UsageError for a key that is not known or has nothing to try again.
        """
        now = self.clock()
        with self.database.writing() as database:
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

    def snapshot(self, recent: int = 20) -> Snapshot:
        """Counts, times and the recent jobs, for status and metrics: free of identifiers."""
        with self.database.reading() as database:
            return take(database, self.clock(), recent)


def _has_instances(database: sqlite3.Connection, key: str) -> bool:
    return database.execute("SELECT 1 FROM instances WHERE key = ? LIMIT 1", (key,)).fetchone() is not None
