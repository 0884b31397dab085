"""A temporary folder of this process; what a killed one left there, the next start of the same kind removes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from medattn_edge.host import system

HELD: Final = "held"  # a file in it, locked for as long as its process lives
NEW_S: Final = 60.0  # within which a folder may not be held yet


def remove_tree(folder: Path) -> None:
    """Remove a folder as far as that can be done."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held_folder(prefix: str, *, remove: Callable[[Path], None] = remove_tree) -> Iterator[Path]:
    """A new folder among the system's temporary files that only this user may enter; it is gone after the block.

    Args:
        prefix: of its name, which says of what kind it is: those of this kind that nobody holds are removed first.
        remove: how; for what has more than files.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    with suppress(OSError):
        _sweep(place, prefix, remove)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    held = None
    try:
        held = os.open(folder / f".{HELD}", os.O_RDWR | os.O_CREAT, 0o600)
        system.lock(held, wait=True)
        (folder / f".{HELD}").rename(folder / HELD)  # from now on it is held or left over
        yield folder
    finally:
        remove(folder)
        if held is not None:
            os.close(held)


def _sweep(place: Path, prefix: str, remove: Callable[[Path], None]) -> None:
    """Remove this user's folders that no process holds."""
    for folder in place.glob(f"{prefix}*"):
        with suppress(OSError):
            status = folder.lstat()
            if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
                continue
            try:
                held = os.open(folder / HELD, os.O_RDWR)
            except FileNotFoundError:
                if time.time() - status.st_mtime > NEW_S:
                    remove(folder)
                continue
            try:
                system.lock(held, wait=False)
                remove(folder)
            finally:
                os.close(held)
