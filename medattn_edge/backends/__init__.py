"""Artifact -> session. One file per backend, each with its BACKEND record."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from medattn_edge.backends.session import Backend, Options, Session
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.nearby import nearest
from medattn_edge.registry import is_default, records
from medattn_edge.spec import ModelSpec

AUTO = "auto"
_FIRST_GPU = "cuda:0"


def backends() -> dict[str, Backend]:
    """Every backend by name, installed or not."""
    return {record.name: record for record in records("medattn_edge.backends", "BACKEND", "medattn_edge.backends")}


def missing_packages(backend: Backend) -> list[str]:
    """The packages that this backend needs and this host lacks."""
    return [package for package in backend.packages if find_spec(package) is None]


def backend_of(path: Path, name: str | None = None) -> Backend:
    """The backend that opens a file: the named one, or the default of the file's suffix.

    Raises UsageError for a name or a suffix that is not known, MissingDependency for one that is not installed.
    """
    known = backends()
    suffix = Path(path).suffix.lower()
    if name is not None and name not in known:
        raise UsageError(
            f"the backend {name!r} is not known",
            expected=f"one of {', '.join(known)}",
            hint=f"--backend {nearest(name, known) or next(iter(known))}",
        )
    fitting = [one for one in known.values() if suffix in one.suffixes]
    chosen = [one for one in fitting if one.name == name or (name is None and is_default(one, suffix))]
    if not chosen:
        suffixes = sorted({s for one in known.values() if name in (None, one.name) for s in one.suffixes})
        raise UsageError(
            f"{Path(path).name} is no model file of {name or 'any backend'}",
            expected=f"a file that ends in {', '.join(suffixes)}",
            hint="medattn-edge export CHECKPOINT -o NAME.onnx",
        )
    missing = missing_packages(chosen[0])
    if missing:
        raise MissingDependency.of_extra(missing[0], chosen[0].extra)
    return chosen[0]


def open_session(  # noqa: PLR0913 - one for each field of Options
    path: Path | str,
    *,
    backend: str | None = None,
    device: str = AUTO,
    threads: int = 0,
    spec: ModelSpec | None = None,
    optimise: bool = True,
    provider: str = "",
    shared_cores: bool = False,
) -> Session:
    """A session that is ready to run; close it, or use it as a context manager.

    Args:
        path: of an artifact or a checkpoint.
        backend: a name of `backends()`, by default what the file's suffix says.
        device: `auto`, as `device_of` has it, `cpu` or `cuda:INDEX`; one that is not there is an error, never a
            fallback. The session's facts have both: `device`, and `requested_device`.
        threads: of the CPU; 0 leaves it to the runtime, which knows no cgroup quota: `host.cores.usable_cores()` does.
        spec: of a checkpoint, instead of its own or its network's default.
        optimise: off, ONNX Runtime runs the graph as it was written.
        provider: of ONNX Runtime on a GPU: cuda or tensorrt.
        shared_cores: whether other processes compute on the same cores at the same time, as the workers of a cohort do.
            OpenVINO, left to itself, ties the threads of every process to the same cores, the first ones.

    Raises:
        UsageError: for an option that is not known, or not of this backend.
        MissingDependency: when the backend's package is not installed.
        InputError: for a file that cannot be opened.
        IntegrityError: for a file that is not what its manifest says.
        BackendError: when the runtime fails.
    """
    path = Path(path)
    check_device(device)
    if threads < 0:
        raise UsageError(f"{threads} threads", expected="0 or more", hint="--threads 2")
    chosen = backend_of(path, backend)
    if chosen.name != "onnxruntime" and (provider or not optimise):
        raise UsageError(
            f"a provider, or no optimisation, for the backend {chosen.name}",
            expected="these only for onnxruntime",
            hint="leave --provider out",
        )
    opened_on = device_of(path, device, chosen.name, provider)
    session = chosen.open(path, Options(opened_on, threads, spec, optimise, provider, shared_cores))
    session.facts["requested_device"] = device
    return session


def check_device(name: str) -> None:
    """Raise UsageError for what is no name of a device; whether it is there is told where it is opened."""
    if name not in (AUTO, "cpu") and not (name.startswith("cuda:") and name[5:].isdigit()):
        raise UsageError(f"the device {name!r} is not known", expected="auto, cpu or cuda:INDEX", hint="--device auto")


def device_of(path: Path | str, device: str = AUTO, backend: str | None = None, provider: str = "") -> str:
    """The device that a file is run on: the one that was asked for, or what `auto` stands for.

    `auto` follows from the file and from what was asked for, never from what this host happens to have: what only runs
    on a GPU (an engine) is for the first one, everything else is for the CPU. An .onnx file, too, where ONNX Runtime
    has a CUDA provider: a choice that followed the driver would become another one, with other low bits, on the
    morning after a driver failed, and nobody would be told. A GPU is asked for by its name, and refused where it is
    not there; a provider of ONNX Runtime's for GPUs is such a name.

    Args:
        path: of the file; only its suffix is looked at.
        device: `auto`, `cpu` or `cuda:INDEX`.
        backend: its name, by default that of the file's suffix.
        provider: of ONNX Runtime on a GPU, as `open_session` takes it.
    """
    if device != AUTO:
        return device
    suffix = Path(path).suffix.lower()
    opening = [one for one in backends().values() if suffix in one.suffixes and is_default(one, suffix)]
    if backend is not None:
        opening = [backends()[backend]]
    return _FIRST_GPU if provider or any(one.gpu_only for one in opening) else "cpu"


__all__ = [
    "AUTO",
    "Backend",
    "Options",
    "Session",
    "backend_of",
    "backends",
    "check_device",
    "device_of",
    "missing_packages",
    "open_session",
]
