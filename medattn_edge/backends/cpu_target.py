"""What a file compiled for a CPU needs of the host that opens it: one release of its runtime, and the same CPU.

Such a file is laid out for the instruction sets it was made with, and the runtimes promise nothing between releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.errors import HostError, IntegrityError, quoted
from medattn_edge.host import hardware
from medattn_edge.host.hardware import Cpu

_AGAIN = "medattn-edge compile {source} -o {name}"


def runs_on(package: str, version: str, cpu: Cpu | None = None) -> dict[str, Any]:
    """The `runs_on` of a file that is compiled on this host, or for `cpu`."""
    cpu = cpu or hardware.cpu()
    return {package: version, "architecture": cpu.architecture, "instruction_sets": list(cpu.instruction_sets)}


def check_runs_on(path: Path, target: Mapping[str, Any], *, package: str, version: str, cpu: Cpu | None = None) -> None:
    """Nothing, when a manifest's `target` says that this host runs the file.

    Args:
        path: of the file.
        target: of its manifest.
        package: that runs it.
        version: of the installed package, which must be the one that compiled it.
        cpu: this host's when it is left out.

    Raises:
        HostError: when it was compiled by another version, or for another CPU.
        IntegrityError: when `target` does not say what the file needs.
    """
    cpu = cpu or hardware.cpu()
    again = _AGAIN.format(source="NET.onnx", name=quoted(path.name))
    needs = target.get("runs_on")
    needs = needs if isinstance(needs, Mapping) else {}
    built, architecture, instruction_sets = (needs.get(key) for key in (package, "architecture", "instruction_sets"))
    if not (isinstance(built, str) and isinstance(architecture, str) and isinstance(instruction_sets, list)):
        raise IntegrityError(
            f"the manifest of {path.name} does not say for which {package} and which CPU it was compiled",
            expected="`target` with `runs_on`, as medattn-edge compile writes it",
            hint=again,
        )
    if built != version:
        raise HostError(
            f"{path.name} was compiled by {package} {built}, and this host has {version}",
            expected="the same version: it is not portable between releases",
            hint=f"{again} on this host, or pip install '{package}=={built.split('-')[0]}'",
        )
    if (architecture, sorted(map(str, instruction_sets))) != (cpu.architecture, sorted(cpu.instruction_sets)):
        here = _described(cpu.architecture, cpu.instruction_sets)
        raise HostError(
            f"{path.name} was compiled for {_described(architecture, instruction_sets)}, and this CPU is {here}",
            expected="a CPU with the same instruction sets",
            hint=f"{again} on this host",
        )


def _described(architecture: str, instruction_sets: Any) -> str:
    return f"{architecture} with {', '.join(map(str, instruction_sets)) or 'none of the instruction sets we know'}"
