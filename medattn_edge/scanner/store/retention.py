"""What was delivered is removed after a while, or sooner when the disk fills; what was not is never removed."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass

from medattn_edge.scanner.store.disk import Watermark, folder_bytes
from medattn_edge.scanner.store.spool import Spool
from medattn_edge.scanner.store.store import Store

DAY_S = 86_400.0
_MARGIN = 0.05  # of the disk: cleaned up before new work would be refused


@dataclass(frozen=True)
class Cleaned:
    """What a clean-up removed.

    Attributes:
        series: delivered series.
        objects: single objects in quarantine.
        bytes: of both.
    """

    series: int
    objects: int
    bytes: int


def clean(spool: Spool, store: Store, watermark: Watermark, keep_days: float, quarantine_keep_days: float) -> Cleaned:
    """Remove delivered series that ended some days ago, and then the oldest ones until the disk has room.

    Their files and results go; what is on record stays for the statistics, and so that a late image by itself makes
    no whole series. Quarantined, dead and waiting series stay, and what was promised by storage commitment does for as
    long as was promised, however full the disk is.

    Args:
        spool: the files.
        store: the rows.
        watermark: says when the disk is short of room.
        keep_days: that delivered series stay.
        quarantine_keep_days: that single objects in quarantine stay.
    """
    now, series, freed = store.clock(), 0, 0
    for key, finished in store.repairs.cleanable():
        if now - finished < keep_days * DAY_S and not _is_short_of_space(watermark):
            break
        removed = _clean_series(spool, store, key)
        if removed is not None:
            series, freed = series + 1, freed + removed
    store.commitment_requests.forget_old(now - keep_days * DAY_S)
    objects = 0
    # What was replaced after it was promised lies here under the names of its series and file.
    promised = {f"{key}-{name}" for key, name in store.commitment_requests.promised()}
    for path in sorted(spool.objects.iterdir()):
        status = path.stat()
        if now - status.st_mtime > quarantine_keep_days * DAY_S and not _stays(path.name, promised):
            path.unlink()
            objects, freed = objects + 1, freed + status.st_size
    watermark.count_again()
    return Cleaned(series, objects, freed)


def _stays(name: str, promised: Collection[str]) -> bool:
    """name: of a file of single objects: REASON-KEY-NAME, or one that is unfinished."""
    return name.startswith(".") or name.partition("-")[2] in promised


def _is_short_of_space(watermark: Watermark) -> bool:
    watermark.count_again()
    return watermark.look(int(watermark.look().total * _MARGIN)).refuses


def _clean_series(spool: Spool, store: Store, key: str) -> int | None:
    """Remove one series; its bytes. None when a late image came meanwhile and keeps it."""
    with spool.lock(key):
        if not store.repairs.cleanable(key):
            return None
        freed = folder_bytes(spool.folder(key)) + folder_bytes(spool.results / key)
        # Away in one step, then the rows: in between, `recover` finds rows without files, never the reverse.
        hidden = spool.set_aside(key)
        store.repairs.forget_series(key)
        if hidden is not None:
            shutil.rmtree(hidden)
        spool.remove_results(key)
        for study in store.repairs.studies_of(key):
            spool.remove_results(study)
    return freed
