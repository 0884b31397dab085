"""Torch-TensorRT: a checkpoint -> TensorRT engines inside a torch module, for where torch is installed anyway.

It fixes the versions of torch and TensorRT exactly, is imported only where an NVIDIA driver is present, and has no
wheels for some boards: prefer an engine of its own.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source
from medattn_edge.backends.session import Backend, Options, Patches, Session
from medattn_edge.backends.tensorrt.backend import check_host
from medattn_edge.backends.tensorrt.build import BATCHES
from medattn_edge.backends.tensorrt.library import gpu_at
from medattn_edge.backends.tensorrt.session import check_target, gpu_index, host_platform
from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.backends.torch.eager import BACKEND as EAGER
from medattn_edge.backends.torch.session import TorchSession, prepare_torch
from medattn_edge.backends.torch.torchscript import check_program
from medattn_edge.errors import BackendError, HostError, MissingDependency, UsageError
from medattn_edge.installation import install_line

_NAME = "torch-tensorrt"
_FORMATS = {".ts": "torchscript", ".pt2": "exported_program"}
_PACKAGES = ("torch", "torch_tensorrt", "tensorrt")  # an engine inside needs them all as they were


class TorchTensorRTSession(TorchSession):
    """A compiled module answers (logits, maps) when it was compiled with attention maps, logits otherwise."""

    def __init__(self, artifact: Artifact, options: Options) -> None:
        gpu = gpu_at(gpu_index(options, artifact.path.name))
        torch_tensorrt, manifest = _imported(), artifact.manifest
        versions = _versions()
        for package in _PACKAGES:
            check_target(manifest.target, package=package, version=versions[package], capability=gpu.compute_capability)
        facts = {"backend": _NAME, **artifact.origin, **prepare_torch(options), **versions, "gpu": gpu.name}
        module = _load(artifact.path, options.device, torch_tensorrt.__version__)
        names = manifest.attention_maps
        super().__init__(
            artifact.spec,
            options.device,
            (lambda image: module(image)[0]) if names else module,
            module if names else None,
            batch=manifest.batch,
            attention_names=names,
            facts=facts,
        )

    def _run(self, patches: Patches) -> Patches:
        return np.concatenate([super(TorchTensorRTSession, self)._run(part) for part in self._parts(patches)])

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        run = super()._run_with_attention
        logits, maps = zip(*(run(part) for part in self._parts(patches)), strict=True)
        return np.concatenate(logits), np.concatenate(maps)

    def _parts(self, patches: Patches) -> list[Patches]:
        """As many patches as an engine whose batch is free was built for."""
        most = self.batch or BATCHES[-1]
        return [patches[start : start + most] for start in range(0, len(patches), most)]


def _load(path: Path, device: str, version: str) -> Any:
    import torch

    check_program(path, ("tensorrt",))
    try:
        if path.suffix.lower() == ".pt2":
            return torch.export.load(path).module()
        with torchscript_is_deprecated():
            return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise BackendError(
            f"torch {torch.__version__} with torch_tensorrt {version} cannot load {path.name}: {_first_line(error)}",
            expected="what medattn-edge compile wrote with these versions",
            hint="compile the checkpoint again on this host: medattn-edge compile",
        ) from error


def _imported() -> Any:
    try:
        return importlib.import_module("torch_tensorrt")
    except ModuleNotFoundError as error:
        raise MissingDependency.of_extra("torch_tensorrt", _NAME) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise HostError(
            f"torch_tensorrt is installed and cannot be loaded: {_first_line(error)}",
            expected="an NVIDIA driver, and the torch and TensorRT that it was made for",
            hint=f"check nvidia-smi, or {install_line(_NAME, again=True)}",
        ) from error


def _versions() -> dict[str, str]:
    return {name: str(importlib.import_module(name).__version__) for name in _PACKAGES}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _compile(
    source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Progress | None
) -> dict[str, Any]:
    gpu = gpu_at(0)
    check_host(gpu, settings)
    if source.manifest.precision != "fp32":
        raise UsageError(
            f"{source.manifest.precision}, from a checkpoint",
            expected="fp32: the other precisions are made from an ONNX file",
            hint="-o NAME.engine from the quantised or FP16 NAME.onnx",
        )
    torch_tensorrt = _imported()
    batch, report = source.manifest.batch, progress or (lambda done, of: None)
    report(0, 3)
    program, shapes = _exported(source)
    report(1, 3)
    options = {
        "disable_tf32": True,
        "hardware_compatible": settings.hardware_compatible,
        "workspace_size": (settings.workspace_mib or 0) * 2**20,
        "require_full_compilation": True,  # nothing stays in torch unseen
        "min_block_size": 1,
    }
    build = torch_tensorrt.dynamo.compile
    if "use_explicit_typing" in inspect.signature(build).parameters:  # newer versions know nothing else
        options["use_explicit_typing"] = True
    inputs = [torch_tensorrt.Input(**shapes)]
    [(suffix, path)] = paths.items()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracing; what counts is the check of the answer
            module = build(program, arg_inputs=inputs, **options)
            report(2, 3)
            # Traced again with an example, an exported program would take the example's batch for a constant.
            kept = {"retrace": False} if batch is None and suffix == ".pt2" else {}
            torch_tensorrt.save(module, str(path), output_format=_FORMATS[suffix], arg_inputs=_example(source), **kept)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise BackendError(
            f"torch_tensorrt {torch_tensorrt.__version__} cannot compile {source.path.name}: {_first_line(error)}",
            expected="a compiled module",
            hint="-o NAME.engine from the exported NAME.onnx",
        ) from error
    report(3, 3)
    return {
        "compiler": _NAME,
        "runs_on": {
            **_versions(),
            "compute_capabilities": [gpu.compute_capability],
            "hardware_compatible": settings.hardware_compatible,
            "platform": host_platform(),
            "gpu": gpu.name,
        },
        "settings": {
            "batches": list(BATCHES) if batch is None else [batch],
            "tf32": False,
            "workspace_mib": settings.workspace_mib,
            "format": _FORMATS[suffix],
        },
    }


def _exported(source: Source) -> tuple[Any, dict[str, Any]]:
    """The checkpoint's exported program on the GPU, and the shapes of its input as torch_tensorrt takes them."""
    import torch

    from medattn_edge.models import checkpoint
    from medattn_edge.models.network import WithAttention

    manifest = source.manifest
    network: torch.nn.Module = checkpoint.load(source.path, config=manifest.spec.config).network
    if manifest.attention_maps:
        network = WithAttention(network)  # type: ignore[arg-type]
    network = network.to("cuda:0").eval()
    shape = (manifest.spec.in_channels, *manifest.spec.patch)
    fixed = manifest.batch is not None
    free = None if fixed else ({0: torch.export.Dim("batch", min=BATCHES[0], max=BATCHES[-1])},)
    with torch.inference_mode():
        program = torch.export.export(network, tuple(_example(source)), dynamic_shapes=free)
    if fixed:
        return program, {"shape": (manifest.batch, *shape), "dtype": torch.float32}
    least, best, most = ((batch, *shape) for batch in BATCHES)
    return program, {"min_shape": least, "opt_shape": best, "max_shape": most, "dtype": torch.float32}


def _example(source: Source) -> list[Any]:
    """An input to trace with: 2 patches when the batch is free, because torch takes 1 for a constant."""
    import torch

    spec = source.manifest.spec
    return [torch.zeros((source.manifest.batch or 2, spec.in_channels, *spec.patch), device="cuda:0")]


def _open(path: Path, options: Options) -> Session:
    return TorchTensorRTSession(Artifact.read(path), options)


BACKEND = Backend(
    name=_NAME,
    suffixes=tuple(_FORMATS),
    extra=_NAME,
    packages=("torch", "torch_tensorrt"),
    open=_open,
    gpu_only=True,
)
COMPILER = Compiler(
    name=_NAME,
    suffixes=tuple(_FORMATS),
    sources=EAGER.suffixes,
    extra=_NAME,
    packages=("torch", "torch_tensorrt"),
    profile="",
    compile=_compile,
    settings=("compute_capabilities", "workspace_mib", "hardware_compatible"),
)
