"""Custody: files and rows together, always in an order that a crash in between can be repaired from.

An object's file is durable before its row, and only then is it acknowledged; a result's files before its state; a dead
letter before its delivery is given up. Nothing outside this folder touches the files or the rows of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from medattn_edge.artifact import sha256 as file_sha256
from medattn_edge.errors import ScanError
from medattn_edge.reasons import FILE_MISSING, OBJECT_DAMAGED
from medattn_edge.scanner.store import recovery, retention
from medattn_edge.scanner.store.admission import Admission
from medattn_edge.scanner.store.commitments import Commitments
from medattn_edge.scanner.store.dead_letters import remove_letter, write_letter
from medattn_edge.scanner.store.disk import Disk, Watermark
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.layout import Layout
from medattn_edge.scanner.store.records import (
    Completion,
    Conflict,
    Content,
    Delivery,
    Header,
    Job,
    Output,
    Part,
    Placement,
    Policy,
    Received,
    StagedObject,
    StudyGathering,
)
from medattn_edge.scanner.store.snapshot import Snapshot
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store
from medattn_edge.scanner.store.transitions import State


class FilesLost(ScanError):
    """Objects of a job are not there any more, or not what was received.

    Attributes:
        reason: a code of JOB_REASONS.
    """

    def __init__(self, reason: str, found: str) -> None:
        self.reason = reason
        super().__init__(found, expected="every object as it was received", hint="have the series sent again")


class Custody:
    """What the receiver, the workers, the deliveries and the clean-up of a node call. Several threads may.

    Attributes:
        commitments: what the node has promised to keep.
    """

    def __init__(self, spool: Spool, store: Store, watermark: Watermark) -> None:
        self._spool, self._store = spool, store
        self._admission = Admission(spool, store, watermark)
        self.commitments = Commitments(spool, store)

    # The node

    @property
    def layout(self) -> Layout:
        """The names of everything in the root."""
        return self._spool.layout

    @property
    def fingerprint(self) -> str:
        """Of the site key: it tells this node from another one."""
        return self._store.site.fingerprint

    @property
    def policy(self) -> Policy:
        """When a series is complete, and how often anything is tried."""
        return self._store.policy

    def configure(self, policy: Policy, watermark: Watermark) -> None:
        """Follow another policy and another watermark from now on."""
        self._store.policy, self._admission.watermark = policy, watermark

    def now(self) -> float:
        """Seconds since 1970, by the clock of the records."""
        return self._store.clock()

    def disk(self) -> Disk:
        """The state of the disk."""
        return self._admission.watermark.look()

    def snapshot(self, recent: int = 20) -> Snapshot:
        """Counts, times and the recent jobs, for status and metrics: free of identifiers."""
        return self._store.snapshot(recent)

    def recover(self, read_header: Callable[[Path], Header]) -> recovery.Recovery:
        """`recovery.recover`: before anything else is called."""
        return recovery.recover(self._spool, self._store, self._admission.watermark, read_header)

    def clean(self, keep_days: float, quarantine_keep_days: float) -> retention.Cleaned:
        """`retention.clean`."""
        watermark = self._admission.watermark
        return retention.clean(self._spool, self._store, watermark, keep_days, quarantine_keep_days)

    def requeue(self, key: str) -> State:
        """`Repairs.requeue`."""
        return self._store.repairs.requeue(key)

    # Received objects

    def opaque_name(self, text: str) -> str:
        """32 hex digits that stand for a text, such as the path of a file, and lead nobody back to it."""
        return self._store.site.object_name(text).removesuffix(".dcm")

    @contextmanager
    def stage(self, file: BinaryIO, size: int) -> Iterator[StagedObject]:
        """Copy an open file into the spool piece by piece, for `keep` or `keep_unreadable`.

        What neither of them took is removed when the block ends.

        Args:
            file: is read from where it stands to its end.
            size: bytes that are expected, for which there has to be room.

        Raises:
            OutputError: for a disk that is full or above the watermark.
            OSError: when the file cannot be read.
        """
        self._admission.check_room(size)
        with self._spool.stage(file) as staged:
            yield staged

    def keep(
        self, content: Content, header: Header, calling_ae: str = "", conflict: Conflict = "new_version"
    ) -> Received:
        """Take a received object: when this returns, it is durable and on record, and success may be answered.

        An object that is here already is a duplicate and takes no space. One with the same UID and other bytes is a
        correction: it takes the place of the one before, which goes to quarantine, and opens a new version.

        Args:
            content: the whole file, in memory, open and seekable, or staged.
            header: what the file says of itself.
            calling_ae: the title of the sender; empty for a folder.
            conflict: `refuse` for corrections that are not taken.

        Raises:
            ScanError: for an empty UID.
            ConflictRefused: for a correction that is not taken, and for more of one object than `max_replacements`.
            OutputError: for a disk that is full or above the watermark, and for more than a series may have. Then the
                object is not taken, and its series is not segmented until it is.
        """
        return self._admission.keep(content, header, calling_ae, conflict)

    def record_refusal(self, header: Header, reason: str, calling_ae: str = "") -> None:
        """Put on record, with a code, that an object was not taken: its series is not whole until that object comes."""
        self._admission.refuse(header, reason, calling_ae)

    def record_no_room(self, header: Header, calling_ae: str = "") -> None:
        """The same for an object that the disk has no room for, unless it is here already."""
        self._admission.refuse_unknown(header, calling_ae)

    def keep_unreadable(self, content: Content, reason: str) -> Path:
        """Put something that cannot be filed into quarantine. reason: a code. Raises OutputError."""
        return self._admission.keep_unreadable(content, reason)

    def queue_complete(self, busy: Collection[str] = ()) -> Completion:
        """`SeriesRecords.queue_complete`, after every refusal is on record; what it quarantines takes its files."""
        self._admission.record_refusals()
        completion = self._store.series.queue_complete(busy)
        for key in self._admission.take_touched().union(completion.quarantined):
            self._quarantine_files(key)
        return completion

    def gather_studies(self, place: Callable[[Job], Placement | None]) -> StudyGathering:
        """`Studies.gather`; what it quarantines takes its files."""
        gathering = self._store.studies.gather(place)
        for key, _ in gathering.quarantined:
            self._quarantine_files(key)
        return gathering

    # Jobs

    def claim(self, worker: str, accepts: Callable[[Job], bool] | None = None) -> Job | None:
        """`Jobs.claim`; the files are `files(job)`."""
        return self._store.jobs.claim(worker, accepts)

    def is_held(self, job: Job) -> bool:
        """Whether a job still runs for whoever claimed it: False once it was superseded or tried again."""
        return self._store.jobs.is_held(job)

    def files(self, job: Job) -> tuple[Path, ...]:
        """`channel_files`, all in one."""
        return tuple(path for _, paths in self.channel_files(job) for path in paths)

    def channel_files(self, job: Job) -> tuple[tuple[str, tuple[Path, ...]], ...]:
        """The files of a job: these and no others, since a late image may lie beside them already.

        Each is what was acknowledged: it is hashed again.

        Returns:
            The name of each channel of a study, and its files; for a series, one without a name.

        Raises:
            FilesLost: when one is not there, or is not what was received; quarantine the job for its reason. What is
                damaged goes to quarantine with its series, and is taken when it is sent again.
        """
        parts = job.parts or (Part("", job.key, job.version, job.names),)
        return tuple((part.channel, self._series_files(part.key, part.names)) for part in parts)

    def _series_files(self, key: str, names: Sequence[str]) -> tuple[Path, ...]:
        with self._spool.lock(key):
            try:
                paths = self._spool.files(key, names)
            except ScanError as error:
                raise FilesLost(FILE_MISSING, error.message) from error
            hashes = self._store.jobs.file_hashes(key, names)
            damaged = [path.name for path in paths if not _is_what_was_kept(path, hashes.get(path.name, ""))]
            if damaged:
                # On record first: a crash in between finds a file that is not known, and puts it aside.
                self._store.repairs.forget_files(key, damaged, OBJECT_DAMAGED)
                for name in damaged:
                    self._spool.set_object_aside(key, name, "damaged")
                self._quarantine_files(key)
                raise FilesLost(OBJECT_DAMAGED, f"{len(damaged)} of {len(paths)} objects are not what was received")
        return paths

    def working_folder(self, job: Job) -> Path:
        """A new empty folder that the worker writes the result into."""
        return self._spool.working_folder(job.key, job.version, job.attempt)

    def record_result(
        self,
        job: Job,
        folder: Path,
        outputs: Sequence[Output],
        destinations: Sequence[str],
        volumes_ml: Mapping[str, float] | None = None,
    ) -> bool:
        """Make what is in a working folder durable, then have it delivered.

        volumes_ml: of every label, for the page.

        False when the job is not held any more: then it is removed.
        """
        with self._spool.lock(job.key):
            if self._store.jobs.is_held(job):
                hashed = [replace(one, sha256=file_sha256(folder / one.name)) for one in outputs]
                self._spool.publish(folder, job.key, job.version)
                if self._store.jobs.record_result(job, hashed, destinations, volumes_ml):
                    return True
                self._spool.remove_result(job.key, job.version)
            else:
                self._spool.remove(folder)
        return False

    def fail(self, job: Job, reason: str, detail: str = "", *, retry: bool = True) -> State | None:
        """`Jobs.fail`; a series that is quarantined takes its files along."""
        state = self._store.jobs.fail(job, reason, detail, retry=retry)
        if state is State.QUARANTINED:
            self._quarantine_files(job.key)
        return state

    def quarantine(self, job: Job, reason: str, detail: str = "") -> bool:
        """`Jobs.quarantine`, with the files. False when the job is not held any more."""
        return self.fail(job, reason, detail, retry=False) is not None

    def result_file(self, key: str, version: int, name: str) -> Path | None:
        """A file of a result; None when it is not there."""
        path = self.layout.result(key, version) / name
        return path if path.is_file() else None

    # Deliveries

    def deliveries_due(self, destination: str | None = None, limit: int = 100) -> tuple[Delivery, ...]:
        """`Deliveries.due`; the files are `delivery_files(delivery)`."""
        return self._store.deliveries.due(destination, limit)

    def delivery_files(self, delivery: Delivery) -> list[Path]:
        """The files of a delivery, whether or not they are there."""
        folder = self.layout.result(delivery.key, delivery.version)
        return [folder / output.name for output in delivery.outputs]

    def requeue_if_lost(self, delivery: Delivery) -> bool | None:
        """Have a result made again that vanished or was damaged, under the same identity, as after a restart.

        None when it is there and is what was written. Whether this call had it made again; False when another
        destination's did.
        """
        if self._is_whole(delivery):
            return None
        with self._spool.lock(delivery.key):
            # Another destination's thread may have seen it as well, and the worker may be done again.
            due = {one.id for one in self._store.deliveries.due(delivery.destination)}
            lost = delivery.id in due and not self._is_whole(delivery)
            if lost:
                self._store.repairs.requeue_lost_result(delivery.key, delivery.version)
        return lost

    def record_delivered(self, delivery: Delivery) -> None:
        """`Deliveries.record_delivered`, without a dead letter from then on.

        Raises TransitionRefused where that is on record already, OutputError when it cannot be recorded.
        """
        # The letter first: after a crash in between it is delivered again, and no letter stays that nobody needs.
        remove_letter(self.layout, delivery)
        self._store.deliveries.record_delivered(delivery)

    def fail_delivery(self, delivery: Delivery, reason: str, *, final: bool = False) -> float | None:
        """`Deliveries.record_failure`; when it is given up, as it is at once when final, a dead letter is there first.

        When it is tried again, in seconds since 1970; None: it is given up now. Raises TransitionRefused where it has
        ended already, LetterError when the dead letter cannot be written: then nothing has changed.
        """
        if final or delivery.attempts + 1 >= self.policy.delivery_attempts:
            # The letter first: a crash in between writes it again, and none is forgotten.
            write_letter(self.layout, delivery, reason, self.now())
        if final:
            self._store.deliveries.give_up(delivery, reason)
            return None
        return self._store.deliveries.record_failure(delivery, reason)

    def postpone_delivery(self, delivery: Delivery, reason: str) -> float | None:
        """Try a delivery once more that cannot be given up yet; the failed attempt is not counted."""
        return self._store.deliveries.record_failure(delivery.without_last_attempt(), reason)

    def _is_whole(self, delivery: Delivery) -> bool:
        files = zip(self.delivery_files(delivery), delivery.outputs, strict=True)
        return all(path.is_file() and _is_what_was_kept(path, output.sha256) for path, output in files)

    def _quarantine_files(self, key: str) -> None:
        with self._spool.lock(key):
            # A late image may have opened the next version meanwhile, which has its files where they were.
            if self._store.series.state_of(key) is State.QUARANTINED:
                self._spool.quarantine(key)


def _is_what_was_kept(path: Path, sha256: str) -> bool:
    """sha256: as it was recorded; "" for a file of before there were any. What the disk cannot read is not."""
    try:
        return not sha256 or file_sha256(path) == sha256
    except OSError:
        return False


@contextmanager
def open_custody(root: Path, policy: Policy, watermark: Watermark | None = None) -> Iterator[Custody]:
    """The custody of a node in its root, which is made where there is none, until the block ends.

    Raises:
        OutputError: for a root that cannot be written.
        HostError: for a site key that others may read.
        IntegrityError: for a damaged database or site key.
    """
    spool = Spool(root)
    with Store(spool.layout.database, site_key(spool.layout.site_key), policy) as store:
        yield Custody(spool, store, watermark or Watermark(root))
