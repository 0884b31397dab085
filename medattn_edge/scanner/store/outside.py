"""A node seen from outside, by its folder only: whether it runs, which it is, and what its database says."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from medattn_edge.errors import HostError, IntegrityError, UsageError, quoted
from medattn_edge.scanner.store.keys import SiteKey, site_key
from medattn_edge.scanner.store.layout import Layout
from medattn_edge.scanner.store.schema import BUSY_SECONDS, MIGRATIONS
from medattn_edge.scanner.store.snapshot import Snapshot, take


def snapshot_of(root: Path, recent: int = 20) -> Snapshot:
    """What the store of a node would say, read without changing anything; a node may run meanwhile.

    Raises UsageError when there is no database, HostError when it may not be read, IntegrityError for a
    damaged one, or one of another version.
    """
    path = Layout(root).database
    _check_readable(path)  # SQLite would say only that it is "unable to open" it
    with _readable(path):
        database = sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?mode=ro", timeout=BUSY_SECONDS, isolation_level=None, uri=True
        )
        try:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN")
            [version] = database.execute("PRAGMA user_version").fetchone()
            if version != len(MIGRATIONS):
                raise IntegrityError(
                    f"{path} has tables of the version {version}",
                    expected=f"the version {len(MIGRATIONS)}",
                    hint="start the node with this medattn-edge, or look with the one that wrote it",
                )
            return take(database, time.time(), recent)
        finally:
            database.close()


def site_of(root: Path) -> SiteKey:
    """The site key of a node that has run; none is made.

    Raises UsageError when there is none, HostError when it may not be read.
    """
    _check_readable(Layout(root).site_key)
    return site_key(Layout(root).site_key)


def check_has_run(root: Path) -> None:
    """Raise UsageError unless a node has run in this root, HostError when that may not be read."""
    _check_readable(Layout(root).database)
    _check_readable(Layout(root).site_key)


def _check_readable(path: Path) -> None:
    with _readable(path):
        path.open("rb").close()


def is_held(root: Path) -> bool:
    """Whether a process holds the lock of this root: a node runs there, even if it does not answer.

    Looked up in /proc, because to try the lock would be to take it from a node that starts.
    """
    try:
        lock = Layout(root).lock.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # By inode only: what /proc calls the device is not what stat calls it on every file system.
    return any(re.search(rf"FLOCK .*:{lock.st_ino} ", line) for line in locks)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(
            f"{path.parent} has no {path.name}", expected="a node that has run", hint="medattn-edge node --config FILE"
        ) from error
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}",
            expected="the permission of the node's user",
            hint="sudo -u USER medattn-edge node status --config FILE",
        ) from error
    except sqlite3.OperationalError as error:
        raise HostError(
            f"{path} cannot be read: {error}",
            expected="a readable file that nobody holds for long",
            hint=f"ls -l {quoted(path.parent)}",
        ) from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            f"{path} is damaged: {error}",
            expected="a database that medattn-edge wrote",
            hint="the node says at its start what to do",
        ) from error
