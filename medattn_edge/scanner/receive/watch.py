"""A watched folder: its DICOM files are taken like received ones, each once, when nobody writes to them any more."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.io.dicom.files import SUFFIXES
from medattn_edge.reasons import REPLACED, TOO_LARGE
from medattn_edge.scanner.config.sections import Watch
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.receive.objects import TruncatedObject, header_of, reason_of
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.disk import write_durably
from medattn_edge.scanner.store.records import ConflictRefused, Fate, StagedObject

_SENDER: Final = ""  # no AE title: a route may ask for one, and a folder has none
_DIRECTORY: Final = "DICOMDIR"  # a list of the files beside it, no object
_Facts = tuple[int, int]  # size, and time of change in ns


class Watcher:
    """`run` is for a thread of its own. What was taken is remembered in the root, without names of files."""

    def __init__(self, watch: Watch, custody: Custody, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is looked at yet. clock: seconds that only grow, by which a file has settled."""
        self._watch, self._custody, self._log, self._clock = watch, custody, log, clock
        self._memory = custody.layout.watched
        self._taken = _names_taken(self._memory)
        self._seen: dict[Path, tuple[_Facts, float]] = {}  # and since when it is like that
        self._unreadable: set[str] = set()
        self._missing = False

    def run(self, stopping: threading.Event) -> None:
        """Look, again and again, until told to stop."""
        while not stopping.is_set():
            try:
                self.look(stopping)
            except OutputError as error:
                # The disk takes nothing now; the files stay where they are.
                self._log.failure("watch_waits", error, level=Level.WARNING)
            stopping.wait(self._watch.poll_s)

    def look(self, stopping: threading.Event | None = None) -> int:
        """Take what is whole; how many files were taken. Raises OutputError when the disk takes nothing."""
        if not self._watch.folder.is_dir():
            if not self._missing:
                self._log.event("watch_missing", level=Level.WARNING)
            self._missing = True
            return 0
        self._missing = False
        found, taken = dict(_files(self._watch.folder)), 0
        now, before = self._clock(), self._seen
        self._seen = {
            path: before[path] if path in before and before[path][0] == facts else (facts, now)
            for path, facts in found.items()
        }
        marks = {path: self._mark(path, facts) for path, facts in found.items()}
        known = self._taken & set(marks.values())  # files that are gone are forgotten
        changed, self._taken = self._taken != known, known
        try:
            for path, mark in marks.items():
                if stopping is not None and stopping.is_set():
                    break
                # By our own watch: a copy that keeps its times looks old, and other machines' clocks are wrong.
                seen, since = self._seen[path]
                if mark in self._taken or path not in before or now - since < self._watch.settle_s:
                    continue
                done = self._take(path, seen, mark)
                if done is not None:
                    taken, changed = taken + done, True
                    self._taken.add(mark)
        finally:
            if changed:
                self._remember()
        return taken

    def _take(self, path: Path, facts: _Facts, mark: str) -> int | None:
        """1 when the file became an object of the node, 0 when it never will, None when it has to be tried again."""
        if path.name == _DIRECTORY:
            return 0
        if facts[0] > self._custody.policy.max_bytes:
            self._log.event("refused", level=Level.WARNING, listener="watch", reason=TOO_LARGE)
            return 0
        staged = None
        try:
            with path.open("rb") as file:
                if file.read(132)[128:] != b"DICM" and path.suffix.lower() not in SUFFIXES:
                    return 0
                file.seek(0)
                # What is looked at is our own copy: nobody changes that one meanwhile, and it is never all in memory.
                with self._custody.stage(file, facts[0]) as staged:
                    if _facts(path.stat()) != facts:
                        return None  # somebody writes again
                    return self._keep(path, staged)
        except OutputError:
            if staged is None:
                self._record_no_room(path)
            raise
        except OSError as error:
            if mark not in self._unreadable:
                self._unreadable.add(mark)
                self._log.failure("watch_unreadable", error, level=Level.WARNING)
            return None

    def _keep(self, path: Path, staged: StagedObject) -> int:
        try:
            header = header_of(staged.path)
            if not header.series_uid or not header.sop_uid:
                return self._put_aside(path, staged, "blank_uid")
            received = self._custody.keep(staged, header, _SENDER, self._watch.conflict)
        except ConflictRefused as refusal:
            # The file stays where it is, whatever `after` says: it is nowhere else.
            self._log.event("conflict", refusal.key, Level.WARNING, listener="watch", reason=refusal.reason)
            return 0
        except ScanError as error:
            if isinstance(error, TruncatedObject) and error.header.series_uid and error.header.sop_uid:
                self._custody.record_refusal(error.header, reason_of(error), _SENDER)
            return self._put_aside(path, staged, reason_of(error))
        if received.fate is Fate.REPLACED:
            about = {"listener": "watch", "reason": REPLACED}
            self._log.event("conflict", received.key, Level.WARNING, version=received.version, **about)
        self._leave(path)
        return 1

    def _record_no_room(self, path: Path) -> None:
        """A series of which this file does not fit on the disk must not be segmented without it."""
        with suppress(OSError, ScanError):
            header = header_of(path)
            if header.series_uid and header.sop_uid:
                self._custody.record_no_room(header, _SENDER)

    def _put_aside(self, path: Path, staged: StagedObject, reason: str) -> int:
        self._custody.keep_unreadable(staged, reason)
        self._log.event("refused", level=Level.WARNING, listener="watch", reason=reason)
        self._leave(path)
        return 0

    def _leave(self, path: Path) -> None:
        """What was taken is durable; remove the original when that is wanted."""
        if self._watch.after == "remove":
            try:
                path.unlink()
            except OSError as error:
                self._log.failure("watch_not_removed", error, level=Level.WARNING)

    def _mark(self, path: Path, facts: _Facts) -> str:
        """What stands for a file as it is now."""
        return self._custody.opaque_name(f"{path}\0{facts[0]}\0{facts[1]}")

    def _remember(self) -> None:
        write_durably(self._memory, json.dumps(sorted(self._taken)).encode())


def _names_taken(path: Path) -> set[str]:
    """What was taken before; nothing when the memory is lost: what is taken again is a duplicate."""
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        return set()
    return {one for one in names if isinstance(one, str)} if isinstance(names, list) else set()


def _files(folder: Path) -> Iterator[tuple[Path, _Facts]]:
    """Every regular file, with its size and its time of change; hidden ones are somebody's half-written ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            try:
                status = path.stat()
            except OSError:
                continue  # removed while we looked
            if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                yield path, _facts(status)


def _facts(status: os.stat_result) -> _Facts:
    return status.st_size, status.st_mtime_ns
