"""A file -> OpenVINO's compiled model, always in a precision that was asked for.

OpenVINO would compute FP32 graphs in BF16 where the CPU has it, and a blob too, whatever it was compiled with: that
choice is made when it is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Manifest
from medattn_edge.backends.cpu_target import check_runs_on
from medattn_edge.errors import BackendError, HostError, IntegrityError, UsageError, quoted
from medattn_edge.host.system import others_may_write

NAME = "openvino"
CACHE = "MEDATTN_EDGE_MODEL_CACHE"
_PINNING = "ENABLE_CPU_PINNING"
IR, WEIGHTS, BLOB = ".xml", ".bin", ".blob"
_PRECISIONS = {"f32": "FP32", "bf16": "BF16"}  # as we and OpenVINO's hint name it -> as its capabilities do


def configuration(ov: Any, precision: str, threads: int, *, shared_cores: bool = False) -> dict[str, Any]:
    """What a model is compiled with, and a blob is opened with: OpenVINO's own property names.

    OpenVINO pins its threads to cores, in every process from the first core on, and knows nothing of other processes:
    two of them with one thread each share one core and leave the other idle. A session with shared cores is not pinned.

    Raises UsageError for a precision that is not known, HostError for bf16 on a CPU without it, which OpenVINO
    would compute in FP32 without a word.
    """
    if precision not in _PRECISIONS:
        raise UsageError(
            f"the inference precision {precision!r} is not known",
            expected=f"one of {', '.join(_PRECISIONS)}",
            hint="--inference-precision f32",
        )
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _PRECISIONS[precision] not in capabilities:
        raise HostError(
            f"this CPU does not compute in {precision} (OpenVINO says {', '.join(capabilities)})",
            expected="a CPU with AVX-512 BF16 or AMX",
            hint="medattn-edge compile NET.onnx -o NAME.xml --inference-precision f32",
        )
    threaded = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    unpinned = {_PINNING: False} if shared_cores else {}
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        **threaded,
        **unpinned,
    }


def precision_of(target: Mapping[str, Any]) -> str:
    """In which precision a compiled artifact asked to be computed; f32 for one that OpenVINO did not compile."""
    settings = target.get("settings") if target.get("compiler") == NAME else None
    precision = settings.get("inference_precision", "f32") if isinstance(settings, Mapping) else "f32"
    if precision not in _PRECISIONS:
        raise IntegrityError(
            f"the manifest asks for the inference precision {precision!r}",
            expected=f"one of {', '.join(_PRECISIONS)}",
            hint=f"medattn-edge compile NET.onnx -o NAME{IR}",
        )
    return str(precision)


def read(ov: Any, path: Path, manifest: Manifest) -> Any:
    """The model of an ONNX file or of an IR whose hashes have been checked; raises BackendError when it is none."""
    _check_weights(path, manifest)
    weights = {"weights": str(path.with_suffix(WEIGHTS))} if path.suffix.lower() == IR else {}
    try:
        return ov.Core().read_model(str(path), **weights)
    except Exception as error:
        raise translated(error, f"cannot read {path.name}") from error


def _check_weights(path: Path, manifest: Manifest) -> None:
    if path.suffix.lower() == IR and WEIGHTS not in manifest.companions:
        raise IntegrityError(
            f"the manifest of {path.name} does not name its weights",
            expected=f"the SHA-256 of {path.stem}{WEIGHTS} under `companions`",
            hint=f"medattn-edge compile NET.onnx -o {quoted(path.name)}",
        )


def compiled(ov: Any, path: Path, manifest: Manifest, settings: Mapping[str, Any]) -> Any:
    """The compiled model of an artifact whose hashes have been checked; settings: of `configuration`.

    What is compiled is kept in the folder that the variable CACHE names, if it is set, and taken from there the next
    time; a blob is compiled already.
    Raises HostError for a blob of another version or CPU and for a folder that others may write to,
    BackendError for a file that OpenVINO cannot read.
    """
    if path.suffix.lower() == BLOB:
        check_runs_on(path, manifest.target, package=NAME, version=ov.__version__)
        try:
            return ov.Core().import_model(path.read_bytes(), "CPU", dict(settings))
        except Exception as error:
            raise translated(error, f"cannot open {path.name}") from error
    _check_weights(path, manifest)
    kept = _cache(manifest)
    # By its path OpenVINO would not even read a model that it has kept. An IR's weights are found beside it.
    model = read(ov, path, manifest) if kept is None else str(path)
    try:
        return ov.Core().compile_model(model, "CPU", {**settings, **({} if kept is None else {"CACHE_DIR": str(kept)})})
    except Exception as error:
        raise translated(error, f"cannot compile {path.name}") from error


def is_pinned(compiled_model: Any) -> bool:
    """Whether OpenVINO ties the threads of a compiled model to cores."""
    return bool(compiled_model.get_property(_PINNING))


def loaded_from_cache(compiled_model: Any) -> bool | None:
    """Whether a compiled model was taken from the cache; None when there is none."""
    return bool(compiled_model.get_property("LOADED_FROM_CACHE")) if os.environ.get(CACHE) else None


def _cache(manifest: Manifest) -> Path | None:
    """A folder for this very model inside the user's: OpenVINO tells models apart by path and time, we by content."""
    name = os.environ.get(CACHE)
    if not name:
        return None
    folder = Path(name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
    except OSError as error:
        raise HostError(
            f"no model cache in {folder}: {error.strerror}",
            expected="a folder that can be written to",
            hint="--cache FOLDER",
        ) from error
    # What lies there is run as code.
    if others_may_write(owner):
        raise HostError(
            f"the model cache {folder} can be written to by others, and what lies in it is run",
            expected="a folder of this user's that nobody else may write to",
            hint=f"chmod 700 {quoted(folder)}, or another --cache",
        )
    content = " ".join([manifest.sha256, *(manifest.companions[suffix] for suffix in sorted(manifest.companions))])
    return folder / hashlib.sha256(content.encode()).hexdigest()[:32]


def translated(error: Exception, what: str) -> BackendError:
    """OpenVINO's exception as ours: of its lines, the last that say why and not where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return BackendError(
        f"OpenVINO {what}: {'; '.join((reasons or lines or [type(error).__name__])[-2:])}",
        expected="a valid run",
        hint="compare the artifact with its checkpoint: medattn-edge compare",
    )
