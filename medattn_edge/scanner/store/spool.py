"""The files of a node: received objects, results, what is in quarantine. All is durable when a method returns."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.scanner.store.disk import make_folder, rename_durably, sync_folder, write_durably

_LOCKS: Final = 64
OBJECTS: Final = "objects"  # no series key: those have 32 digits


class Spool:
    """`spool/KEY/NAME.dcm`, `quarantine/KEY/`, `quarantine/objects/` (single ones), `results/KEY/vN/` below a root.

    The folder of a series is in `spool` or, while its latest version is in quarantine, in `quarantine`. Only its owner
    may read the root (0700). Names that start with a dot are unfinished; `recover` removes them.
    Whoever changes the files of a series together with its rows holds `lock(key)`.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make {self.root}: {error.strerror}",
                expected="permission to write",
                hint=f"ls -ld '{self.root.parent}'",
            ) from error
        self.incoming, self.quarantined = self.root / "spool", self.root / "quarantine"
        self.results, self.objects = self.root / "results", self.root / "quarantine" / OBJECTS
        for folder in (self.incoming, self.quarantined, self.results, self.objects):
            make_folder(folder)
        self._locks = tuple(threading.RLock() for _ in range(_LOCKS))

    def lock(self, key: str) -> threading.RLock:
        """The lock of a series, shared with a few others."""
        return self._locks[int(key[:8], 16) % _LOCKS]

    # Received objects

    def keep(self, key: str, name: str, data: bytes | BinaryIO) -> int:
        """Write an object of a series; the number of bytes. Raises OutputError when the disk is full."""
        self.restore(key)
        make_folder(self.incoming / key)
        return write_durably(self.incoming / key / name, data)

    def keep_object(self, name: str, data: bytes | BinaryIO) -> Path:
        """Write a single object that belongs to no series, or not into it, to quarantine. Raises OutputError."""
        write_durably(self.objects / name, data)
        return self.objects / name

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
        return self.results / key / f"v{version}"

    def workplace(self, key: str, version: int, attempt: int) -> Path:
        """A new empty folder to write a result into; `publish` makes it the result."""
        make_folder(self.results / key)
        folder = self.results / key / f".v{version}-{attempt}"
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        return folder

    def publish(self, workplace: Path, key: str, version: int) -> Path:
        """Make a folder from `workplace` the result, instead of an earlier one."""
        for path in sorted(workplace.rglob("*")):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
            elif path.is_dir():
                sync_folder(path)
        sync_folder(workplace)
        target = self.result(key, version)
        if target.exists():
            self.remove(target)
        rename_durably(workplace, target)
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
        return self._hide(folder)

    def _hide(self, folder: Path) -> Path:
        hidden = folder.parent / f".removed-{folder.name}"
        if hidden.exists():
            shutil.rmtree(hidden)
        rename_durably(folder, hidden)
        return hidden

    def remove(self, folder: Path) -> None:
        """Remove a folder: never half of one under its own name."""
        shutil.rmtree(self._hide(folder))
