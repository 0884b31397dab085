"""Results into a folder: FOLDER/KEY/vN/NAME, each file whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from medattn_edge.atomic import replacing
from medattn_edge.errors import OutputError
from medattn_edge.scanner.deliver.send import DeliveryRefused
from medattn_edge.scanner.store.disk import sync_folder

_PROBE_BYTES: Final = 4096
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def put(folder: Path, key: str, version: int, files: Sequence[Path]) -> None:
    """Copy files into FOLDER/KEY/vVERSION, durably; one that is there already stays. Raises DeliveryRefused.

    They get the mode of any new file, since other programs read them.
    """
    if not folder.is_dir():
        # It is the site's: when it is not mounted, a folder in its place would hide that.
        raise DeliveryRefused("folder_missing")
    target = folder / key / f"v{version}"
    try:
        for parent in (target.parent, target):
            if not parent.is_dir():
                parent.mkdir()
                sync_folder(parent.parent)
        for left in target.glob(".*.tmp.*"):  # by a node that was killed
            left.unlink()
        for path in files:
            if not path.is_file():
                raise DeliveryRefused("result_missing")
            if not _is_there(path, target / path.name):
                with replacing(target / path.name) as temporary:
                    shutil.copyfile(path, temporary)
        sync_folder(target)
    except (OSError, OutputError) as error:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        full = isinstance(cause, OSError) and cause.errno in _FULL
        raise DeliveryRefused("folder_full" if full else "folder_unwritable") from error


def probe(folder: Path) -> None:
    """Write a file into the folder of a destination and remove it. Raises DeliveryRefused."""
    if not folder.is_dir():
        raise DeliveryRefused("folder_missing")
    try:
        with tempfile.NamedTemporaryFile(prefix=".medattn-edge-check", dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DeliveryRefused("folder_full" if error.errno in _FULL else "folder_unwritable") from error


def _is_there(path: Path, target: Path) -> bool:
    return target.is_file() and filecmp.cmp(path, target, shallow=False)
