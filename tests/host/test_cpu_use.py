"""How busy others are: what all computed, less what this process and those that it started did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medattn_edge.host.cpu_use import MIN_S, CpuTimes, CpuUse, cpu_use_since

pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="a system without /proc")
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
PID = os.getpid()


def proc(root: Path, cpus: dict[int, str], processes: dict[int, tuple[int, str]]) -> Path:
    """A root with counters: CPU -> its line; process -> its parent, and its utime to cstime."""
    (root / "proc").mkdir(parents=True)
    lines = [f"cpu  {next(iter(cpus.values()))}", *(f"cpu{number} {counts}" for number, counts in cpus.items())]
    (root / "proc/stat").write_text("\n".join([*lines, "intr 1 2"]) + "\n", encoding="utf-8")
    for number, (parent, times) in processes.items():
        (root / f"proc/{number}").mkdir()
        text = f"{number} (a ) (name) R {parent} 0 0 0 -1 0 0 0 0 0 {times} 20 0 1\n"
        (root / f"proc/{number}/stat").write_text(text, encoding="utf-8")
    return root


def test_all_that_a_process_started_is_its_own_and_the_rest_is_of_others(tmp_path: Path) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    idle = dict.fromkeys([*CPUS, max(CPUS) + 1], "0 0 0 0 0 0 0 0 0 0")
    # user nice system idle iowait irq softirq steal: all but idle and iowait is busy. No CPU counts that is not ours.
    later = {
        **idle,
        CPUS[0]: f"{hertz} {hertz} {hertz} 9999 9999 {hertz} {hertz} {hertz} 0 0",
        max(CPUS) + 1: "9999 0 0 0",
    }
    family = {
        PID: (1, f"{hertz} 0 0 {hertz}"),
        900001: (PID, "0 0 0 0"),
        900002: (900001, f"0 {hertz} 0 0"),
        900003: (1, "7 7 7 7"),
    }
    first = CpuTimes.now(proc(tmp_path / "first", idle, {PID: (1, "0 0 0 0")}))
    second = CpuTimes.now(proc(tmp_path / "second", later, family))
    assert first is not None
    assert second is not None
    assert first.until(second) is None  # too soon to tell
    use = first.until(CpuTimes(first.at_s + 2.0, second.busy_s, second.own_s))
    assert use == CpuUse(len(CPUS), own=1.5, others=1.5)
    assert CpuUse(4, own=1.0, others=2.0).others_share == 0.5
    assert CpuUse(4, own=1.0, others=2.0).idle_share == 0.25
    assert CpuUse(1, own=0.7, others=0.7).idle_share == 0.0


def test_a_system_without_counters_tells_nothing(tmp_path: Path) -> None:
    assert CpuTimes.now(tmp_path) is None
    assert cpu_use_since(None) is None


def test_a_child_that_computes_is_our_own_and_a_stranger_that_does_is_not() -> None:
    script = (
        "import sys, time\nend = time.process_time() + 0.6\nprint(flush=True)\nwhile time.process_time() < end: pass"
    )
    start = CpuTimes.now()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        child.wait(60)
    use = cpu_use_since(start)
    assert start is not None
    assert use is not None
    passed = time.monotonic() - start.at_s
    assert use.own * passed >= 0.5  # of the child, which has ended
    assert passed > MIN_S
