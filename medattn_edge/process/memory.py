"""The memory that processes hold, as /proc tells it."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

from medattn_edge.host.system import peak_memory

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_KIB = 1024


def peak_rss_mb() -> float:
    """The most memory that this process has held, in 1e6 bytes.

    Linux counts what the parent held before exec in ru_maxrss; VmHWM is that of this program alone. 0 on Windows.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _KIB / 1e6
    return peak_memory() / 1e6


def available_mb() -> float:
    """The memory that a program may still take without swapping, in 1e6 bytes; infinite where there is no /proc."""
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * _KIB / 1e6
    return math.inf


def resident_mb(pid: int) -> float:
    """The resident memory of a process in 1e6 bytes; 0 when it is gone, or where there is no /proc."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0.0
    return int(pages) * mmap.PAGESIZE / 1e6
