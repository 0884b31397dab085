"""The workers of a cohort, seen from outside by the locks that they hold."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def worker_pids(out: Path) -> list[int]:
    """Of the workers that have joined the run in a folder, those that were lost included until they are settled."""
    pids = []
    for lock in sorted(out.glob(".medattn-edge-cohort/*.lock")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pids.append(int(lock.read_text().split()[0]))
    return pids


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> bool:
    """SIGKILL; whether there was something to be killed."""
    if not alive(pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
