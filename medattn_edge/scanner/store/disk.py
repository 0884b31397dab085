"""Writing that a power cut cannot undo, and the watermark above which nothing new is taken."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medattn_edge import atomic
from medattn_edge.errors import OutputError, UsageError, quoted

_CHUNK = 1 << 20
_COUNT_AGAIN_S = 30.0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    atomic.sync(folder)


def make_root(root: Path) -> None:
    """Make the root of a node (0700) and its parents, durably; one that is there gets that mode. Raises OutputError."""
    try:
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:  # or a power cut takes the root, with every object that was acknowledged since
            sync_folder(folder.parent)
        if root.stat().st_mode & 0o077:
            root.chmod(0o700)
    except OSError as error:
        raise OutputError(
            f"cannot make {root}: {error.strerror}",
            expected="permission to write",
            hint=f"ls -ld {quoted(root.parent)}",
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder (0700) durably; its parent exists."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync_folder(folder.parent)


def only_for_owner(path: Path) -> None:
    """Make an empty file (0600) where there is none; one that is there gets that mode. Raises OutputError.

    One that is there is never opened: closing it again would drop every lock that SQLite holds on it in this process
    (POSIX locks belong to the process and the file), and another process would then take the database for unused.
    """
    with as_output_error(path):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def rename_durably(source: Path, target: Path) -> None:
    """Rename, and make it durable."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def hide_folder(folder: Path) -> Path:
    """Take a folder away in one step, by a name that starts with a dot; the folder to remove."""
    hidden = folder.parent / f".removed-{folder.name}"
    if hidden.exists():
        shutil.rmtree(hidden)
    rename_durably(folder, hidden)
    return hidden


def remove_folder(folder: Path) -> None:
    """Remove a folder: never half of one under its own name."""
    shutil.rmtree(hide_folder(folder))


def write_durably(path: Path, data: bytes | BinaryIO) -> int:
    """Write a file (0600) that is whole and durable when this returns. The number of bytes.

    A temporary file that starts with a dot, fsync, rename, fsync of the folder. `atomic.replacing` makes a file whole,
    with the mode of any new file, and does not sync the folder.
    Raises OutputError when the disk is full or cannot be written; nothing is left behind, and what stood there stays.
    """
    temporary: Path | None = None
    try:
        with as_output_error(path):
            handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                if isinstance(data, bytes | bytearray | memoryview):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, _CHUNK)
                written = file.tell()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return written


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """An OSError of the block is an OutputError about the path: a full disk, mostly."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            expected="free space and permission to write",
            hint=f"df -h {quoted(path.parent)}",
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock file (0600, made where there is none) for as long as the block lasts, or this process lives.

    Raises BlockingIOError when another process holds it and we do not wait, OutputError when it cannot be made.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(atomic.locked(path, wait=wait))
        except BlockingIOError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}",
                expected="a folder that this process may write to, on a file system that has locks",
                hint=f"ls -ld {quoted(path.parent)}",
            ) from error
        yield


@dataclass(frozen=True)
class Disk:
    """What a disk, or the quota, holds.

    Attributes:
        total: bytes.
        free: bytes.
        refuses: whether nothing more is taken.
    """

    total: int
    free: int
    refuses: bool

    @property
    def used_fraction(self) -> float:
        """Of the whole disk, 0 to 1; a disk without a size is full."""
        return 1 - self.free / self.total if self.total else 1.0


class Watermark:
    """Decides whether the disk below a folder takes another object. Several threads may ask.

    The disk is looked at even where there is a quota.
    """

    def __init__(
        self, folder: Path, *, max_used_fraction: float = 0.75, min_free: int = 10_000_000_000, quota: int | None = None
    ) -> None:
        """Nothing is looked at yet.

        Args:
            folder: on the disk.
            max_used_fraction: of the disk.
            min_free: bytes. Nothing new is taken when fewer are free than that, or than the rest of the disk above
                `max_used_fraction`, whichever is smaller; 1 leaves only `min_free`.
            quota: bytes that the folder may hold, instead of the size of the disk.

        Raises:
            UsageError: for limits that would refuse everything.
        """
        if not 0 < max_used_fraction <= 1:
            raise UsageError(
                f"the disk may be used to {max_used_fraction:g}", expected="a fraction above 0, at most 1", hint="0.75"
            )
        if min_free < 0 or (quota is not None and quota <= min_free):
            raise UsageError(
                f"{min_free} bytes shall stay free of {'the disk' if quota is None else quota}",
                expected="fewer than the quota, not below 0",
                hint="set a smaller min_free or a larger quota",
            )
        self._folder, self._max_used_fraction, self._min_free, self._quota = (
            Path(folder),
            max_used_fraction,
            min_free,
            quota,
        )
        self._lock = threading.Lock()
        self._held, self._counted = 0, -float("inf")

    def look(self, coming: int = 0) -> Disk:
        """The state of the disk, and whether `coming` more bytes are refused."""
        usage = shutil.disk_usage(self._folder)
        # What only root may use is not free: free, not total - used.
        total, free = usage.total, usage.free
        if self._quota is not None:
            total, free = self._quota, min(free, max(0, self._quota - self._held_now()))
        left = free - coming
        # Of a large disk the share is far more than anybody needs, and of a small one the need is more than there is.
        share = total * (1 - self._max_used_fraction) if self._max_used_fraction < 1 else math.inf
        refuses = left < min(self._min_free, share)
        return Disk(total, free, refuses)

    def add(self, size: int) -> None:
        """Count bytes that were written below the folder, until it is counted again."""
        with self._lock:
            self._held += size

    def count_again(self) -> None:
        """Forget the count: files were deleted."""
        with self._lock:
            self._counted = -float("inf")

    def _held_now(self) -> int:
        with self._lock:
            if time.monotonic() - self._counted > _COUNT_AGAIN_S:
                self._held = folder_bytes(self._folder)
                self._counted = time.monotonic()
            return self._held


def folder_bytes(folder: Path) -> int:
    """The bytes of the files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue  # deleted or renamed while we looked
    return total
