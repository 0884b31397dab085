"""Diagnosis: what this host can run and compile, in which precision, and what would make it run more."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec

from medattn_edge.backends import Backend, backends
from medattn_edge.backends.compiler import Compiler, compilers
from medattn_edge.host import hardware
from medattn_edge.host.computed_precision import RTX_CAPABILITIES, described, too_old_for_tensorrt
from medattn_edge.host.cores import CoreLimits, core_limits
from medattn_edge.host.cpu_settings import CpuSetting, cpu_settings, onednn_cpu, quota_effect
from medattn_edge.host.distributions import installed
from medattn_edge.host.hardware import Cpu, Gpu
from medattn_edge.host.probe import PackageReport, probe
from medattn_edge.installation import install_line

# A record belongs to the first of these among its packages; the devices that each can compute on.
_DEVICES = {
    "torch_tensorrt": ("cuda:0",),
    "tensorrt_rtx": ("cuda:0",),
    "tensorrt": ("cuda:0",),
    "openvino": ("cpu",),
    "onnxruntime": ("cpu", "cuda:0"),
    "torch": ("cpu", "cuda:0"),
    "tritonclient": ("cpu",),  # of this side, which computes nothing
}
_COMPILES_ON_GPU = ("torch_tensorrt", "tensorrt")
_NO_GPU = "no NVIDIA GPU with a driver"
DISTRIBUTIONS = (
    *("numpy", "torch", "torch-tensorrt", "tensorrt", "tensorrt-rtx", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("openvino", "nncf", "safetensors", "nibabel", "pynrrd", "pillow"),
    *("pydicom", "highdicom", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm", "pynetdicom"),
    "nvidia-ml-py",
)


@dataclass(frozen=True)
class HostReport:
    """What a host has.

    Attributes:
        cpu: its CPU.
        gpus: its NVIDIA GPUs.
        versions: distribution -> version of those installed.
        reports: importable package -> what it said of itself; one without a report was not asked.
        missing: packages that records need and this host lacks.
        cores: what bounds the threads of this process; None where it was not asked.
        environment: the variables of this process.
    """

    cpu: Cpu
    gpus: tuple[Gpu, ...]
    versions: Mapping[str, str]
    reports: Mapping[str, PackageReport]
    missing: frozenset[str] = frozenset()
    cores: CoreLimits | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[CpuSetting, ...]:
        """What the environment asks of the runtimes on the CPU."""
        return cpu_settings(self.environment, self.cpu, self.cores)

    def cpu_of(self, runtime: str) -> Cpu:
        """The CPU as a runtime may use it."""
        return onednn_cpu(self.environment, self.cpu) if runtime == "openvino" else self.cpu


@dataclass(frozen=True)
class BackendRow:
    """One backend on one device.

    Attributes:
        name: of the backend.
        runs: whether it runs here.
        device: cpu or cuda:INDEX.
        precisions: what an fp32, fp16 and int8 artifact is computed in.
        why: it does not run; empty when it does.
        install: the line that helps, or None.
    """

    name: str
    runs: bool
    device: str
    precisions: Mapping[str, str]
    why: str
    install: str | None


@dataclass(frozen=True)
class CompilerRow:
    """One compiler.

    Attributes:
        name: of the compiler.
        runs: whether it runs here.
        suffixes: of what it writes.
        why: it does not run, or what it can do here all the same.
        install: as for a backend.
    """

    name: str
    runs: bool
    suffixes: tuple[str, ...]
    why: str
    install: str | None


@dataclass(frozen=True)
class Problem:
    """Something installed that does not work, or not together.

    Attributes:
        found: what it is.
        hint: what to do.
    """

    found: str
    hint: str


def read_host() -> HostReport:
    """What this host has; imports the runtimes in processes of their own, at most a few seconds."""
    records: list[Backend | Compiler] = [*backends().values(), *compilers().values()]
    wanted = sorted({package for record in records for package in record.packages} | {"nncf", "pydicom", *_DEVICES})
    missing = frozenset(package for package in wanted if find_spec(package) is None)
    gpus = hardware.gpus()
    # torch-tensorrt cannot even be imported without a driver: that would not be a fault of the installation.
    importable = [one for one in wanted if one not in missing and (gpus or one != "torch_tensorrt")]
    return HostReport(
        hardware.cpu(), gpus, installed(DISTRIBUTIONS), probe(importable), missing, core_limits(), dict(os.environ)
    )


def backend_rows(backend: Backend, host: HostReport) -> list[BackendRow]:
    """One row for each device that a backend could use; the GPU's is left out on a host without, if it has others."""
    runtime = _runtime(backend.packages)
    devices = _DEVICES.get(runtime, ("cpu",))
    rows = []
    for device in devices if host.gpus else devices[:1]:
        why, install = _obstacle(backend, host)
        why = why or _device_obstacle(runtime, device, host)
        facts = host.reports.get(runtime, PackageReport()).facts
        precisions = described(runtime, device, host.cpu_of(runtime), facts)
        rows.append(BackendRow(backend.name, not why, device, precisions, why, install))
    return rows


def compiler_row(compiler: Compiler, host: HostReport) -> CompilerRow:
    """Whether a compiler works here; the runtime that opens what it writes may need more."""
    why, install = _obstacle(compiler, host)
    runtime = _runtime(compiler.packages)
    runs = not why and not (runtime in _COMPILES_ON_GPU and not host.gpus)
    if not why and not host.gpus and "cpu" not in _DEVICES.get(runtime, ("cpu",)):
        why = "compiles without a GPU; running needs one" if runs else f"{_NO_GPU}, which it compiles on"
    return CompilerRow(compiler.name, runs, compiler.suffixes, why, install)


def _runtime(packages: Iterable[str]) -> str:
    return next((name for name in _DEVICES if name in packages), "")


def _obstacle(record: Backend | Compiler, host: HostReport) -> tuple[str, str | None]:
    """Why a record's packages cannot be used, and the line that installs them."""
    for package in record.packages:
        if package in host.missing:
            return f"{package} is not installed", install_line(record.extra)
    for package in record.packages:
        report = host.reports.get(package, PackageReport())
        if report.fault:
            again = None if report.timed_out else install_line(record.extra, again=True)
            return f"{package} {report.fault}", again
    return "", None


def _device_obstacle(runtime: str, device: str, host: HostReport) -> str:
    if device == "cpu":
        return ""
    if not host.gpus:
        return _NO_GPU
    facts = host.reports.get(runtime, PackageReport()).facts
    if runtime == "torch" and not facts.get("cuda_available"):
        return f"this torch cannot use the GPU (built for CUDA {facts.get('cuda') or 'none'})"
    if runtime == "onnxruntime" and "CUDAExecutionProvider" not in facts.get("providers", ()):
        return "this ONNX Runtime has no CUDAExecutionProvider"
    capability = host.gpus[0].compute_capability
    if runtime == "tensorrt_rtx" and capability not in RTX_CAPABILITIES:
        return f"the GPU is {capability}, and TensorRT for RTX is made for {', '.join(RTX_CAPABILITIES)}"
    if "tensorrt" in runtime and too_old_for_tensorrt(capability):
        return f"the GPU is {capability}, and TensorRT builds for sm75 and newer"
    return ""


def problems(host: HostReport) -> tuple[Problem, ...]:
    """Broken packages, and versions that are known not to work together."""
    broken = [
        Problem(f"{package} is installed and {report.fault.removeprefix('is ')}", _repair(package, report))
        for package, report in host.reports.items()
        if report.error
    ]
    return (*broken, *conflicts(host.versions), *_idle_gpu(host), *_slowed(host))


def conflicts(versions: Mapping[str, str]) -> tuple[Problem, ...]:
    """Versions that do not go together, from distribution -> version only."""
    problems = []
    pinned, torch = versions.get("torch-tensorrt"), versions.get("torch")
    if pinned and torch and _release(pinned) != _release(torch):
        problems.append(
            Problem(
                f"torch-tensorrt {pinned} with torch {torch}: it pins torch exactly, each minor version to its own",
                f"pip install 'torch-tensorrt=={'.'.join(map(str, _release(torch)))}.*'",
            )
        )
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        problems.append(
            Problem(
                "onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files",
                "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
            )
        )
    gpu, tensorrt = versions.get("onnxruntime-gpu"), versions.get("tensorrt")
    if gpu and tensorrt and _release(tensorrt)[0] >= 11 and _release(gpu) < (1, 27):
        problems.append(
            Problem(
                f"onnxruntime-gpu {gpu} with TensorRT {tensorrt}: its TensorRT provider needs 1.27 for TensorRT 11",
                "pip install 'onnxruntime-gpu>=1.27'",
            )
        )
    return tuple(problems)


def extra_of(distribution: str, requirements: Iterable[str]) -> str | None:
    """The first extra of ours that asks for a distribution; `requirements` as a wheel's Requires-Dist lists them."""
    for line in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)[\"']", line)
        if name and extra and _canonical(name.group()) == _canonical(distribution):
            return extra.group(1)
    return None


def line_for(distribution: str) -> str:
    """What installs a distribution: the extra of ours that has it, or its own name."""
    try:
        extra = extra_of(distribution, metadata.requires("medattn-edge") or ())
    except metadata.PackageNotFoundError:  # run from a source tree
        extra = None
    return install_line(extra) if extra else f"pip install {distribution}"


def _idle_gpu(host: HostReport) -> list[Problem]:
    torch = host.reports.get("torch")
    if not host.gpus or torch is None or torch.error or torch.facts.get("cuda_available"):
        return []
    found = f"there is a GPU ({host.gpus[0].name}), and this torch cannot use it"
    return [Problem(found, "install the torch build for its driver: https://pytorch.org/get-started/locally")]


def _slowed(host: HostReport) -> list[Problem]:
    """Variables that are more likely a mistake than a wish, and a quota that no runtime sees."""
    found = [Problem(f"{one.variable}={one.value}: {one.effect}", one.hint) for one in host.settings if one.hint]
    effect = quota_effect(host.cores) if host.cores else ""
    if host.cores and effect:
        hint = f"--threads {host.cores.usable}, as our commands do; or give the container whole CPUs"
        found.append(Problem(f"the cgroup gives {host.cores.cpu_quota:g} CPUs: {effect}", hint))
    return found


def _repair(package: str, report: PackageReport) -> str:
    if report.timed_out:
        return "medattn-edge doctor once more, when nothing else runs here"
    if package == "tensorrt":  # on PyPI it only downloads from the vendor's own index
        return "pip install --force-reinstall tensorrt --extra-index-url https://pypi.nvidia.com"
    return f"pip install --force-reinstall {package.replace('_', '-')}"


def _release(version: str) -> tuple[int, int]:
    """Major and minor."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
