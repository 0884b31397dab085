"""Variables of the environment that change what a CPU computes with, or how fast: read, and said, never set.

OpenVINO's CPU plugin and torch's convolutions are oneDNN's, which reads ONEDNN_NAME and, where that is not set, its
older DNNL_NAME (oneDNN's guide, "CPU Dispatcher Control" and "Primitive Attributes: floating-point math mode"). ONNX
Runtime's kernels (MLAS) ask the CPU itself and read no variable; its threads and OpenVINO's are no OpenMP's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from medattn_edge.host.cores import CoreLimits
from medattn_edge.host.hardware import Cpu, is_arm, isa_class

_ONEDNN = ("ONEDNN_", "DNNL_")  # the first that is set counts
_AVX512 = ("avx2", "avx512f")
_VNNI = (*_AVX512, "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")
# A name that oneDNN takes, in any case -> those of our instruction sets that it leaves; None: whatever the CPU has.
CAPS: Mapping[str, tuple[str, ...] | None] = {
    "SSE41": (),
    "AVX": (),
    "AVX2": ("avx2",),
    "AVX2_VNNI": ("avx2", "avx_vnni"),
    "AVX2_VNNI_2": ("avx2", "avx_vnni"),
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _VNNI,
    "AVX512_CORE_BF16": _BF16,
    "AVX512_CORE_FP16": (*_BF16, "avx_vnni"),
    "AVX10_1_512": (*_BF16, "avx_vnni"),
    "AVX512_CORE_AMX": None,
    "AVX512_CORE_AMX_FP16": None,
    "AVX10_1_512_AMX": None,
    "AVX10_1_512_AMX_FP16": None,
    "ALL": None,
    "DEFAULT": None,
}
_EXACT_MODE = "STRICT"


@dataclass(frozen=True)
class CpuSetting:
    """One variable that is set.

    Attributes:
        variable: its name.
        value: as it stands in the environment.
        runtimes: the packages whose computing it changes, as they are imported; empty where it changes none.
        effect: what it does to the computed precision or to the speed.
        hint: what to type where it is more likely a mistake than a wish; empty otherwise.
    """

    variable: str
    value: str
    runtimes: tuple[str, ...]
    effect: str
    hint: str = ""


def cpu_settings(environment: Mapping[str, str], host: Cpu, cores: CoreLimits | None = None) -> tuple[CpuSetting, ...]:
    """What the environment asks of the runtimes on a CPU; variables that are not set are left out.

    Args:
        environment: of the process, such as `os.environ`.
        host: its CPU.
        cores: what bounds its threads; None where that was not asked.
    """
    return tuple(
        setting
        for read in (_caps, _onednn_rest, _other_caps, _openmp)
        for setting in read(environment, host, cores.usable if cores else None)
    )


def onednn_cpu(environment: Mapping[str, str], host: Cpu) -> Cpu:
    """The CPU as oneDNN may use it: without the instruction sets that MAX_CPU_ISA of ONEDNN_ or DNNL_ forbids."""
    _, value = _of_onednn(environment, "MAX_CPU_ISA")
    left = CAPS.get(value.upper())
    if left is None or is_arm(host.architecture):
        return host
    return replace(host, instruction_sets=tuple(one for one in host.instruction_sets if one in left))


def quota_effect(cores: CoreLimits) -> str:
    """What a cgroup's quota does to the speed; empty where it bounds nothing."""
    if cores.cpu_quota is None or cores.cpu_quota >= cores.allowed_cores:
        return ""
    if cores.cpu_quota < 1:
        return (
            f"this process is stopped for {1 - cores.cpu_quota:.0%} of every period (100 ms by default): "
            "no time of it is even"
        )
    return (
        f"commands take {cores.usable} of {cores.allowed_cores} cores; a runtime that is left to itself starts "
        f"{cores.allowed_cores} threads, and the quota stops them in every period"
    )


def _of_onednn(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that oneDNN reads, and its value; empty where none is set."""
    return next(
        ((prefix + name, environment[prefix + name]) for prefix in _ONEDNN if environment.get(prefix + name)), ("", "")
    )


def _caps(environment: Mapping[str, str], host: Cpu, threads: int | None) -> Iterator[CpuSetting]:
    variable, value = _of_onednn(environment, "MAX_CPU_ISA")
    if not variable:
        return
    if value.upper() not in CAPS or is_arm(host.architecture):
        names = "the CPU is an ARM" if is_arm(host.architecture) else f"oneDNN knows {', '.join(CAPS)}"
        yield CpuSetting(variable, value, (), f"nothing: {names}, and says nothing of another", f"unset {variable}")
        return
    capped = onednn_cpu(environment, host)
    lost = [one for one in host.instruction_sets if one not in capped.instruction_sets]
    if not lost:
        yield CpuSetting(variable, value, (), "nothing: this CPU has no instruction set beyond it")
        return
    slower = "; INT8 loses VNNI, and its 8-bit weights may overflow" if isa_class(capped) != isa_class(host) else ""
    effect = f"OpenVINO, and torch's convolutions, compute without {', '.join(lost)}: slower{slower}"
    yield CpuSetting(variable, value, ("openvino", "torch"), effect, f"unset {variable}")


def _onednn_rest(environment: Mapping[str, str], host: Cpu, threads: int | None) -> Iterator[CpuSetting]:
    variable, value = _of_onednn(environment, "CPU_ISA_HINTS")
    if variable:
        effect = "oneDNN may prefer vectors of 256 bits: another speed, the same precision"
        yield CpuSetting(variable, value, ("openvino", "torch"), effect)
    variable, value = _of_onednn(environment, "DEFAULT_FPMATH_MODE")
    if variable and value.upper() != _EXACT_MODE:
        effect = (
            f"oneDNN may compute FP32 in {value.upper()} where a runtime does not say in what: FP32 may not be FP32"
        )
        yield CpuSetting(variable, value, ("openvino", "torch"), effect, f"unset {variable}")


def _other_caps(environment: Mapping[str, str], host: Cpu, threads: int | None) -> Iterator[CpuSetting]:
    known: dict[str, str] = {
        "ATEN_CPU_CAPABILITY": "torch's own kernels, all but convolutions and matrix products, use at most this",
        "MKL_ENABLE_INSTRUCTIONS": "torch's matrix products, attention among them, use at most this",
        "MKL_CBWR": "torch's matrix products give the same bits on other CPUs, and are slower",
    }
    for variable, effect in known.items():
        if environment.get(variable):
            yield CpuSetting(variable, environment[variable], ("torch",), effect)


def _openmp(environment: Mapping[str, str], host: Cpu, threads: int | None) -> Iterator[CpuSetting]:
    for variable, effect in _OPENMP.items():
        value = environment.get(variable)
        if value:
            yield CpuSetting(variable, value, ("torch",), effect(value, threads))
    for variable in sorted(environment):
        if variable.startswith("KMP_") and environment[variable]:
            effect_of_none = "nothing, unless Intel's OpenMP is loaded in the place of GNU's, which torch brings along"
            yield CpuSetting(variable, environment[variable], (), effect_of_none)


def _threads(value: str, usable: int | None) -> str:
    ours = f" ({usable} here)" if usable else ""
    return f"torch alone, and only where --threads does not say: our commands set the threads of every runtime{ours}"


def _limit(value: str, usable: int | None) -> str:
    if value.isdigit() and usable is not None and int(value) < usable:
        return f"torch gets {value} of the {usable} threads that it is asked for; ONNX Runtime and OpenVINO get theirs"
    return "torch's threads, no fewer than it is asked for here"


def _pinned(value: str, usable: int | None) -> str:
    return "torch's threads stay on their cores; two processes may be pinned to the same ones, and wait for each other"


def _waiting(value: str, usable: int | None) -> str:
    return "how torch's threads wait for work: those that spin take time from every other process"


_OPENMP: Mapping[str, Callable[[str, int | None], str]] = {
    "OMP_NUM_THREADS": _threads,
    "MKL_NUM_THREADS": _threads,
    "OMP_THREAD_LIMIT": _limit,
    **dict.fromkeys(("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"), _pinned),
    **dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"), _waiting),
}
