"""What a node may promise to keep: objects that it has, whose files are what was received, read again now.

The promise is on record before it is given, so that no clean-up removes a file in between or afterwards.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from medattn_edge.artifact import sha256 as file_sha256
from medattn_edge.scanner.store.commitment_requests import CommitmentRequest, CommitmentRequests, HeldObject, Reference
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store

# Failure Reason (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119
CLASS_NOT_SUPPORTED: Final = 0x0122
DUPLICATE_TRANSACTION: Final = 0x0131
_DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class Judgement:
    """What is answered to a request.

    Attributes:
        committed: what the node keeps.
        failed: what it does not promise to keep, with the Failure Reason of DICOM.
    """

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]


class Commitments:
    """Requests, judgements and promises. Several threads may call it."""

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool, self._store = spool, store

    @property
    def requests(self) -> CommitmentRequests:
        """What is on record."""
        return self._store.commitment_requests

    def now(self) -> float:
        """Seconds since 1970, by the clock of the records."""
        return self._store.clock()

    def judge(self, request: CommitmentRequest, keep_days: float, sop_classes: Collection[str]) -> Judgement:
        """Read every file that a request names again, and promise to keep those that are what was received.

        Args:
            request: that is to be answered.
            keep_days: from now on, that the files stay at least.
            sop_classes: UIDs of the classes that the node takes.

        Raises OutputError when the promise cannot be recorded: then nothing may be answered.
        """
        if request.duplicate:
            return Judgement((), tuple((one, DUPLICATE_TRANSACTION) for one in request.instances))
        wanted = {uid: sop_class for sop_class, uid in request.instances}
        failures: dict[str, int] = {}
        held = self.requests.held(sorted(wanted))
        for key in sorted({one.key for found in held.values() for one in found}):
            uids = [uid for uid, found in held.items() if any(one.key == key for one in found)]
            failures |= self._promise_series(key, {uid: wanted[uid] for uid in uids}, keep_days)
        committed, failed = [], []
        for sop_class, uid in request.instances:
            if uid not in held:
                reason = NO_SUCH_INSTANCE if sop_class in sop_classes else CLASS_NOT_SUPPORTED
            else:
                # The same UID under two classes: what was looked at is the last of them, and this one is another.
                reason = failures.get(uid, 0) or (CLASS_CONFLICT if wanted[uid] != sop_class else 0)
            if reason:
                failed.append(((sop_class, uid), reason))
            else:
                committed.append((sop_class, uid))
        return Judgement(tuple(committed), tuple(failed))

    def _promise_series(self, key: str, wanted: dict[str, str], keep_days: float) -> dict[str, int]:
        """Promise what is whole of one series; why not, by UID, of the rest."""
        failures, names = {}, []
        with self._spool.lock(key):
            # Looked up again: what was cleaned up meanwhile is not there any more.
            held = self.requests.held(sorted(wanted), key)
            for uid, sop_class in wanted.items():
                reason = NO_SUCH_INSTANCE if uid not in held else self._failure(held[uid][0], sop_class)
                if reason:
                    failures[uid] = reason
                else:
                    names.append(held[uid][0].name)
            self.requests.promise(key, names, self.now() + keep_days * _DAY_S)
        return failures

    def _failure(self, held: HeldObject, sop_class: str) -> int:
        if held.sop_class != sop_class:
            return CLASS_CONFLICT
        try:
            same = file_sha256(self._spool.folder(held.key) / held.name) == held.file_sha256
        except OSError:
            same = False
        return 0 if same and not held.doubtful else PROCESSING_FAILURE
