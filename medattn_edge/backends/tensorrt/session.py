"""A session on an engine of TensorRT or TensorRT-RTX: CUDA buffers, one stream, no torch."""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.cuda.memory import CudaStream
from medattn_edge.backends.session import GraphSession, Options, Patches, closed
from medattn_edge.backends.tensorrt.execution import IMAGE, Execution
from medattn_edge.backends.tensorrt.library import Library, Message, gpu_at, imported, log_of, reasons, warnings
from medattn_edge.errors import BackendError, HostError, IntegrityError, UsageError


class EngineSession(GraphSession):
    """`image` in, `logits` (and `attention`) out; an engine whose batch is free is run in parts that fit it.

    Deserialising an engine is running native code: the artifact's hash has been checked, the manifest's `target` fits
    this host, and code for the host CPU inside an engine is never allowed. An engine of a fixed batch is run once when
    it is opened, and recorded as a CUDA graph. device_ms: as `Execution.run` measures it.
    """

    def __init__(self, artifact: Artifact, options: Options, library: Library) -> None:
        gpu = gpu_at(gpu_index(options, artifact.path.name))
        trt = imported(library)
        manifest, target = artifact.manifest, artifact.manifest.target
        check_target(target, package=library.package, version=trt.__version__, capability=gpu.compute_capability)
        self._name, self._file, self._lock = library.name, artifact.path.name, threading.Lock()
        log, self._listeners = log_of(library)
        super().__init__(
            artifact.spec,
            batch=manifest.batch,
            attention_names=manifest.attention_maps,
            facts={
                "backend": library.name,
                **artifact.origin,
                "device": options.device,
                "threads": options.threads,
                "gpu": gpu.name,
                "compute_capability": gpu.compute_capability,
                library.package: trt.__version__,
                "remarks": _remarks(target, gpu.name),
            },
        )
        self.device_ms: float | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._execution: Execution | None = None
        self._stream: CudaStream | None = CudaStream(gpu.index, library.name)
        try:
            self._runtime = trt.Runtime(log)
            self._runtime.engine_host_code_allowed = False
            data = artifact.path.read_bytes()
            self._check_validity(trt, data)
            with self._listeners.collecting() as heard:
                self._engine = self._runtime.deserialize_cuda_engine(data)
                self._context = None if self._engine is None else self._new_context(self._engine)
            if self._context is None:
                raise self._failed(f"cannot open {self._file}", heard)
            self.facts["remarks"] += warnings(heard)
            self._channels = self._outputs(trt)
            execution = Execution(self._context, self._stream, self._shapes(), self._listeners, self._run_failed)
            self._record(execution)
            self._execution = execution
        except BaseException:
            self.close()
            raise

    def _check_validity(self, trt: Any, data: bytes) -> None:
        """Ask the library about the engine before it runs any of it; only RTX can be asked."""

    def _new_context(self, engine: Any) -> Any:
        return engine.create_execution_context()

    def _outputs(self, trt: Any) -> dict[str, int]:
        """Name -> channels of what the engine computes; raises BackendError unless it is what the manifest says."""
        engine, spec = self._engine, self.spec
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names}
        channels = {"logits": spec.outputs} | ({"attention": len(self.attention_names)} if self.attention_names else {})
        wanted = {
            name: (trt.DataType.FLOAT, (self.batch or -1, count, *spec.patch))
            for name, count in {IMAGE: spec.in_channels, **channels}.items()
        }
        if found != wanted:
            raise BackendError(
                f"{self._file} has {_listed(found)}",
                expected=_listed(wanted),
                hint="compile it again from the ONNX file: medattn-edge compile",
            )
        return channels

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of a buffer for the most patches that the engine takes at once."""
        most = self.batch or int(self._engine.get_tensor_profile_shape(IMAGE, 0)[2][0])
        channels = {IMAGE: self.spec.in_channels, **self._channels}
        return {name: (most, count, *self.spec.patch) for name, count in channels.items()}

    def _record(self, execution: Execution) -> None:
        """With a CUDA graph if there can be one; `facts` say so, or why not."""
        why = execution.record() if self.batch else "the engine takes any batch, and a graph is good for one shape"
        self.facts |= {"cuda_graph": not why} | ({"cuda_graph_refused": why} if why else {})

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        count, patch = len(patches), patches.shape[2:]
        answers = {name: np.empty((count, self._channels[name], *patch), np.float32) for name in names}
        with self._lock:
            if self._execution is None:
                raise closed()
            self.device_ms = None  # of a run that fails
            self.device_ms = self._execution.run(patches, answers)
        return list(answers.values())

    def _run_failed(self, heard: list[Message]) -> BackendError:
        return self._failed(f"failed while running {self._file}", heard)

    def _failed(self, what: str, heard: list[Message]) -> BackendError:
        return BackendError(
            f"{self._name} {what}: {'; '.join(reasons(heard)[:3]) or 'it does not say why'}",
            expected="an engine of this library for this GPU",
            hint="compile it again on this host: medattn-edge compile",
        )

    def close(self) -> None:
        """Free the engine and its memory on the GPU, once no run needs them."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
            self._stream = self._execution = self._context = self._engine = self._runtime = None


def gpu_index(options: Options, name: str) -> int:
    """The number of the GPU that was asked for; raises UsageError for the CPU, which runs no engine."""
    if options.device == "cpu":
        raise UsageError(
            f"{name} is an engine for an NVIDIA GPU, and the device is cpu",
            expected="the GPU to run it on",
            hint="--device cuda:0",
        )
    return int(options.device.removeprefix("cuda:"))


def host_platform() -> str:
    """Such as linux-x86_64: an engine of TensorRT runs only where its platform is the same."""
    return f"{platform.system()}-{platform.machine()}".lower()


def check_target(target: Mapping[str, Any], *, package: str, version: str, capability: str) -> None:
    """Raise HostError unless a manifest's `target` says that this host runs the engine.

    version: of the installed package, which must be the one that built it: neither TensorRT nor TensorRT-RTX reads the
    engines of another release. capability: of the GPU, such as sm86; a hardware-compatible engine takes Ampere (sm80)
    and everything newer. Raises IntegrityError when `target` does not say what it needs.
    """
    needs = target.get("runs_on")
    needs = needs if isinstance(needs, Mapping) else {}
    built, listed = needs.get(package), needs.get("compute_capabilities")
    if not isinstance(built, str) or not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise IntegrityError(
            f"the manifest does not say which {package} and which GPUs the engine was built for",
            expected="`target` with `runs_on`, as medattn-edge compile writes it",
            hint="compile the ONNX file again: medattn-edge compile",
        )
    if built != version:
        raise HostError(
            f"the engine was built with {package} {built}, and this host has {version}",
            expected="the same version: an engine is not portable between releases",
            hint=f"medattn-edge compile it again here, or pip install '{package.replace('_', '-')}=={built}'",
        )
    where = needs.get("platform", host_platform())
    if where != host_platform():
        raise HostError(
            f"the engine was built on {where}, and this host is {host_platform()}",
            expected="the same operating system and processor",
            hint="medattn-edge compile it again here",
        )
    newer = needs.get("hardware_compatible") is True and _number(capability) >= 80
    if capability not in listed and not newer:
        raise HostError(
            f"the engine was built for {', '.join(listed) or 'no GPU'}, and this GPU is {capability}",
            expected="a GPU that the engine was built for",
            hint=f"medattn-edge compile NAME.onnx -o ... --compute-capability {','.join([*listed, capability])}",
        )


def _number(capability: str) -> int:
    digits = capability.removeprefix("sm")
    return int(digits) if digits.isdigit() else 0


def _remarks(target: Mapping[str, Any], gpu: str) -> list[str]:
    """TensorRT tunes an engine to one model of GPU, and runs it on another of the same compute capability."""
    built = target["runs_on"].get("gpu", gpu)
    return [] if built == gpu else [f"the engine was tuned on {built}, and this is {gpu}: it may be slower"]


def _listed(tensors: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {getattr(kind, 'name', kind)} {shape}" for name, (kind, shape) in sorted(tensors.items()))
