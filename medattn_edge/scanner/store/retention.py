"""What was delivered is removed after a while, or sooner when the disk fills; what was not is never removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.disk import folder_bytes

DAY_S = 86_400.0
_MARGIN = 0.05  # of the disk: cleaned up before new work would be refused


@dataclass(frozen=True)
class Cleaned:
    """How many series and single objects were removed, and their bytes."""

    series: int
    objects: int
    bytes: int


def clean(custody: Custody, keep_days: float = 7.0, objects_days: float = 30.0) -> Cleaned:
    """Remove delivered series that ended `keep_days` ago, and then the oldest ones until the disk has room.

    Their files and results go; what is on record stays for the statistics, and so that a late image alone makes no
    whole series. Single objects in quarantine go after `objects_days`. Quarantined, dead and waiting series stay.
    """
    now, series, freed = custody.store.clock(), 0, 0
    for key, finished in custody.store.cleanable():
        if now - finished < keep_days * DAY_S and not _is_short_of_space(custody):
            break
        removed = _clean_series(custody, key)
        if removed is not None:
            series, freed = series + 1, freed + removed
    objects = 0
    for path in sorted(custody.spool.objects.iterdir()):
        found = path.stat()
        if now - found.st_mtime > objects_days * DAY_S and not path.name.startswith("."):
            path.unlink()
            objects, freed = objects + 1, freed + found.st_size
    custody.watermark.count_again()
    return Cleaned(series, objects, freed)


def _is_short_of_space(custody: Custody) -> bool:
    custody.watermark.count_again()
    return custody.watermark.look(int(custody.watermark.look().total * _MARGIN)).refuses


def _clean_series(custody: Custody, key: str) -> int | None:
    """Remove one series; its bytes. None when a late image came meanwhile and keeps it."""
    spool = custody.spool
    with spool.lock(key):
        if not custody.store.cleanable(key):
            return None
        freed = folder_bytes(spool.folder(key)) + folder_bytes(spool.results / key)
        # Away in one step, then the rows: in between, `recover` finds rows without files, never the reverse.
        hidden = spool.set_aside(key)
        custody.store.cleaned(key)
        if hidden is not None:
            shutil.rmtree(hidden)
        spool.remove_results(key)
    return freed
