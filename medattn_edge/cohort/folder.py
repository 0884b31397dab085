"""A cohort's folder: every case appears in it whole or not at all, whenever the program is ended.

A case is written into a folder of its own below `.medattn-edge-cohort`, which then gets the name `*.whole`: from that
moment on it is done, and its files are moved out, the record last. What a killed run left half-written is removed at
the next start, and what was whole is moved out then. The run that opens the folder owns it; its workers join it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from medattn_edge.atomic import check_folder, locked, replacing, sync
from medattn_edge.cohort.locks import OWNER, join, own, wait_for_workers
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.records import is_ours, read_record
from medattn_edge.errors import OutputError, UsageError, quoted

_WORK: Final = ".medattn-edge-cohort"
_DRAFT, _WHOLE, _RETRIEVED = ".draft", ".whole", ".retrieved"


class CohortFolder:
    """The folder of results; `opened` makes it and holds it, a worker's process joins it.

    Args:
        path: of the folder.

    Attributes:
        token: of the run that owns it, for workers to join; "" before it is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.token = path, ""
        self._work = path / _WORK

    @contextmanager
    def opened(self) -> Iterator[CohortFolder]:
        """Make it, keep every other run out of it, and put in order what a killed one left.

        Raises:
            UsageError: another run works in it, or a file has its name.
            HostError: a worker of another run is still there.
            OutputError: it cannot be written.
        """
        made = not self.path.is_dir()
        try:
            if made:
                if os.path.lexists(self.path):
                    raise UsageError(f"{self.path} is a file", expected="a folder", hint="-o ANOTHER_FOLDER/")
                check_folder(self.path)
                self.path.mkdir()
                sync(self.path.parent)
        except OSError as error:
            raise _not_written(self.path, error) from error
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path))
            except BlockingIOError as error:
                raise UsageError(
                    f"another run writes into {self.path}",
                    expected="one at a time for one folder",
                    hint="wait for it, or -o ANOTHER_FOLDER/",
                ) from error
            except OSError as error:
                raise _not_written(self.path, error) from error
            with self.named_errors():
                if not self._work.is_dir():
                    self._work.mkdir()
                self.token = own(self._work)
                self._put_in_order()
            try:
                yield self
            finally:
                with self.named_errors():
                    wait_for_workers(self._work)
                    self._put_in_order()
                    shutil.rmtree(self._work)
                    if made and not any(self.path.iterdir()):
                        self.path.rmdir()

    def join(self, token: str, worker: str) -> None:
        """In a worker's process: write into it from now on until the process ends.

        Raises:
            HostError: as `locks.join` does.
        """
        join(self._work, token, worker)
        self.token = token

    def passing(self, job: Job) -> Path:
        """Where what is retrieved for a case lies until it is done; what a killed run left the next one removes."""
        return self._work / (job.name + _RETRIEVED)

    def settle(self, job: Job, worker: str) -> None:
        """Put in order what a worker left of a case, once the worker is gone; raises HostError, OutputError."""
        wait_for_workers(self._work, worker)
        draft, whole = self._work / (job.name + _DRAFT), self._work / (job.name + _WHOLE)
        with self.named_errors():
            if whole.is_dir():
                self._move_out(whole)
            for left in (draft, self.passing(job)):
                if left.is_dir():
                    shutil.rmtree(left)

    def written(self, job: Job) -> tuple[int, int] | None:
        """What changes whenever the case's record is written; None without one."""
        try:
            status = (self.path / job.record).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    @contextmanager
    def draft(self, job: Job) -> Iterator[Path]:
        """A folder to write a case's files into, which all appear when the block ends well, the record last.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        draft, whole = self._work / (job.name + _DRAFT), self._work / (job.name + _WHOLE)
        with self.named_errors():
            draft.mkdir()
        try:
            yield draft
            with self.named_errors():
                for file in sorted(draft.iterdir()):
                    sync(file)
                    if file.name != job.final_name(file.name):
                        file.rename(draft / job.final_name(file.name))
                sync(draft)
                draft.rename(whole)
                sync(self._work)
                self._move_out(whole)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def publish(self, name: str, text: str) -> None:
        """A table in the folder, whole or not at all; raises OutputError."""
        draft = self._work / name
        with replacing(draft) as file:
            # Names of files that are no text in UTF-8 stay what they are.
            file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        with self.named_errors():
            os.replace(draft, self.path / name)  # noqa: PTH105 - the test of durable writes tells it from str.replace
            sync(self.path)

    def _put_in_order(self) -> None:
        """Remove what is half-written, and move out what is whole."""
        if not self._work.is_dir():
            return
        for path in sorted(self._work.iterdir()):
            if path.name.endswith(_WHOLE) and path.is_dir():
                self._move_out(path)
            elif path.is_dir():
                shutil.rmtree(path)
            elif path.name != OWNER:
                path.unlink()

    def _move_out(self, whole: Path) -> None:
        """Every file of a case that is whole to its place; it may have been begun before."""
        record = whole.name.removesuffix(_WHOLE) + ".json"
        names = sorted(path.name for path in whole.iterdir())
        if record in names:  # else everything was moved, and only the empty folder stayed
            old, new = read_record(self.path / record), read_record(whole / record)
            known = set(new["files"]) if new is not None else set()
            for name in sorted(set(old["files"]) - known) if old is not None else ():
                if is_ours(self.path / name, old):  # of an earlier artifact or setting: it is no result of this one
                    (self.path / name).unlink()
            for name in [*(name for name in names if name != record), record]:
                if name == record:
                    sync(self.path)
                os.replace(whole / name, self.path / name)  # noqa: PTH105 - as above
            sync(self.path)
        whole.rmdir()
        sync(self._work)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """An OSError of the block is one of the folder, as OutputError; there is nothing else that it touches."""
        try:
            yield
        except OSError as error:
            raise _not_written(self.path, error) from error


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}",
        expected="free space and permission to write; the cases that are done stay there",
        hint=f"df -h {quoted(path.parent)}, then the same command with --resume",
    )
