"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medattn_edge.errors import OutputError, quoted
from medattn_edge.host.system import OPENS_FOLDERS, flush, lock

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_LOCK = ".medattn-edge.lock"
_ROOM = 1 << 20  # bytes that a disk with room takes


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk; Windows has no such thing for a folder."""
    flush(path)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder that is there, or a file (0600, made where there is none), as long as the block or this process.

    Args:
        path: of the folder or the file. Where the system locks no folders, a hidden file in it is held, which goes.
        wait: for whoever holds it.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
        OSError: it cannot be opened, or its file system has no locks.
    """
    folder = path.is_dir()
    own = path / _LOCK if folder and not OPENS_FOLDERS else path
    # Python hands no descriptor down to children, which would hold the lock for as long as they live.
    handle = os.open(own, os.O_RDONLY if folder and own is path else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(handle, wait=wait)
        yield
    finally:
        os.close(handle)
        if own is not path:
            with suppress(OSError):  # of another process that has opened it by now
                own.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` (same suffixes) that takes its place when the block ends well.

    A symbolic link stays one: the file that it leads to is written, in that file's folder.

    When the block raises, or the disk is full, the temporary file goes and whatever stood at `path` stays.

    Raises:
        OutputError: when the folder cannot be written or the write fails.
    """
    name, path = Path(path).name, _target(Path(path))
    check_folder(path)
    temporary: Path | None = None
    try:
        # The name ends in the target's own name, so that writers which look at the suffix still work. Made with the
        # mode that any new file gets: to ask for the umask is to change it, for every thread of the process.
        free = path.parent / f".{secrets.token_hex(8)}.tmp.{name}"
        os.close(os.open(free, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        temporary = free
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        about = None if error.filename is None else Path(os.fsdecode(error.filename))
        if temporary is not None and about not in {None, temporary, path, path.parent}:
            raise  # not about our file: the caller's own reading failed
        raise _unwritable(path, error) from error
    except Exception as error:
        if temporary is not None and not isinstance(error, OutputError):
            check_room(temporary, path, error)
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(temporary: Path, path: Path) -> Iterator[None]:
    """An error of the block is one of a full disk, if the disk is full: what libraries in C raise then says so seldom.

    Args:
        temporary: a file in the folder that the block writes to; it need not be there, and may grow.
        path: what will be made of it, for the error.

    Raises:
        OutputError: instead of any other error, when nothing more can be written.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OutputError):
            check_room(temporary, path, error)
        raise


def check_room(temporary: Path, path: Path, error: Exception) -> None:
    """Raise OutputError from an error when a file takes no more; the file grows, or is made."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as full:
        if full.errno in FULL:
            raise _unwritable(path, full) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}",
        expected="free space and permission to write; the previous file, if any, is untouched",
        hint=f"df -h {quoted(path.parent)}",
    )


def _target(path: Path) -> Path:
    """Where a symbolic link leads, whether or not that is there; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_folder(path: Path) -> None:
    """Check that the folder to write to exists; worth saying before the work.

    Args:
        path: of the file that will be written.

    Raises:
        OutputError: when it does not.
    """
    folder = _target(Path(path)).parent
    if not folder.is_dir():
        raise OutputError(
            f"the folder {folder} does not exist",
            expected="an existing folder to write to",
            hint=f"mkdir -p {quoted(folder)}",
        )
