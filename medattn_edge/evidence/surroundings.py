"""The host that the figures are of, where a measurement says it and where none was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from medattn_edge.evaluation.environment import versions
from medattn_edge.evidence.kept import KeptMeasurement
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores


def environment_of(timing: KeptMeasurement, threads: int) -> Mapping[str, Any]:
    """The environment as `bench` records it; without a measurement the CPU, its instruction sets and the versions."""
    if not timing.reason:
        return dict(timing.environment)
    cpu = hardware.cpu()
    return {
        "cpu": cpu.model,
        "architecture": cpu.architecture,
        "instruction_sets": list(cpu.instruction_sets),
        "physical_cores": cpu.physical_cores,
        "logical_cores": cpu.logical_cores,
        "threads": threads or usable_cores(),
        "python": platform.python_version(),
        "versions": versions(),
        "warnings": [],
    }
