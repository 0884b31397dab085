"""What a measurement stands in: the host, its versions, how busy it was, and what speaks against the figures."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.artifact import tool_versions
from medattn_edge.evaluation.roofline import Peak
from medattn_edge.host import gpu_clocks, hardware
from medattn_edge.host.cpu_use import CpuUse
from medattn_edge.host.distributions import installed
from medattn_edge.host.system import load_average, physical_memory
from medattn_edge.newer_python import UTC

BUSY = 0.5  # load per core before the run, above which something else was computing
NOISY = 1.25  # p90 over p50 of the reference, above which the machine was not quiet
_GPU_TOOLS = ("tensorrt", "tensorrt-rtx", "torch-tensorrt", "onnxruntime-gpu")
_READ_BYTES = 1 << 24


class Surroundings:
    """The host, from before a measurement until after it. gpu: whether any candidate runs on one."""

    def __init__(self, threads: int, gpu: bool) -> None:
        self._cpu, self._threads, self._gpu = hardware.cpu(), threads, gpu
        self._date, self._load = datetime.now(UTC), _load()
        self._clocks: list[dict[str, Any]] = []

    def at_work(self) -> None:
        """Just before the timing, while the GPU is still warm: its clocks are kept."""
        if self._gpu:
            self._clocks = gpu_clocks.record()

    def to_json(self, peaks: Peak, noise: float | None, use: CpuUse | None = None) -> dict[str, Any]:
        """JSON values; to be called at the end.

        Args:
            peaks: of the host.
            noise: p90 over p50 of the reference, None when nothing was timed.
            use: what else computed while it was timed, where that is known.
        """
        cpu, warnings, graphics = self._cpu, list[str](), dict[str, Any]()
        if self._gpu:
            after = gpu_clocks.record()
            graphics = {
                "gpus": [asdict(gpu) for gpu in hardware.gpus()],
                "gpu_clocks": {"before": self._clocks, "after": after},
            }
            warnings += gpu_clocks.remarks(self._clocks, after)
            if not after:
                warnings.append(f"the clocks of the GPU are not known: {gpu_clocks.clocks().why}")
        per_core = self._load[0] / cpu.logical_cores
        if per_core > BUSY:
            warnings.append(f"the host was busy before: load {self._load[0]:.1f} on {cpu.logical_cores} cores")
        if noise is not None and noise > NOISY:
            warnings.append(
                f"the host was not quiet: one in ten runs of the reference took {noise:.2f} times its median, or more"
            )
        return {
            "cpu": cpu.model,
            "architecture": cpu.architecture,
            "instruction_sets": list(cpu.instruction_sets),
            "physical_cores": cpu.physical_cores,
            "logical_cores": cpu.logical_cores,
            "threads": self._threads,
            "memory_gb": _memory_gb(),
            "os": _system(),
            "python": platform.python_version(),
            "versions": versions(),
            "roofline": peaks.to_json(),
            "load_average": {"before": list(self._load), "after": list(_load())},
            "cpu_use": None if use is None else asdict(use),
            "noise": noise,
            "date": self._date.isoformat(timespec="seconds"),
            **graphics,
            "warnings": warnings,
        }


def versions() -> dict[str, str]:
    """Of what can change an answer or a speed, of those installed."""
    return tool_versions() | installed(_GPU_TOOLS)


def read_ahead(packages: Iterable[str], files: Iterable[Path]) -> None:
    """Read the libraries of packages, and files, so that no cold start waits for the disk and the next does not."""
    wanted = [path for path in files if path.is_file()]
    for package in packages:
        module = find_spec(package)
        for folder in (module.submodule_search_locations or ()) if module else ():
            wanted += [path for path in Path(folder).rglob("*") if path.suffix == ".pyc" or ".so" in path.suffixes]
    for path in wanted:
        if path.is_file():
            with path.open("rb") as file:
                while file.read(_READ_BYTES):
                    pass


def _load() -> tuple[float, float, float]:
    """Of the last 1, 5 and 15 minutes."""
    return load_average()


def _memory_gb() -> float:
    return round(physical_memory() / 1e9, 1)


def _system() -> str:
    """The kernel and the C library, as far as they matter to a speed."""
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{platform.system()} {kernel}, {' '.join(platform.libc_ver())}".strip(", ")
