"""What this host computes with: its CPU's instruction sets and its NVIDIA GPUs, read without a runtime.

The CPU is what /proc/cpuinfo says, the GPUs are what the driver's own library (libcuda) says.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medattn_edge.host.system import WINDOWS

_X86 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_ARM = {"asimd": "asimd", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}  # the kernel's name -> ARM's
FLAGS = (*_X86, *_ARM.values())
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_NAME_BYTES = 256


@dataclass(frozen=True)
class Cpu:
    """A CPU.

    Attributes:
        model: its name.
        architecture: as `uname -m` says it.
        instruction_sets: those of FLAGS that it has.
        physical_cores: without hyper-threads.
        logical_cores: with them.
    """

    model: str
    architecture: str
    instruction_sets: tuple[str, ...]
    physical_cores: int
    logical_cores: int


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        index: as CUDA counts.
        name: as the driver says it.
        compute_capability: such as sm86.
        memory_mib: in total.
        driver: its version, empty when it does not say.
        cuda: the newest CUDA that the driver runs.
    """

    index: int
    name: str
    compute_capability: str
    memory_mib: int
    driver: str
    cuda: str


def cpu() -> Cpu:
    """The CPU of this host; where there is no /proc/cpuinfo, without its instruction sets."""
    source = Path("/proc/cpuinfo")
    text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
    return parse_cpuinfo(text, platform.machine(), os.cpu_count() or 1)


def parse_cpuinfo(text: str, architecture: str, cores: int = 1) -> Cpu:
    """The CPU that the text of /proc/cpuinfo describes; `cores` is used where it lists none."""
    blocks = [_fields(block) for block in re.split(r"\n\s*\n", text) if block.strip()]
    processors = [block for block in blocks if "processor" in block]
    everything: dict[str, str] = {}
    for block in blocks:
        everything = {**block, **everything}
    words = set((everything.get("flags") or everything.get("features") or "").split())
    # `bf16` is a flag of ARM alone; x86 has avx512_bf16 and amx_bf16.
    names = _ARM if is_arm(architecture) else dict.fromkeys(_X86)
    found = tuple(names[flag] or flag for flag in names if flag in words)
    places = {(one.get("physical id"), one["core id"]) for one in processors if "core id" in one}
    logical = len(processors) or cores
    return Cpu(_model(everything, architecture), architecture, found, len(places) or logical, logical)


def is_arm(architecture: str) -> bool:
    """Whether `uname -m` names an ARM."""
    return architecture.lower().startswith(("arm", "aarch"))


def isa_class(host: Cpu) -> str:
    """What decides how INT8 is computed: x86-vnni, x86 (no VNNI), or arm.

    An architecture that is neither counts as x86 without VNNI, which asks for the most caution.
    """
    if is_arm(host.architecture):
        return "arm"
    return "x86-vnni" if {"avx512_vnni", "avx_vnni", "amx_int8"} & set(host.instruction_sets) else "x86"


def _fields(block: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _model(fields: Mapping[str, str], architecture: str) -> str:
    if "model name" in fields:
        return fields["model name"]
    if "cpu part" in fields:
        return f"{architecture} implementer {fields.get('cpu implementer', '?')} part {fields['cpu part']}"
    return platform.processor() or architecture


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use; empty without a driver, or when the driver does not answer."""
    # CUDA's own library and not NVML, which gpu_clocks.py asks: NVML counts every board in the order of the bus, CUDA
    # only those that CUDA_VISIBLE_DEVICES leaves, in its own order, and `cuda:INDEX` is one of these. And the driver
    # brings this library along, so that `doctor` needs no package to see a GPU.
    try:
        return _ask_driver(ctypes.CDLL("nvcuda.dll" if WINDOWS else "libcuda.so.1"))
    except (OSError, AttributeError):  # no driver; or one without the functions asked for
        return ()


def _ask_driver(cuda: ctypes.CDLL) -> tuple[Gpu, ...]:
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    newest = ""
    if not cuda.cuDriverGetVersion(ctypes.byref(version)):
        newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    devices = (_ask_device(cuda, index, newest) for index in range(count.value))
    return tuple(gpu for gpu in devices if gpu is not None)


def _ask_device(cuda: ctypes.CDLL, index: int, newest: str) -> Gpu | None:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, _NAME_BYTES, device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    )
    if failed:
        return None
    label = name.value.decode("utf-8", "replace")
    capability = f"sm{major.value}{minor.value}"
    return Gpu(index, label, capability, memory.value // 2**20, _driver_version(), newest)


def _driver_version() -> str:
    source = Path("/proc/driver/nvidia/version")
    text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
    return parse_driver_version(text)


def parse_driver_version(text: str) -> str:
    """The driver's version in the text of /proc/driver/nvidia/version; empty when it is not there."""
    match = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else ""
