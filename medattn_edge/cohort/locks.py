"""Who writes into a cohort's folder: each worker holds a lock of its own, and none of an earlier run outlives its end.

A driver that is killed cannot end its workers. They end by themselves, but not before they notice; the next run has a
token of its own and waits until every lock is free. A worker takes its lock first and looks at the token then, the
driver writes the token first and looks at the locks then: no worker of the one can be at work under the other.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from pathlib import Path
from typing import Final

from medattn_edge.errors import HostError
from medattn_edge.host import system

OWNER: Final = "run"
_LOCK: Final = ".lock"
_WAIT_S: Final = 60.0  # for a process that was killed or has lost its driver
_LOOK_S: Final = 0.02


def own(work: Path) -> str:
    """Make this run the only one whose workers may write, once those of others are gone; its token.

    Args:
        work: the folder of drafts, which this run has locked.

    Raises:
        HostError: a worker of an earlier run does not end.
    """
    token = uuid.uuid4().hex
    (work / OWNER).write_text(token, encoding="ascii")
    wait_for_workers(work)
    return token


def join(work: Path, token: str, worker: str) -> int:
    """Hold the lock of a worker until this process ends; its file descriptor.

    Args:
        work: the folder of drafts.
        token: of the run.
        worker: a name that no other process of the run has or had.

    Raises:
        HostError: the folder is not here, or belongs to another run by now.
    """
    try:
        lock = os.open(work / (worker + _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        system.lock(lock, wait=True)
        os.write(lock, f"{os.getpid()} on {platform.node()}".encode())
        current = (work / OWNER).read_text(encoding="ascii")
    except OSError as error:
        raise HostError(
            f"a worker finds no {work}: {error.strerror or error}",
            expected="the folder of results under the same path on the host of every worker",
            hint="a folder on a shared disk, by its full path",
        ) from error
    if current != token:
        os.close(lock)
        raise HostError(f"{work.parent} belongs to another run by now", expected="the run that started this worker")
    return lock


def wait_for_workers(work: Path, worker: str = "") -> None:
    """Wait until one worker, or every one, is gone; its lock goes with it.

    Raises:
        HostError: one is still there after a minute.
    """
    locks = [work / (worker + _LOCK)] if worker else sorted(work.glob(f"*{_LOCK}"))
    deadline = time.monotonic() + _WAIT_S
    for path in locks:
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            while not _free(lock):
                if time.monotonic() > deadline:
                    raise HostError(
                        f"a worker of a run that was ended still writes into {work.parent}",
                        expected="its end within a minute",
                        hint=f"kill -9 {os.read(lock, 200).decode(errors='replace') or 'it'}",
                    )
                time.sleep(_LOOK_S)
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def _free(lock: int) -> bool:
    try:
        system.lock(lock, wait=False)
    except BlockingIOError:
        return False
    return True
