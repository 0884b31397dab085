"""The files of a node: received objects, results, what is in quarantine. All is durable when a method returns."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from medattn_edge.errors import ScanError
from medattn_edge.scanner.store.disk import (
    as_output_error,
    hide_folder,
    make_folder,
    make_root,
    remove_folder,
    rename_durably,
    sync_folder,
    write_durably,
)
from medattn_edge.scanner.store.layout import Layout
from medattn_edge.scanner.store.records import Content, StagedObject

_LOCKS: Final = 64
_CHUNK: Final = 1 << 20


class Spool:
    """The folders of a `Layout`.

    The folder of a series is in `spool` or, while its latest version is in quarantine, in `quarantine`. Only its owner
    may read the root (0700). Names that start with a dot are unfinished; `recover` removes them.
    Whoever changes the files of a series together with its rows holds `lock(key)`.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.layout = Path(root), Layout(Path(root))
        make_root(self.root)
        self.incoming, self.quarantined = self.layout.spool, self.layout.quarantine
        self.results, self.objects = self.layout.results, self.layout.objects
        for folder in (self.incoming, self.quarantined, self.results, self.objects):
            make_folder(folder)
        self._locks = tuple(threading.RLock() for _ in range(_LOCKS))

    def lock(self, key: str) -> threading.RLock:
        """The lock of a series, shared with a few others."""
        return self._locks[int(key[:8], 16) % _LOCKS]

    # Received objects

    @contextmanager
    def stage(self, file: BinaryIO) -> Iterator[StagedObject]:
        """Copy a file into the spool piece by piece; the copy is durable, and is removed unless it was kept.

        Raises OutputError when the disk is full, OSError when the file cannot be read.
        """
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self.incoming)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as copy:
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    with as_output_error(path):
                        copy.write(chunk)
                    digest.update(chunk)
                with as_output_error(path):
                    copy.flush()
                    os.fsync(copy.fileno())
                size = copy.tell()
            yield StagedObject(path, size, digest.hexdigest())
        finally:
            path.unlink(missing_ok=True)

    def keep(self, key: str, name: str, content: Content) -> None:
        """Write an object of a series. Raises OutputError when the disk is full."""
        self.restore(key)
        make_folder(self.incoming / key)
        _write(self.incoming / key / name, content)

    def keep_object(self, name: str, content: Content) -> Path:
        """Write a single object that belongs to no series, or not into it, to quarantine. Raises OutputError."""
        _write(self.objects / name, content)
        return self.objects / name

    def set_object_aside(self, key: str, name: str, reason: str) -> None:
        """Put one object of a series into quarantine, if it is there, under a code of the reason."""
        path = self.folder(key) / name
        if path.is_file():
            os.utime(path)  # it stays there for as long as what comes in today
            rename_durably(path, self.objects / f"{reason}-{key}-{name}")

    def has(self, key: str, name: str) -> bool:
        """Whether an object is there."""
        return (self.folder(key) / name).is_file()

    def folder(self, key: str) -> Path:
        """Where the objects of a series are, or would be."""
        inside = self.incoming / key
        return self.quarantined / key if not inside.is_dir() and (self.quarantined / key).is_dir() else inside

    def files(self, key: str, names: Sequence[str]) -> tuple[Path, ...]:
        """The files of a series, taken out of quarantine. Raises ScanError when one is not there."""
        self.restore(key)
        paths = tuple(self.incoming / key / name for name in names)
        missing = sum(not path.is_file() for path in paths)
        if missing or not paths:
            raise ScanError(
                f"{missing} of {len(paths)} objects of the series {key} are not in {self.incoming}",
                expected="every object that was received",
                hint="have the series sent again",
            )
        return paths

    def restore(self, key: str) -> None:
        """Take the folder of a series out of quarantine, if it is there."""
        self._bring(self.quarantined / key, self.incoming / key)

    def quarantine(self, key: str) -> None:
        """Put the folder of a series into quarantine, if there is one."""
        self._bring(self.incoming / key, self.quarantined / key)

    def _bring(self, source: Path, target: Path) -> None:
        if not source.is_dir():
            return
        if not target.is_dir():
            rename_durably(source, target)
            return
        # Only somebody's copy makes two folders; what is there already stays, the rest joins it.
        for path in sorted(source.iterdir()):
            if (target / path.name).exists():
                path.replace(self.objects / f"{source.name}-{path.name}")
            else:
                path.replace(target / path.name)
        source.rmdir()
        for folder in (target, source.parent, self.objects):
            sync_folder(folder)

    # Results

    def result(self, key: str, version: int) -> Path:
        """The folder of a result."""
        return self.layout.result(key, version)

    def working_folder(self, key: str, version: int, attempt: int) -> Path:
        """A new empty folder to write a result into; `publish` makes it the result."""
        make_folder(self.results / key)
        folder = self.layout.working_folder(key, version, attempt)
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        return folder

    def publish(self, source: Path, key: str, version: int) -> Path:
        """Make a folder from `working_folder` the result, instead of an earlier one."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                path.chmod(0o600)  # libraries make their files by the umask
                with path.open("rb") as written:
                    os.fsync(written.fileno())
            elif path.is_dir():
                sync_folder(path)
        sync_folder(source)
        target = self.result(key, version)
        if target.exists():
            self.remove(target)
        rename_durably(source, target)
        return target

    def remove_result(self, key: str, version: int) -> None:
        """Remove the folder of a result, if there is one."""
        if self.result(key, version).exists():
            self.remove(self.result(key, version))

    def remove_results(self, key: str) -> None:
        """Remove every result of a series."""
        if (self.results / key).exists():
            self.remove(self.results / key)

    def set_aside(self, key: str) -> Path | None:
        """Take the folder of a series away in one step; the folder to remove, None if there is none."""
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        return hide_folder(folder)

    def remove(self, folder: Path) -> None:
        """Remove a folder: never half of one under its own name."""
        remove_folder(folder)


def measure(content: Content) -> tuple[int, str]:
    """The size of an object in bytes, and its sha256."""
    if isinstance(content, StagedObject):
        return content.bytes, content.sha256
    if isinstance(content, bytes):
        return len(content), hashlib.sha256(content).hexdigest()
    content.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _write(path: Path, content: Content) -> None:
    if isinstance(content, StagedObject):
        with as_output_error(path):
            rename_durably(content.path, path)
        return
    if not isinstance(content, bytes):
        content.seek(0)
    write_durably(path, content)
