"""Custody: files and rows together, always in an order that a crash in between can be repaired from.

An object's file is durable before its row, and only then is it acknowledged; a result's files before its state.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.scanner.reasons import DISK_FULL, TOO_LARGE, TOO_MANY
from medattn_edge.scanner.store.disk import Watermark
from medattn_edge.scanner.store.records import Completion, Fate, Header, Instance, Job, Output, Received, code
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store
from medattn_edge.scanner.store.transitions import State

_CHUNK: Final = 1 << 20


class Custody:
    """What the receiver, the workers and the clean-up of a node call. Several threads may."""

    def __init__(self, spool: Spool, store: Store, watermark: Watermark) -> None:
        self.spool, self.store, self.watermark = spool, store, watermark
        self._lock = threading.Lock()
        self._untold: list[tuple[Header, str, str]] = []  # refused, and not on record yet
        self._touched: set[str] = set()  # series of which something was refused: perhaps in quarantine now

    def keep(self, data: bytes | BinaryIO, header: Header, calling_ae: str = "") -> Received:
        """Take a received object: when this returns, it is durable and on record, and success may be answered.

        data: the whole file, in memory or open and seekable. An object that is here already is a duplicate and takes no
        space; one with the same UID and other bytes goes to quarantine, and the first stays.
        Raises ScanError for an empty UID; OutputError for a disk that is full or above the watermark, and for more than
        a series may have. Then the object is not taken, and its series is not segmented until it is.
        """
        if not header.series_uid.strip() or not header.sop_uid.strip():
            raise ScanError(
                "an object has an empty SeriesInstanceUID or SOPInstanceUID",
                expected="both",
                hint="correct it at the sender",
            )
        size, sha256 = measure(data)
        key, name = self.store.site.series_key(header.series_uid), self.store.site.object_name(header.sop_uid)
        instance = Instance(header, name, header.sha256 or sha256, size, calling_ae)
        with self.spool.lock(key):
            received = self._take(data, instance, key, sha256)
        if received.fate is not Fate.DUPLICATE:
            self.watermark.kept(size)
        return received

    def _take(self, data: bytes | BinaryIO, instance: Instance, key: str, sha256: str) -> Received:
        known = self.store.known_sha256(key, instance.header.sop_uid)
        if known is not None and known != instance.sha256:
            self._check_disk(instance.bytes)
            self.spool.keep_object(f"conflict-{key}-{Path(instance.name).stem}-{sha256[:16]}.dcm", data)
            return self.store.received(instance)
        reason = None if known is not None else self._excess(key, instance.bytes)
        try:
            if reason is not None:
                raise OutputError(
                    f"the series {key} has more objects or bytes than a series may have",
                    expected=f"at most {self.store.policy.max_instances} and {self.store.policy.max_bytes} bytes",
                    hint="raise the limits of the node if such series are wanted",
                )
            if known is None or not self.spool.has(key, instance.name):
                self._check_disk(instance.bytes)
                self.spool.keep(key, instance.name, data)
            return self.store.received(instance)
        except OutputError:
            if known is None:
                with self._lock:
                    self._untold.append((instance.header, reason or DISK_FULL, instance.calling_ae))
                with suppress(OutputError):  # told again before anything counts as complete
                    self._tell()
            raise

    def _excess(self, key: str, size: int) -> str | None:
        count, total = self.store.usage(key)
        if count + 1 > self.store.policy.max_instances:
            return TOO_MANY
        return TOO_LARGE if total + size > self.store.policy.max_bytes else None

    def _check_disk(self, size: int) -> None:
        disk = self.watermark.look(size)
        if disk.refuses:
            raise OutputError(
                f"the disk of {self.spool.root} is {disk.used_share:.0%} full, {disk.free / 1e9:.1f} GB are free",
                expected="less than the watermark",
                hint="free space, or shorten the time that delivered series are kept",
            )

    def _tell(self) -> None:
        """Record what was refused. What a full disk does not let us record is, before anything counts as complete."""
        with self._lock:
            while self._untold:
                self._touched.add(self.store.refused(*self._untold[-1]))
                self._untold.pop()

    def refuse(self, header: Header, reason: str, calling_ae: str = "") -> None:
        """Put on record, with a code, that an object was not taken: its series is not whole until that object comes."""
        with self._lock:
            self._untold.append((header, code(reason), calling_ae))
        self._tell()

    def keep_unreadable(self, data: bytes | BinaryIO, reason: str) -> Path:
        """Put something that cannot be filed into quarantine. reason: a code. Raises OutputError."""
        size, sha256 = measure(data)
        self._check_disk(size)
        path = self.spool.keep_object(f"{code(reason)}-{sha256[:16]}.dcm", data)
        self.watermark.kept(size)
        return path

    def complete(self, busy: Collection[str] = ()) -> Completion:
        """`Store.complete`, after every refusal is on record; what is quarantined takes its files with it."""
        self._tell()
        completion = self.store.complete(busy)
        with self._lock:
            touched, self._touched = self._touched, set()
        for key in touched.union(completion.quarantined):
            self._put_away(key)
        return completion

    def claim(self, worker: str, accepts: Callable[[Job], bool] | None = None) -> Job | None:
        """`Store.claim`; the files are `files(job)`."""
        return self.store.claim(worker, accepts)

    def files(self, job: Job) -> tuple[Path, ...]:
        """The files of a job: these and no others, since a late image may lie beside them already.

        Raises ScanError when one is not there (quarantine the job as `file_missing`).
        """
        with self.spool.lock(job.key):
            return self.spool.files(job.key, job.names)

    def workplace(self, job: Job) -> Path:
        """A new empty folder that the worker writes the result into."""
        return self.spool.workplace(job.key, job.version, job.attempt)

    def segmented(self, job: Job, workplace: Path, outputs: Sequence[Output], destinations: Sequence[str]) -> bool:
        """Make what is in the workplace durable, then have it delivered. False, and removed, if the job is not held."""
        with self.spool.lock(job.key):
            if self.store.holds(job):
                self.spool.publish(workplace, job.key, job.version)
                if self.store.segmented(job, outputs, destinations):
                    return True
                self.spool.remove_result(job.key, job.version)
            else:
                self.spool.remove(workplace)
        return False

    def failed(self, job: Job, reason: str, detail: str = "", *, retry: bool = True) -> State | None:
        """`Store.failed`; a series that is quarantined takes its files with it."""
        state = self.store.failed(job, reason, detail, retry=retry)
        if state is State.QUARANTINED:
            self._put_away(job.key)
        return state

    def quarantine(self, job: Job, reason: str, detail: str = "") -> bool:
        """`Store.quarantine`, with the files. False when the job is not held any more."""
        return self.failed(job, reason, detail, retry=False) is not None

    def _put_away(self, key: str) -> None:
        with self.spool.lock(key):
            # A late image may have opened the next version meanwhile, which has its files where they were.
            if self.store.state_of(key) is State.QUARANTINED:
                self.spool.quarantine(key)


def measure(data: bytes | BinaryIO) -> tuple[int, str]:
    """The size and the sha256 of a file in memory, or open and seekable; it is at its start afterwards."""
    if isinstance(data, bytes | bytearray | memoryview):
        return len(data), hashlib.sha256(data).hexdigest()
    data.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := data.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    data.seek(0)
    return size, digest.hexdigest()
