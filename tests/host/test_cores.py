"""How many cores a process may use: by hyper-threads, affinity, and the CPU quotas of both kinds of cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from medattn_edge.host.cores import core_limits, usable_cores

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "32 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def host(root: Path, cores: int, threads_of_each: int = 1, files: Mapping[str, str] | None = None) -> Path:
    """A root with so many CPUs, numbered as Linux does: all first threads, then all second ones."""
    blocks = [
        f"processor\t: {thread * cores + core}\nphysical id\t: 0\ncore id\t\t: {core}\n"
        for thread in range(threads_of_each)
        for core in range(cores)
    ]
    for name, text in {"proc/cpuinfo": "\n".join(blocks), **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def v2(path: str, **limits: str) -> dict[str, str]:
    """Files of a process in a cgroup v2; limits: folder, with _ for /, -> cpu.max."""
    quotas = {f"sys/fs/cgroup/{name.replace('_', '/')}/cpu.max": text for name, text in limits.items()}
    return {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2_MOUNT, **quotas}


def test_hyper_threads_count_once(tmp_path: Path) -> None:
    limits = core_limits(host(tmp_path, 4, 2), range(8))
    assert (limits.physical_cores, limits.allowed_cores, limits.cpu_quota, limits.usable) == (4, 4, None, 4)


@pytest.mark.parametrize(("affinity", "cores"), [((0, 4), 1), ((0, 1), 2), ((1, 5, 6), 2), ((3,), 1), (range(8), 4)])
def test_an_affinity_counts_the_cores_that_its_cpus_are_on(tmp_path: Path, affinity: range, cores: int) -> None:
    limits = core_limits(host(tmp_path, 4, 2), affinity)
    assert limits.affinity == tuple(affinity)
    assert (limits.physical_cores, limits.allowed_cores, limits.usable) == (4, cores, cores)


def test_a_cpu_that_says_nothing_of_its_cores_has_one_for_each(tmp_path: Path) -> None:
    text = "\n".join(f"processor\t: {index}\nFeatures\t: fp asimd\n" for index in range(6))
    limits = core_limits(host(tmp_path, 0, files={"proc/cpuinfo": text}), (0, 1, 2))
    assert (limits.physical_cores, limits.usable) == (6, 3)


@pytest.mark.parametrize(
    ("text", "quota", "usable"),
    [
        ("200000 100000\n", 2.0, 2),
        ("150000 100000\n", 1.5, 1),
        ("50000 100000\n", 0.5, 1),
        ("300000 50000\n", 6.0, 6),
        ("9900000 100000\n", 99.0, 8),
        ("max 100000\n", None, 8),
        ("nonsense\n", None, 8),
    ],
)
def test_a_quota_of_cgroup_v2_is_rounded_down_to_at_least_one(
    tmp_path: Path, text: str, quota: float | None, usable: int
) -> None:
    limits = core_limits(host(tmp_path, 8, files=v2("/pod", pod=text)), range(8))
    assert (limits.cpu_quota, limits.usable) == (quota, usable)


def test_the_tightest_of_nested_cgroups_counts(tmp_path: Path) -> None:
    files = v2("/slice/pod/box", slice="600000 100000", slice_pod="300000 100000", slice_pod_box="max 100000")
    assert core_limits(host(tmp_path / "a", 8, files=files), range(8)).usable == 3
    files = v2("/slice/pod", slice="200000 100000", slice_pod="300000 100000", other="100000 100000")
    assert core_limits(host(tmp_path / "b", 8, files=files), range(8)).usable == 2


def test_a_container_sees_its_own_cgroup_as_the_root(tmp_path: Path) -> None:
    files = {**v2("/"), "sys/fs/cgroup/cpu.max": "250000 100000"}
    assert core_limits(host(tmp_path / "a", 8, files=files), range(8)).cpu_quota == 2.5
    outside = {**v2("/../../elsewhere"), "sys/fs/cgroup/cpu.max": "250000 100000"}
    assert core_limits(host(tmp_path / "b", 8, files=outside), range(8)).cpu_quota == 2.5


@pytest.mark.parametrize("inside", ["/", "/docker/abc"])
def test_cgroup_v1_is_read_where_its_controller_is_mounted(tmp_path: Path, inside: str) -> None:
    below = "docker/abc/" if inside == "/" else ""
    folder = f"sys/fs/cgroup/cpu,cpuacct/{below}"
    files = {
        "proc/self/cgroup": "9:name=systemd:/x\n4:cpuset:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
        "proc/self/mountinfo": V1_MOUNT.format(inside=inside),
        f"{folder}cpu.cfs_quota_us": "300000\n",
        f"{folder}cpu.cfs_period_us": "100000\n",
    }
    assert core_limits(host(tmp_path / "a", 8, files=files), range(8)).usable == 3
    files[f"{folder}cpu.cfs_quota_us"] = "-1\n"
    assert core_limits(host(tmp_path / "b", 8, files=files), range(8)).cpu_quota is None


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod\n",
        "proc/self/mountinfo": V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups"),
        "my groups/pod/cpu.max": "100000 100000",
    }
    assert core_limits(host(tmp_path, 8, files=files), range(8)).usable == 1


def test_a_host_without_proc_has_its_cpus(tmp_path: Path) -> None:
    limits = core_limits(tmp_path)
    assert limits.cpu_quota is None
    assert 1 <= limits.usable <= (os.cpu_count() or 1)


def test_the_affinity_of_this_process_is_kept() -> None:
    asked = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    asked += "from medattn_edge.host.cores import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
