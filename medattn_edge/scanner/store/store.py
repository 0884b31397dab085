"""Store: what was received, what is to be segmented, what is to be delivered. Rows only; `Custody` moves the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from medattn_edge.scanner.store.commitment_requests import CommitmentRequests
from medattn_edge.scanner.store.database import Database
from medattn_edge.scanner.store.deliveries import Deliveries
from medattn_edge.scanner.store.jobs import Jobs
from medattn_edge.scanner.store.keys import SiteKey
from medattn_edge.scanner.store.records import Policy
from medattn_edge.scanner.store.repairs import Repairs
from medattn_edge.scanner.store.rows import StoreContext
from medattn_edge.scanner.store.schema import MIGRATIONS, Migration
from medattn_edge.scanner.store.series import SeriesRecords
from medattn_edge.scanner.store.snapshot import Snapshot, take
from medattn_edge.scanner.store.studies import Studies


class Store:
    """The records of a node, by concern. Several threads may use it.

    Attributes:
        database: of the node.
        series: objects and series, up to `queued`.
        studies: from `queued` series to `queued` studies, for networks of several channels.
        jobs: from `queued` to `segmented`.
        deliveries: from `segmented` to `delivered` or `failed`.
        repairs: after a crash, a loss, a clean-up, or when an operator asks for it.
        commitment_requests: of peers that ask whether the node keeps what they sent.
    """

    def __init__(
        self,
        path: Path,
        site: SiteKey,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        """Open the database, which is made where there is none.

        Args:
            path: of the database.
            site: the key that series are filed under.
            policy: what the store follows.
            clock: seconds since 1970.
            migrations: the statements of every version of the tables, the first version first.

        Raises:
            IntegrityError: for a damaged or foreign database.
            OutputError: when the disk is full.
        """
        self.database = Database(path, site.fingerprint, migrations)
        self._context = StoreContext(self.database, site, policy or Policy(), clock)
        self.series, self.jobs = SeriesRecords(self._context), Jobs(self._context)
        self.studies = Studies(self._context)
        self.deliveries, self.repairs = Deliveries(self._context), Repairs(self._context)
        self.commitment_requests = CommitmentRequests(self._context)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads."""
        self.database.close()

    @property
    def site(self) -> SiteKey:
        """The key that series are filed under."""
        return self._context.site

    @property
    def policy(self) -> Policy:
        """What the store follows; it may be replaced at any time."""
        return self._context.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._context.policy = policy

    def clock(self) -> float:
        """Now, in seconds since 1970."""
        return self._context.clock()

    def snapshot(self, recent: int = 20) -> Snapshot:
        """Counts, times and the recent jobs, for status and metrics: free of identifiers."""
        with self.database.reading() as database:
            return take(database, self.clock(), recent)
