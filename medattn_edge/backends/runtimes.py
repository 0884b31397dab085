"""Runtimes: where a file can be run on this host, each time in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Manifest
from medattn_edge.backends import AUTO, backend_of, backends, device_of, missing_packages
from medattn_edge.backends.isolated import TIMEOUT_S, IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.errors import HostError, UsageError
from medattn_edge.host import hardware
from medattn_edge.host.probe import probe
from medattn_edge.installation import install_line
from medattn_edge.nearby import nearest

AS_WRITTEN = "onnxruntime-unoptimised"
ALL = "all"
_GPU = "cuda:0"


@dataclass(frozen=True)
class Runtime:
    """One way to run a file.

    Attributes:
        name: as reports say it.
        backend: as `open_session` takes it, like device, optimise and provider.
        device: cpu or cuda:INDEX.
        optimise: whether ONNX Runtime may rewrite the graph.
        provider: of ONNX Runtime on a GPU.
        environment: variables of its process beside this one's own.
    """

    name: str
    backend: str
    device: str = "cpu"
    optimise: bool = True
    provider: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_written(self) -> bool:
        """Whether it computes a graph node by node, which is what the graph means."""
        return self.name == AS_WRITTEN

    def open(self, path: Path, threads: int = 0, timeout_s: float = TIMEOUT_S) -> IsolatedSession:
        """A session in a process of its own; raises what IsolatedSession raises."""
        options = Options(self.device, threads, None, self.optimise, self.provider)
        return IsolatedSession(
            path, backend=self.backend, options=options, timeout_s=timeout_s, environment=self.environment
        )


# An INT8 graph is computed by other kernels where a CPU has no AMX, as most beside a scanner have none, and OpenVINO's
# differ: so a host with AMX also computes it as the others do.
_WITHOUT_AMX = Runtime("openvino-without-amx", "openvino", environment={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"})
_OF_ONNX = (
    Runtime(AS_WRITTEN, "onnxruntime", optimise=False),
    Runtime("onnxruntime", "onnxruntime"),
    Runtime("openvino", "openvino"),
    _WITHOUT_AMX,
    Runtime("onnxruntime-cuda", "onnxruntime", _GPU, provider="cuda"),
    Runtime("onnxruntime-tensorrt", "onnxruntime", _GPU, provider="tensorrt"),
)
_PORTABLE = (".xml",)  # compiled where it is opened: for whatever CPU that is
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True)
class RuntimeHost:
    """What decides which runtimes a host has.

    Attributes:
        amx: whether its CPU has AMX.
        gpu: whether it has an NVIDIA GPU with a driver.
        providers: of its ONNX Runtime; asked only where there is a GPU.
        missing: packages of backends that it lacks.
    """

    amx: bool = False
    gpu: bool = False
    providers: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()


def this_host() -> RuntimeHost:
    """What decides here; ONNX Runtime is asked, in a process of its own, only when there is a GPU."""
    gpu = bool(hardware.gpus())
    providers = probe(["onnxruntime"])["onnxruntime"].facts.get("providers", ()) if gpu else ()
    missing = frozenset(package for record in backends().values() for package in missing_packages(record))
    return RuntimeHost("amx_int8" in hardware.cpu().instruction_sets, gpu, tuple(providers), missing)


def of_onnx(host: RuntimeHost, device: str = "cpu") -> tuple[tuple[Runtime, ...], dict[str, str]]:
    """The runtimes of an .onnx file on a host, and why each of the others is none of them.

    Args:
        host: what it has.
        device: a GPU leaves only its own, and the graph as it is written, which the CPU computes.
    """
    known: tuple[Runtime, ...] = _OF_ONNX
    if device != "cpu":
        known = (known[0], *(replace(one, device=device) for one in known if one.device != "cpu"))
    absent = {one.name: _absence(one, host) for one in known}
    return (
        tuple(one for one in known if not absent[one.name]),
        {name: why for name, why in absent.items() if why},
    )


def _absence(runtime: Runtime, host: RuntimeHost) -> str:
    """Why a host does not have a runtime; empty when it has."""
    record = backends()[runtime.backend]
    if host.missing & set(record.packages):
        return f"not installed: {install_line(record.extra)}"
    if runtime == _WITHOUT_AMX and not host.amx:
        return "this CPU has no AMX: openvino itself"
    if runtime.device != "cpu" and not host.gpu:
        return "no NVIDIA GPU with a driver"
    if runtime.device != "cpu" and _PROVIDERS[runtime.provider] not in host.providers:
        return f"this ONNX Runtime has no {_PROVIDERS[runtime.provider]}: pip install onnxruntime-gpu"
    return ""


def choose(
    path: Path, precision: str, names: Sequence[str] = (), device: str = AUTO, host: RuntimeHost | None = None
) -> tuple[tuple[Runtime, ...], dict[str, str]]:
    """The runtimes to run a file in, and why some of this host's were left out.

    Args:
        path: an artifact or a checkpoint.
        precision: that it is stored in.
        names: of runtimes, or `all`; without, a reduced precision in an .onnx file is run in all there are, because it
            is where they differ, and anything else in its own backend; an IR of OpenVINO also as a CPU without AMX
            computes it.
        device: to run on; `auto` as `device_of` has it.
        host: this one by default.

    Raises:
        UsageError: a name is not known, or as `backend_of`.
        HostError: a runtime of that name is not here.
    """
    own = backend_of(path).name
    device = device_of(path, device, own)
    alone = Runtime(own, own, device)
    if path.suffix.lower() != ".onnx" or (not names and precision == "fp32"):
        twice = own == _WITHOUT_AMX.backend and path.suffix.lower() in _PORTABLE and precision != "fp32"
        amx = twice and (host or this_host()).amx
        return ((alone, _WITHOUT_AMX) if amx else (alone,)), {}
    here, absent = of_onnx(host or this_host(), device)
    if device != "cpu" and all(one.device == "cpu" for one in here):
        raise HostError(
            f"no runtime of {path.name} is here for {device}: {'; '.join(dict.fromkeys(absent.values()))}",
            expected="an NVIDIA GPU and onnxruntime-gpu",
            hint="--device cpu",
        )
    if not names or ALL in names:
        return here, absent
    for name in names:
        if name not in {one.name for one in here} | set(absent):
            raise UsageError(
                f"the runtime {name!r} is not known",
                expected=f"{ALL}, or some of {', '.join(one.name for one in here)}",
                hint=f"--runtime {nearest(name, (*(one.name for one in here), *absent)) or ALL}",
            )
        if name in absent:
            raise HostError(
                f"the runtime {name} is not here: {absent[name]}",
                expected=f"some of {', '.join(one.name for one in here)}",
                hint=f"--runtime {ALL} for all that are",
            )
    return tuple(one for one in here if one.name in names), {}


def one_graph_each(manifests: Sequence[Manifest | None]) -> list[list[int]]:
    """The indices of artifacts, those of one graph together.

    What was compiled from a file in its own precision is that file's graph in another form. A checkpoint (None) stands
    for itself.
    """
    groups: dict[Any, list[int]] = {}
    for index, manifest in enumerate(manifests):
        key: Any = index
        if manifest is not None:
            key = (manifest.parent_sha256 if manifest.target else manifest.sha256, manifest.precision)
        groups.setdefault(key, []).append(index)
    return list(groups.values())
