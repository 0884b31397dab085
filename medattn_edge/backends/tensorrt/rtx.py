"""TensorRT for RTX: an ONNX file -> an engine for any RTX GPU, built without one; kernels are compiled where it runs.

Vendor documentation: an engine is portable between GPUs and between Linux and Windows, not between releases. It has no
hardware compatibility level (it takes a list of compute capabilities instead), and operations on a timing cache do
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.atomic import replacing
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source
from medattn_edge.backends.session import Backend, Options, Patches, Session
from medattn_edge.backends.tensorrt.build import BATCHES, build
from medattn_edge.backends.tensorrt.library import TENSORRT_RTX, imported
from medattn_edge.backends.tensorrt.session import EngineSession
from medattn_edge.errors import HostError, OutputError, UsageError
from medattn_edge.host.computed_precision import RTX_CAPABILITIES
from medattn_edge.host.hardware import gpus


class RtxSession(EngineSession):
    """Keeps the kernels that its first run compiles, in NAME.rtx.cache: the next session starts without compiling.

    The library itself refuses kernels of another GPU, release or driver. A cache that others may write to is not read:
    whoever can change the kernels can change the answer.
    """

    def __init__(self, artifact: Artifact, options: Options) -> None:
        self._cache: Any = None
        self._files, self._stored = cache_files(artifact), b""
        super().__init__(artifact, options, TENSORRT_RTX)

    def _check_validity(self, trt: Any, data: bytes) -> None:
        check_listed(str(self.facts["compute_capability"]))
        validity, diagnostics = self._runtime.get_engine_validity(data)
        flags = trt.EngineInvalidityDiagnostics.__members__.items()
        faults = [name.lower().replace("_", " ") for name, flag in flags if int(diagnostics) & int(flag)]
        if validity == trt.EngineValidity.INVALID and "malformed engine" not in faults:  # that, opening it tells
            raise HostError(
                f"{self._file} does not run on this host: {', '.join(faults) or 'the library does not say why'}",
                expected="the GPU, driver and release that it was built for",
                hint="check nvidia-smi, then compile the ONNX file again: medattn-edge compile",
            )
        if validity == trt.EngineValidity.SUBOPTIMAL:
            self.facts["remarks"].append(f"the engine is slower here than it could be: {', '.join(faults)}")

    def _new_context(self, engine: Any) -> Any:
        config = engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        self._stored = stored_kernels(self._files, self.facts["remarks"])
        if self._stored and not self._cache.deserialize(self._stored):  # of another GPU, release or driver
            self._stored = b""
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        answers = super()._answers(names, patches)
        if "kernel_cache" not in self.facts:
            self.facts["kernel_cache"] = self._save()
        return answers

    def _save(self) -> str:
        """Where the kernels are kept, or why they are not: a session runs without, and starts slower."""
        data = bytes(self._cache.serialize()) if self._cache is not None else b""
        if not data or data == self._stored:
            return "unchanged"
        why = "no folder for it"
        for file in self._files:
            try:
                if file.parent != self._files[0].parent:
                    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with replacing(file) as temporary:
                    temporary.write_bytes(data)
                return str(file)
            except (OutputError, OSError) as error:
                why = str(error).splitlines()[0]
        return f"not written: {why}"

    def close(self) -> None:
        """Free the engine, its kernels and its memory on the GPU."""
        self._cache = None
        super().close()


def cache_files(artifact: Artifact) -> list[Path]:
    """Where an engine's kernels may be kept: beside it, else in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    name = f"{artifact.manifest.sha256[:32]}{TENSORRT_RTX.suffix}.cache"
    return [artifact.path.with_name(artifact.path.name + ".cache"), Path(base) / "medattn-edge" / name]


def stored_kernels(files: list[Path], remarks: list[str]) -> bytes:
    """The first cache that there is and that nobody else may write to; `remarks` gets those that are not read."""
    for file in files:
        if not file.is_file():
            continue
        state = file.stat()
        if hasattr(os, "geteuid") and (state.st_uid not in (os.geteuid(), 0) or state.st_mode & 0o002):
            remarks.append(f"{file} is not read: others may write to it")
            continue
        return file.read_bytes()
    return b""


def capabilities_of(requested: tuple[str, ...]) -> tuple[str, ...]:
    """The compute capabilities to build for, without repeats; when none is asked for, that of this host's GPUs.

    Raises UsageError for one that its maker does not list or that the library does not know, and for none on a host
    without a GPU.
    """
    trt = imported(TENSORRT_RTX)
    # The library has names, sm80 among them, that no support matrix has: what it builds for these, nobody vouches for.
    known = [name for name in RTX_CAPABILITIES if name.upper() in trt.ComputeCapability.__members__]
    wanted = tuple(dict.fromkeys(requested or (gpu.compute_capability for gpu in gpus())))
    if not wanted:
        raise UsageError(
            "no compute capability, on a host without an NVIDIA GPU to take it from",
            expected=f"some of {', '.join(known)}",
            hint="--compute-capability sm86,sm89",
        )
    unknown = [one for one in wanted if one not in known]
    if unknown:
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} is not made for {', '.join(map(repr, unknown))}",
            expected=f"some of {', '.join(known)}, which its maker lists",
            hint="--compute-capability sm86,sm89; for another GPU TensorRT itself, on that host: -o NAME.engine",
        )
    return wanted


def check_listed(capability: str) -> None:
    """Raise HostError for a GPU that the maker of TensorRT for RTX does not list, such as sm90."""
    if capability not in RTX_CAPABILITIES:
        raise HostError(
            f"this GPU is {capability}, for which TensorRT for RTX is not made",
            expected=f"one of {', '.join(RTX_CAPABILITIES)}",
            hint="compile the ONNX file by TensorRT itself: medattn-edge compile NET.onnx -o NAME.engine",
        )


def _compile(
    source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Progress | None
) -> dict[str, Any]:
    capabilities = capabilities_of(settings.compute_capabilities)
    engine = build(TENSORRT_RTX, source, settings, progress, capabilities)
    paths[TENSORRT_RTX.suffix].write_bytes(engine.data)
    return {
        "compiler": TENSORRT_RTX.name,
        "runs_on": {
            TENSORRT_RTX.package: engine.version,
            "compute_capabilities": list(capabilities),
            "hardware_compatible": False,
        },
        "settings": {
            "batches": list(BATCHES) if source.manifest.batch is None else [source.manifest.batch],
            "tf32": False,
            "workspace_mib": settings.workspace_mib,
        },
        "warnings": list(engine.warnings),
    }


def _open(path: Path, options: Options) -> Session:
    return RtxSession(Artifact.read(path), options)


BACKEND = Backend(
    name=TENSORRT_RTX.name,
    suffixes=(TENSORRT_RTX.suffix,),
    extra=TENSORRT_RTX.name,
    packages=(TENSORRT_RTX.package,),
    open=_open,
    gpu_only=True,
)
COMPILER = Compiler(
    name=TENSORRT_RTX.name,
    suffixes=(TENSORRT_RTX.suffix,),
    sources=(".onnx",),
    extra=TENSORRT_RTX.name,
    packages=(TENSORRT_RTX.package,),
    profile="tensorrt-rtx",
    compile=_compile,
    settings=("compute_capabilities", "workspace_mib", "threads"),
)
