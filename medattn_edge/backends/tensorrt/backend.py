"""TensorRT 10 and 11: an ONNX file -> an engine for this host's GPU, and the session that runs it.

Vendor documentation: an engine runs with the release that built it, on the platform and the GPU it was built on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source
from medattn_edge.backends.session import Backend, Options, Session
from medattn_edge.backends.tensorrt.build import BATCHES, build
from medattn_edge.backends.tensorrt.library import TENSORRT, gpu_at
from medattn_edge.backends.tensorrt.session import EngineSession, host_platform
from medattn_edge.errors import UsageError
from medattn_edge.host.hardware import Gpu


def _compile(
    source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Progress | None
) -> dict[str, Any]:
    gpu = gpu_at(0)
    check_host(gpu, settings)
    engine = build(TENSORRT, source, settings, progress)
    paths[TENSORRT.suffix].write_bytes(engine.data)
    return {
        "compiler": TENSORRT.name,
        "runs_on": {
            TENSORRT.package: engine.version,
            "compute_capabilities": [gpu.compute_capability],
            "hardware_compatible": settings.hardware_compatible,
            "platform": host_platform(),
            "gpu": gpu.name,
        },
        "settings": {
            "batches": list(BATCHES) if source.manifest.batch is None else [source.manifest.batch],
            "tf32": False,
            "workspace_mib": settings.workspace_mib,
            "timing_cache": settings.timing_cache is not None,
        },
        "warnings": list(engine.warnings),
    }


def check_host(gpu: Gpu, settings: CompileSettings) -> None:
    """Raise UsageError when another GPU is asked for than this one, which is the only one it builds for."""
    here = gpu.compute_capability
    if settings.compute_capabilities not in ((), (here,)):
        raise UsageError(
            f"TensorRT builds for the GPU of this host ({here}), not for {', '.join(settings.compute_capabilities)}",
            expected=f"{here}, or a target that builds for other GPUs",
            hint="-o NAME.rtx --compute-capability " + ",".join(settings.compute_capabilities),
        )
    if settings.hardware_compatible and int(here.removeprefix("sm")) < 80:
        raise UsageError(
            f"a hardware-compatible engine, built on {here}",
            expected="to be built on Ampere (sm80) or newer",
            hint="leave --hardware-compatible out",
        )


def _open(path: Path, options: Options) -> Session:
    return EngineSession(Artifact.read(path), options, TENSORRT)


BACKEND = Backend(
    name=TENSORRT.name,
    suffixes=(TENSORRT.suffix,),
    extra=TENSORRT.name,
    packages=(TENSORRT.package,),
    open=_open,
    gpu_only=True,
)
COMPILER = Compiler(
    name=TENSORRT.name,
    suffixes=(TENSORRT.suffix,),
    sources=(".onnx",),
    extra=TENSORRT.name,
    packages=(TENSORRT.package,),
    profile="tensorrt",
    compile=_compile,
    settings=("compute_capabilities", "workspace_mib", "timing_cache", "hardware_compatible", "threads"),
)
