"""The CPUs that edge boxes have: a case with the instruction sets of other CPUs, on 1, 2 and 4 threads.

    python benchmarks/instruction_sets.py [CASE...] [--duration 3] [-o benchmarks/results]

A cap takes instruction sets away: from oneDNN (OpenVINO, and torch's convolutions) by ONEDNN_MAX_CPU_ISA, from torch's
own kernels by ATEN_CPU_CAPABILITY and from its matrix products by MKL_ENABLE_INSTRUCTIONS. Nothing caps ONNX Runtime's
kernels (MLAS asks the CPU itself, and reads no variable): its row stands beside no cap only. Every point is a run like
those of `suite.py` in a process of its own, its rows in processes of theirs, all under the cap: each row has its
agreement with, and its ratio to, the eager network under the same cap, and the roofline is that of the cap too. What
this host lacks is said. A cap is not another CPU: clocks, caches and memory are this host's.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from artifacts import Files
from cases import CASES, OURS, Case, Form
from suite import FOLDER, RESULTS, run, write

from medattn_edge.errors import MedattnError
from medattn_edge.evaluation import BenchSettings
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores
from medattn_edge.host.cpu_settings import onednn_cpu
from medattn_edge.host.hardware import Cpu, isa_class

THREADS = (1, 2, 4)
NO_CAP = "none"
ONNX_RUNTIME_HAS_NONE = "no variable caps ONNX Runtime's kernels: they ask the CPU itself"
DEFAULT = ("lungs-attention-unet-2d",)


class Cap(NamedTuple):
    """What a run may use at most.

    name: as ONEDNN_MAX_CPU_ISA takes it, or `none`. like: CPUs that have as much. needs: the instruction set, of those
    of `hardware.FLAGS`, without which this host cannot show it. aten: of torch's own kernels.
    """

    name: str
    like: str
    needs: str
    aten: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the process; none where nothing is capped."""
        if self.name == NO_CAP:
            return {}
        mkl = {"avx2": "AVX2", "avx512": "AVX512"}[self.aten]
        return {"ONEDNN_MAX_CPU_ISA": self.name, "ATEN_CPU_CAPABILITY": self.aten, "MKL_ENABLE_INSTRUCTIONS": mkl}


CAPS = (
    Cap("AVX2", "a Core or a Ryzen of before 2020", "avx2", "avx2"),
    Cap("AVX2_VNNI", "a Core since the 12th generation", "avx_vnni", "avx2"),
    Cap("AVX512_CORE", "a first Xeon Scalable", "avx512f", "avx512"),
    Cap("AVX512_CORE_VNNI", "a Xeon Scalable since the 2nd generation, an EPYC since the 4th", "avx512_vnni", "avx512"),
    Cap("AVX512_CORE_AMX", "a Xeon Scalable since the 4th generation", "amx_int8", "avx512"),
    Cap(NO_CAP, "this host as it is", "", ""),
)
# The INT8 file of a CPU without VNNI has weights of 7 bits, so that no sum overflows.
WITHOUT_VNNI = Form("int8-x86.xml", "int8_without_vnni", "openvino", "int8", "int8")
_ALWAYS = ("openvino", "int8_openvino")  # what makes their files
_BF16 = "int8_bf16"
_UNCAPPED = "onnx"


def forms(cap: Cap, cpu: Cpu) -> tuple[Form, ...]:
    """The rows beside eager: those that somebody with such a CPU would choose from."""
    left = onednn_cpu(cap.environment, cpu)
    made = [*_ALWAYS]
    made += [_BF16] if {"avx512_bf16", "amx_bf16"} & set(left.instruction_sets) else []
    made += [_UNCAPPED] if cap.name == NO_CAP else []
    chosen = tuple(form for form in OURS if form.made in made)
    return (*chosen, WITHOUT_VNNI) if isa_class(left) == "x86" else chosen


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="CASE...", help=f"By default {DEFAULT[0]}.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each row of a point.")] = 3.0,
    folder: Annotated[Path, typer.Option(help="Where the files that are made are kept.")] = FOLDER,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure a case under every cap that this host can show."""
    known = {case.name: case for case in CASES}
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is no case; expected some of {', '.join(known)}")
    for name in names or DEFAULT:
        document = measured(known[name], BenchSettings(duration_s=duration, timeout_s=1800), folder)
        write(document, output / f"instruction-sets-{name}.json")


def measured(
    case: Case,
    settings: BenchSettings,
    folder: Path,
    caps: Sequence[Cap] = CAPS,
    threads: Sequence[int] = THREADS,
    choose: Callable[[Cap, Cpu], Sequence[Form]] = forms,
) -> dict[str, Any]:
    """The result of one case: the rows of all points, each with its `cap` and `threads`, and what was not measured."""
    cpu, cores = hardware.cpu(), usable_cores()
    rows, absent, environment = list[dict[str, Any]](), dict[str, str](), dict[str, Any]()
    for cap in caps:
        if cap.needs and cap.needs not in cpu.instruction_sets:
            absent[cap.name] = f"this CPU has no {cap.needs}"
            continue
        chosen = choose(cap, cpu)
        absent |= _unmakeable(case, chosen, folder, cap)
        if cap.name != NO_CAP:
            absent[f"ONNX Runtime under {cap.name}"] = ONNX_RUNTIME_HAS_NONE
        for count in threads:
            place = f"{cap.name} on {count} threads"
            if count > cores:
                absent[place] = f"this process may use {cores} cores"
                continue
            document = point(case, chosen, replace(settings, threads=count), folder, cap.environment)
            if "failed" in document:
                absent[place] = document["failed"]
                continue
            environment = document["environment"]
            rows += [{"cap": cap.name, "threads": count, **row} for row in document["rows"]]
            absent |= {f"{row} under {place}": why for row, why in document["absent"].items()}
    told = {"name": case.name, "caps": {cap.name: cap.like for cap in caps}, "threads": list(threads)}
    return {"instruction_sets": told, "environment": environment, "rows": rows, "absent": absent}


def point(
    case: Case, chosen: Sequence[Form], settings: BenchSettings, folder: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The result of `suite.run` in a process with these variables; `failed`: why there is none."""
    spawn = multiprocessing.get_context("spawn")  # a fork would have libraries that have looked at the CPU already
    with _set(environment), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure, case, chosen, settings, folder).result()


def _measure(case: Case, chosen: Sequence[Form], settings: BenchSettings, folder: Path) -> dict[str, Any]:
    try:
        return run(case, chosen, settings, folder)
    except MedattnError as error:
        return {"failed": error.message}


def _unmakeable(case: Case, chosen: Sequence[Form], folder: Path, cap: Cap) -> dict[str, str]:
    """Make the files with all that this CPU has, so that a cap changes what runs them and not what they are."""
    files, why = Files(case, folder), dict[str, str]()
    for form in chosen:
        try:
            files.make(form.made)
        except MedattnError as error:
            why[f"{form.name} under {cap.name}"] = error.message
    return why


@contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables, and no other cap, for processes that are started meanwhile."""
    before = dict(os.environ)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    typer.run(main)
