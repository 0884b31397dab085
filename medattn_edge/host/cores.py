"""How many cores this process may use: what the CPU has, what its affinity allows, and what its cgroups pay for."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medattn_edge.host.hardware import parse_cpuinfo
from medattn_edge.host.system import allowed_cpus

_V1, _V2 = "cgroup", "cgroup2"  # the types of their file systems


@dataclass(frozen=True)
class CoreLimits:
    """What bounds the threads of this process.

    Attributes:
        physical_cores: of the host, without hyper-threads.
        affinity: the logical CPUs that this process may run on; None where the system does not tell.
        allowed_cores: the physical cores that those are on.
        cpu_quota: how many CPUs' time the tightest of its cgroups gives it; None without a limit.
    """

    physical_cores: int
    affinity: tuple[int, ...] | None
    allowed_cores: int
    cpu_quota: float | None

    @property
    def usable(self) -> int:
        """The threads that can compute at once, at least 1.

        A quota is rounded down. The threads of a runtime meet after every operator: of two threads on 1.5 CPUs one is
        stopped for the rest of each period (100 ms by default), and the other waits for it. One thread is never
        stopped.
        """
        quota = self.allowed_cores if self.cpu_quota is None else math.floor(self.cpu_quota)
        return max(1, min(self.allowed_cores, quota))


def usable_cores() -> int:
    """The threads to compute with: a runtime that is left to itself counts the host's cores, whatever it may use."""
    return core_limits().usable


def core_limits(root: Path = Path("/"), affinity: Iterable[int] | None = None) -> CoreLimits:
    """What bounds the threads of this process now.

    Args:
        root: where `proc` and the mounted cgroups are.
        affinity: the logical CPUs that it may run on, by default as the system says.
    """
    if affinity is None:
        affinity = allowed_cpus()
    allowed = None if affinity is None else tuple(sorted(affinity))
    text = _read(root / "proc/cpuinfo")
    cpu = parse_cpuinfo(text, platform.machine(), os.cpu_count() or 1)
    cores = cpu.physical_cores if allowed is None else min(cpu.physical_cores, _cores_of(text, allowed))
    return CoreLimits(cpu.physical_cores, allowed, cores, min(_quotas(root), default=None))


def _cores_of(cpuinfo: str, cpus: tuple[int, ...]) -> int:
    """The physical cores that some logical CPUs are on; one each where the text does not say."""
    fields = (
        dict(re.findall(r"^(processor|physical id|core id)\s*:\s*(\d+)", block, re.MULTILINE))
        for block in re.split(r"\n\s*\n", cpuinfo)
    )
    core = {
        int(one["processor"]): (one.get("physical id"), one["core id"])
        for one in fields
        if {"processor", "core id"} <= set(one)
    }
    return len({core.get(cpu, ("", str(cpu))) for cpu in cpus})


def _quotas(root: Path) -> Iterator[float]:
    """The limits of the cgroups of this process, and of those that they are in, in CPUs."""
    mounts = list(_mounts(root))
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        wanted = _V2 if number == "0" and not controllers else _V1
        if wanted == _V1 and "cpu" not in controllers.split(","):
            continue
        for kind, options, inside, point in mounts:
            if kind == wanted and (kind == _V2 or "cpu" in options):
                top = root / point.lstrip("/")
                yield from _quotas_up(top, _below(path, inside))


def _mounts(root: Path) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Of each mounted cgroup hierarchy: its type, its controllers, the cgroup that is mounted, and where."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        before, after = mount.split(), system.split()
        if len(before) >= 5 and len(after) >= 3 and after[0] in (_V1, _V2):
            yield after[0], tuple(after[2].split(",")), _plain(before[3]), _plain(before[4])


def _plain(path: str) -> str:
    """A path of mountinfo without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), path)


def _below(path: str, inside: str) -> tuple[str, ...]:
    """The folders from a mounted cgroup down to one; none where that lies outside, as a container's may seem to."""
    parts, above = [tuple(one for one in text.split("/") if one) for text in (path, inside)]
    return parts[len(above) :] if parts[: len(above)] == above and ".." not in parts else ()


def _quotas_up(top: Path, below: tuple[str, ...]) -> Iterator[float]:
    for depth in range(len(below), -1, -1):
        folder = top.joinpath(*below[:depth])
        words = _read(folder / "cpu.max").split() or [
            *_read(folder / "cpu.cfs_quota_us").split(),
            *_read(folder / "cpu.cfs_period_us").split(),
        ]
        try:
            quota, period = (float(word) for word in words)  # `max` and -1 are none
        except ValueError:
            continue
        if quota > 0 and period > 0:
            yield quota / period


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
