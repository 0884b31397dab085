"""An interpreter without what Windows lacks, for its child processes as well: found by PYTHONPATH, when Python starts.

What is taken away: modules, functions and constants of POSIX, /proc, and folders that can be opened. What stands in:
`msvcrt.locking`, by locks of an open file, which other processes and other descriptors of this one respect.
`sys.platform` stays, because the libraries installed are those of this system; mypy looks at the branches by platform
(test_other_systems.py).
"""

import builtins
import fcntl
import io
import os
import select
import signal
import subprocess  # noqa: F401 - looks for msvcrt to know its system, and must not find ours
import sys
import types
from collections.abc import Callable
from typing import Any

_MODULES = ("resource", "fcntl", "pwd", "grp", "termios")
_OF_OS = (
    *("fork", "posix_fallocate", "register_at_fork", "sched_getaffinity", "fchmod", "pread", "sysconf", "getloadavg"),
    *("getuid", "geteuid", "getgid", "getegid", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"),
)


def _locking(descriptor: int, mode: int, count: int) -> None:
    try:
        _flock(descriptor, mode)
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error


def _hidden(original: Callable[..., Any]) -> Callable[..., Any]:
    def without_proc(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return original(path, *arguments, **options)

    return without_proc


def _only_files(path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
    if isinstance(path, str | os.PathLike) and os.path.isdir(path):  # noqa: PTH112 - pathlib is not imported yet
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return _open(path, flags, *arguments, **options)


_flock, _open = fcntl.flock, _hidden(os.open)
_msvcrt: Any = types.ModuleType("msvcrt")
_msvcrt.locking, _msvcrt.LK_NBLCK = _locking, fcntl.LOCK_EX | fcntl.LOCK_NB
_loaded: dict[str, Any] = sys.modules
_loaded |= {"msvcrt": _msvcrt, **dict.fromkeys(_MODULES)}
for _name in _OF_OS:
    delattr(os, _name)
for _name in ("poll", "epoll"):
    delattr(select, _name)
del signal.SIGHUP
os.open, os.stat = _only_files, _hidden(os.stat)
builtins.open = io.open = _hidden(io.open)
