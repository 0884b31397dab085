"""What a node does before it opens its endpoints: whatever a crash left half done is finished, or undone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medattn_edge.artifact import sha256 as file_sha256
from medattn_edge.errors import MedattnError
from medattn_edge.reasons import CLEANED_UP, FILE_MISSING
from medattn_edge.scanner.store.disk import Watermark, rename_durably
from medattn_edge.scanner.store.records import Header, Instance
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store
from medattn_edge.scanner.store.transitions import State, TransitionRefused

_WITH_A_RESULT = frozenset({State.SEGMENTED, State.DELIVERED, State.FAILED})


@dataclass(frozen=True)
class Recovery:
    """What a recovery found and did, as counts.

    Attributes:
        unfinished: files and folders that were removed.
        requeued: running jobs that were queued again.
        quarantined: running jobs that were quarantined.
        adopted: objects without a row that got one.
        unreadable: objects that were put aside.
        gone: rows whose object was gone.
        results_lost: results that are made again.
    """

    unfinished: int
    requeued: int
    quarantined: int
    adopted: int
    unreadable: int
    gone: int
    results_lost: int


def recover(spool: Spool, store: Store, watermark: Watermark, read_header: Callable[[Path], Header]) -> Recovery:
    """Bring files and rows together at the start, when nothing else runs. It may be killed itself at any point.

    A database that was lost is made again from the spool: the same results go out under the same identities.

    Args:
        spool: the files.
        store: the rows.
        watermark: counts the files again afterwards.
        read_header: reads a DICOM file that was received before; its errors of the package put the file aside.

    Raises:
        IntegrityError: for a damaged database, and for rows that no node wrote.
    """
    store.database.check()
    try:
        return _recover(spool, store, watermark, read_header)
    except (sqlite3.Error, TransitionRefused, ValueError, TypeError) as error:
        # Nothing else runs yet: what contradicts itself now was not written like that.
        raise store.database.damaged(f"{type(error).__name__} in its rows") from error


def _recover(spool: Spool, store: Store, watermark: Watermark, read_header: Callable[[Path], Header]) -> Recovery:
    unfinished = _remove_unfinished(spool.root)
    requeued, quarantined = store.repairs.requeue_interrupted()
    adopted, unreadable = _adopt(spool, store, read_header)
    gone = _forget_missing_files(spool, store)
    for key, name in store.repairs.unhashed():
        store.repairs.record_hash(key, name, file_sha256(spool.folder(key) / name))
    results_lost = _look_for_results(spool, store)
    for key, filed in store.repairs.inventory().items():
        if filed.state is State.QUARANTINED:
            spool.quarantine(key)
        else:
            spool.restore(key)
    watermark.count_again()
    return Recovery(unfinished, requeued, quarantined, adopted, unreadable, gone, results_lost)


def _remove_unfinished(root: Path) -> int:
    """Everything whose name starts with a dot, two levels down."""
    count = 0
    for pattern in (".*.tmp", "*/.*", "*/*/.*"):
        for path in list(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            count += 1
    return count


def _series_folders(spool: Spool) -> list[Path]:
    folders = [*spool.incoming.iterdir(), *spool.quarantined.iterdir()]
    return sorted(folder for folder in folders if folder.is_dir() and folder != spool.objects)


def _adopt(spool: Spool, store: Store, read_header: Callable[[Path], Header]) -> tuple[int, int]:
    """Objects that were durable, but not on record, when the node ended: nobody was notified, but they are here."""
    adopted = unreadable = 0
    inventory = store.repairs.inventory()
    for folder in _series_folders(spool):
        known = inventory[folder.name].sizes if folder.name in inventory else {}
        for path in sorted(folder.iterdir()):
            if known.get(path.name) == path.stat().st_size:
                continue
            instance = None if path.name in known else _read(store, path, read_header)
            if instance is not None and store.series.known(folder.name, instance.header.sop_uid) is not None:
                # One content of two, and not the one on record: it was replaced, or nobody was told that it is here.
                spool.set_object_aside(folder.name, path.name, "replaced")
                unreadable += 1
            elif instance is None:
                rename_durably(path, spool.objects / f"unreadable-{folder.name}-{path.name}")
                unreadable += 1
            else:
                store.series.record_received(instance)
                adopted += 1
    return adopted, unreadable


def _read(store: Store, path: Path, read_header: Callable[[Path], Header]) -> Instance | None:
    """The instance in a file, None when it cannot be read or does not belong where it is."""
    try:
        header = read_header(path)
    except MedattnError:
        return None
    site = store.site
    of_file = file_sha256(path)
    sha256 = header.sha256 or of_file
    names = (site.object_name(header.sop_uid), site.content_name(header.sop_uid, sha256))
    if path.parent.name != site.series_key(header.series_uid) or path.name not in names:
        return None
    return Instance(header, path.name, sha256, path.stat().st_size, file_sha256=of_file)


def _forget_missing_files(spool: Spool, store: Store) -> int:
    count = 0
    for key, filed in store.repairs.inventory().items():
        folder = spool.folder(key)
        here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        gone = set(filed.sizes) - here
        if gone:
            cleaned = not here and bool(store.repairs.cleanable(key))  # a clean-up that did not come to its end
            store.repairs.forget_files(key, gone, CLEANED_UP if cleaned else FILE_MISSING)
            count += len(gone)
    return count


def _look_for_results(spool: Spool, store: Store) -> int:
    """Results that are still to be delivered must be there; those of versions without one must not."""
    lost = 0
    for (key, version), (state, names) in store.repairs.results().items():
        folder = spool.result(key, version)
        if state is State.SEGMENTED and not all((folder / name).is_file() for name in names):
            store.repairs.requeue_lost_result(key, version)
            lost += 1
        elif state not in _WITH_A_RESULT:
            spool.remove_result(key, version)
    return lost
