"""CPU use: how busy others kept the CPUs that this process may use, while it was measuring something."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medattn_edge.host.system import allowed_cpus

MIN_S: Final = 0.2  # below it a tick of the kernel, 10 ms a CPU, is too large a part
_BUSY: Final = (0, 1, 2, 5, 6, 7)  # of a line of /proc/stat: user, nice, system, irq, softirq, steal


@dataclass(frozen=True)
class CpuUse:
    """What computed during a time, in CPUs: 1.5 is one and a half, all the time.

    Attributes:
        cpus: logical CPUs that this process may use.
        own: by this process and those that it started.
        others: by everybody else on these CPUs, the hypervisor among them.
    """

    cpus: int
    own: float
    others: float

    @property
    def others_share(self) -> float:
        """Of the CPUs, from 0 to 1."""
        return self.others / self.cpus

    @property
    def idle_share(self) -> float:
        """Of the CPUs, from 0 to 1: what nobody used."""
        return max(0.0, 1.0 - (self.own + self.others) / self.cpus)


@dataclass(frozen=True)
class CpuTimes:
    """The counters at one time.

    Attributes:
        at_s: of a clock that never goes back.
        busy_s: CPU -> seconds that it computed for anybody since the start of the host.
        own_s: CPU seconds of this process and of all that it started.
    """

    at_s: float
    busy_s: Mapping[int, float]
    own_s: float

    @classmethod
    def now(cls, root: Path = Path("/")) -> CpuTimes | None:
        """The counters now, or None where the system has none, as on macOS and Windows; root: where `proc` is."""
        allowed = allowed_cpus()
        if allowed is None or not hasattr(os, "sysconf"):
            return None
        try:
            text = (root / "proc/stat").read_text(encoding="utf-8")
        except OSError:
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        lines = re.findall(r"^cpu(\d+) ([\d ]+)$", text, re.MULTILINE)
        fields = {int(number): [int(one) for one in counts.split()] for number, counts in lines}
        busy = {cpu: sum(counts[one] for one in _BUSY if one < len(counts)) / ticks for cpu, counts in fields.items()}
        own = _own_ticks(root / "proc", os.getpid()) / ticks
        return cls(time.monotonic(), {cpu: value for cpu, value in busy.items() if cpu in allowed}, own)

    def until(self, later: CpuTimes | None) -> CpuUse | None:
        """What computed from here to later counters; None where they cannot tell, or the time was too short."""
        if later is None or later.at_s - self.at_s < MIN_S:
            return None
        cpus = self.busy_s.keys() & later.busy_s.keys()
        if not cpus:
            return None
        passed = later.at_s - self.at_s
        own = max(0.0, later.own_s - self.own_s) / passed
        busy = sum(later.busy_s[cpu] - self.busy_s[cpu] for cpu in cpus) / passed
        return CpuUse(len(cpus), own, max(0.0, busy - own))


def cpu_use_since(start: CpuTimes | None) -> CpuUse | None:
    """What computed since some counters, as far as the system tells."""
    return None if start is None else start.until(CpuTimes.now())


def _own_ticks(proc: Path, pid: int) -> int:
    """Of a process, of those that it started, and of those among them that have ended."""
    ticks, children = dict[int, int](), dict[int, list[int]]()
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; from the state on the fields are numbers.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        number = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        ticks[number] = sum(
            int(one) for one in fields[11:15]
        )  # utime, stime, and both of children that were waited for
    total, left = 0, [pid]
    while left:
        one = left.pop()
        total += ticks.get(one, 0)
        left += children.get(one, ())
    return total
