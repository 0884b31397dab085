"""What only some operating systems have, and what stands in for it: the one place that asks.

The network, its readers and its writers run on Linux, macOS and Windows; the node wants Linux. Modules and functions
that a system lacks are looked for one by one, so that a test can take them away.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Final

from medattn_edge.errors import HostError

_fcntl: Any
_msvcrt: Any
_resource: Any
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None
try:
    import msvcrt as _msvcrt
except ImportError:  # everything else
    _msvcrt = None
try:
    import resource as _resource
except ImportError:  # Windows
    _resource = None

# Windows has no handle of a folder to lock or to flush; NTFS keeps a journal of the names in it.
OPENS_FOLDERS: Final = hasattr(os, "O_DIRECTORY")
# A child gets open files of its parent by their numbers.
HANDS_DOWN: Final = _fcntl is not None
WINDOWS: Final = os.name == "nt"
SIGKILL: Final = 9  # Windows knows no signal of that name, and no child there ends by one
_KIB: Final = 1024
_PIECE: Final = bytes(1 << 20)
_RETRY_S: Final = 0.1
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_NOT_IN_NAMES: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def lock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file, or a folder where the system opens folders, until it is closed or this process ends.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
        OSError: its file system has no locks.
    """
    if _fcntl is not None:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
        return
    while True:
        os.lseek(descriptor, 0, os.SEEK_SET)  # a place in the file is locked, and every process must mean the same one
        try:
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
            return
        except PermissionError as error:
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
        time.sleep(_RETRY_S)


def flush(descriptor_of: str | os.PathLike[str]) -> None:
    """Have a file, or the names in a folder, on the disk: where the system can, it is when this returns."""
    if not OPENS_FOLDERS and os.path.isdir(descriptor_of):  # noqa: PTH112 - any path
        return
    # Windows flushes only what may be written to.
    descriptor = os.open(descriptor_of, os.O_RDONLY if OPENS_FOLDERS else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, size: int) -> None:
    """Give a new, empty file its size in bytes, and have room for all of them: a full disk is an OSError now."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    rest = size
    while rest:
        rest -= os.write(descriptor, _PIECE[:rest])


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes of an open file from an offset on, without moving in it."""
    if hasattr(os, "pread"):
        data: bytes = os.pread(descriptor, size, offset)
        return data
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def set_mode(descriptor: int, mode: int) -> None:
    """The mode of an open file, whatever the umask says; Windows has none, and gives a file that of its folder."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)


def others_may_write(status: os.stat_result) -> bool:
    """Whether anybody but this user and root may change a file or folder; True where the system does not tell."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid not in (os.geteuid(), 0) or bool(status.st_mode & 0o022)


def without_core_files() -> None:
    """Have no file written of this process's memory when it crashes: it would hold a patient's scan."""
    if _resource is not None:
        _resource.setrlimit(_resource.RLIMIT_CORE, (0, 0))


def peak_memory() -> float:
    """The most memory that this process has held, in bytes; 0 where the system does not tell."""
    if _resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else _KIB
    return float(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss * unit)


def physical_memory() -> float:
    """Of this host, in bytes; 0 where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return 0.0
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def allowed_cpus() -> set[int] | None:
    """The logical CPUs that this process may run on; None where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def unfit_for_windows(name: str) -> bool:
    """Whether Windows takes a text for no name of a file: `a:b`, `what?`, `NUL.txt`, one that ends in a dot."""
    return bool(_NOT_IN_NAMES.search(name) or _DEVICES.fullmatch(name)) or name.endswith((".", " "))


def check_node_host() -> None:
    """Raise HostError where a node cannot keep what it promises: locks, fsync of folders, workers that end with it."""
    lacking = [] if sys.platform == "linux" else [f"this is {sys.platform}"]
    lacking += ["no flock"] if _fcntl is None else []
    lacking += [] if OPENS_FOLDERS else ["no fsync of folders"]
    lacking += [] if hasattr(signal, "SIGHUP") else ["no SIGHUP"]
    if lacking:
        raise HostError(
            f"a node does not run here: {', '.join(lacking)}",
            expected="Linux, whose file locks, durable folders and process control the node's promises rest on",
            hint="run the node on a Linux host, a virtual machine or a container; `medattn-edge infer` runs here",
        )


def load_average() -> tuple[float, float, float]:
    """Of the last 1, 5 and 15 minutes; raises HostError on a system that has none."""
    if hasattr(os, "getloadavg"):
        with suppress(OSError):
            one, five, fifteen = os.getloadavg()
            return one, five, fifteen
    raise HostError(
        "this system does not tell its load, without which no speed can be believed",
        expected="Linux or macOS",
        hint="medattn-edge infer --json tells the seconds of each stage",
    )
