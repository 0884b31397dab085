"""Every fsync, rename, link and new folder of a block, in their order, and what a power cut could take away.

The calls really happen: they are only written down on their way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RENAMES = ("rename", "replace", "link", "mkdir")


def content_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Trace:
    """The calls in their order.

    Attributes:
        synced: (device, inode) of a file -> the content that it had when it was synced last.
        folders: (device, inode) of a folder that was synced -> when, counted in calls.
        named: path that got a name -> when.
        left: folder that lost a name -> when.
    """

    synced: dict[tuple[int, int], str] = field(default_factory=dict)
    folders: dict[tuple[int, int], int] = field(default_factory=dict)
    named: dict[Path, int] = field(default_factory=dict)
    left: dict[Path, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    now: int = 0

    def sync(self, handle: int) -> None:
        status = os.fstat(handle)
        identity = status.st_dev, status.st_ino
        self.now += 1
        if os.path.isdir(f"/dev/fd/{handle}"):  # noqa: PTH112 - a descriptor, not a path of ours
            self.folders[identity] = self.now
        else:
            self.synced[identity] = content_of(Path(f"/dev/fd/{handle}"))

    def name(self, source: Path | None, target: Path, call: Callable[[], None]) -> None:
        """A file or folder gets its name by the call: what is in it has to be on the disk by then."""
        if source is not None and not target.name.startswith("."):  # those are unfinished, and removed at a start
            self.lost += [f"{target} gets its name before {one.name} is synced" for one in self.unsynced(source)]
        call()
        self.now += 1
        self.named[target] = self.now
        if source is not None and source.parent != target.parent:
            self.left[source.parent] = self.now

    def unsynced(self, path: Path) -> list[Path]:
        """Files at or below the path whose bytes are not synced, and folders below it whose names are not."""
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        wrong = [one for one in (path, *inside) if one.is_file() and self.synced.get(identity(one)) != content_of(one)]
        folders = [one for one in (path, *inside) if one.is_dir()]
        named = {one: max((when for at, when in self.named.items() if at.parent == one), default=0) for one in folders}
        return wrong + [
            one for one in folders if self.folders.get(identity(one), 0) <= named[one] and any(one.iterdir())
        ]

    def problems(self) -> list[str]:
        """What a power cut now could take away."""
        changed = [(path.parent, path, when) for path, when in self.named.items()]
        changed += [(folder, folder, when) for folder, when in self.left.items()]
        names = [
            f"the name {path} is not synced in {folder}"
            for folder, path, when in changed
            if folder.is_dir() and path.exists() and self.folders.get(identity(folder), 0) < when
        ]
        return self.lost + names


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def traced() -> Iterator[Trace]:
    """Write down every fsync, rename, link and new folder of the block."""
    trace = Trace()
    with pytest.MonkeyPatch.context() as patch:
        fsync = os.fsync

        def synced(handle: int) -> None:
            fsync(handle)
            trace.sync(handle)

        patch.setattr(os, "fsync", synced)
        for name, real in {name: getattr(os, name) for name in RENAMES}.items():

            def renamed(*paths: Any, real: Any = real, makes: bool = name == "mkdir", **more: Any) -> None:
                source, target = (None, paths[0]) if makes else paths[:2]
                before = None if source is None else Path(os.fsdecode(source))
                trace.name(before, Path(os.fsdecode(target)), lambda: real(*paths, **more))

            patch.setattr(os, name, renamed)
        yield trace
