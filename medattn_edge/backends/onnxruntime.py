"""ONNX artifacts in ONNX Runtime: on the CPU, or on CUDA where its provider is installed.

NAME.ort is such a graph after ONNX Runtime's optimisations for this CPU: it opens without doing them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source
from medattn_edge.backends.cpu_target import check_runs_on, runs_on
from medattn_edge.backends.session import Backend, GraphSession, Options, Patches, Session, closed
from medattn_edge.errors import BackendError, HostError, UsageError

_NAME, _ORT = "onnxruntime", ".ort"
_NO_WARNINGS = 3  # it warns that the file is for this CPU alone, which the manifest says and a session checks


class OnnxRuntimeSession(GraphSession):
    """`image` in, `logits` (and `attention`) out."""

    def __init__(self, artifact: Artifact, options: Options) -> None:
        import onnxruntime as ort

        if artifact.path.suffix.lower() == _ORT:
            _check_optimised(artifact, options, ort.__version__)
        self._session: Any = inference_session(artifact.path, options)
        super().__init__(
            artifact.spec,
            batch=artifact.manifest.batch,
            attention_names=artifact.manifest.attention_maps,
            facts={
                "backend": "onnxruntime" if options.optimise else "onnxruntime-unoptimised",
                **artifact.origin,
                "device": options.device,
                "threads": options.threads,
                "providers": self._session.get_providers(),
                "available_providers": ort.get_available_providers(),
                "onnxruntime": ort.__version__,
            },
        )

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        if self._session is None:
            raise closed()
        try:
            return [np.asarray(answer) for answer in self._session.run(names, {"image": patches})]
        except Exception as error:
            raise translated(error, "failed while running") from error

    def close(self) -> None:
        """Free the model's memory and threads."""
        self._session = None


def inference_session(path: Path, options: Options) -> Any:
    """An onnxruntime.InferenceSession of a file, with the settings that every session of ours has.

    Raises HostError where the device is not there, BackendError when the file cannot be opened.
    """
    import onnxruntime as ort

    providers = _providers(ort, options)
    settings = _settings(ort, options.threads)
    if path.suffix.lower() == _ORT or not options.optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session: Any = ort.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:
        raise translated(error, f"cannot open {path.name}") from error
    _check_provider(session.get_providers(), providers, options.device)
    return session


def _settings(ort: Any, threads: int) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _NO_WARNINGS
    if threads:
        settings.intra_op_num_threads = threads
    return settings


def _check_optimised(artifact: Artifact, options: Options, version: str) -> None:
    name = artifact.path.name
    if options.device != "cpu":
        raise HostError(
            f"{name} was optimised for a CPU, and the device is {options.device} (CUDA)",
            expected="the CPU that it was compiled on",
            hint="--device cpu, or run the ONNX file it was made from",
        )
    if not options.optimise:
        raise UsageError(
            f"{name} without optimisations: they are in the file",
            expected="an ONNX file",
            hint="run the ONNX file it was made from",
        )
    check_runs_on(artifact.path, artifact.manifest.target, package=_NAME, version=version)


def _providers(ort: Any, options: Options) -> list[Any]:
    if options.device == "cpu":
        if options.provider:
            raise UsageError(
                f"the provider {options.provider} on the CPU",
                expected="cuda or tensorrt on a GPU",
                hint=f"--device cuda:0 --provider {options.provider}",
            )
        return ["CPUExecutionProvider"]
    index = int(options.device.split(":")[1])
    # FP32 means FP32: TF32 would be 10 bits of mantissa under the same name.
    cuda = ("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0})
    offered: dict[str, list[Any]] = {
        "cuda": [cuda],
        "tensorrt": [("TensorrtExecutionProvider", {"device_id": index}), cuda],
    }
    wanted = offered.get(options.provider or "cuda")
    if wanted is None:
        raise UsageError(
            f"the provider {options.provider!r} is not known", expected="cuda or tensorrt", hint="--provider cuda"
        )
    if wanted[0][0] not in ort.get_available_providers():
        raise HostError(
            f"this ONNX Runtime has {', '.join(ort.get_available_providers())}, not {options.device}",
            expected=wanted[0][0],
            hint="--device cpu, or pip uninstall onnxruntime && pip install onnxruntime-gpu",
        )
    return [*wanted, "CPUExecutionProvider"]


def _check_provider(active: list[str], wanted: list[Any], device: str) -> None:
    """ONNX Runtime falls back to the CPU with a warning; we do not."""
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in active:
        raise HostError(
            f"ONNX Runtime could not start {first} and runs on {', '.join(active)}",
            expected=device,
            hint="check the driver with nvidia-smi, or --device cpu",
        )


def translated(error: Exception, what: str) -> BackendError:
    """ONNX Runtime's exception as ours: its first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BackendError(
        f"ONNX Runtime {what}: {lines[0]}",
        expected="a valid run",
        hint="compare the artifact with its checkpoint: medattn-edge compare",
    )


def _compile(
    source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Progress | None
) -> dict[str, Any]:
    import onnxruntime as ort

    report = progress or (lambda done, of: None)
    chosen = _settings(ort, settings.threads)
    # What a session of the ONNX file does by itself when it is opened: the answers are the same bits.
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    chosen.optimized_model_filepath = str(paths[_ORT])
    chosen.add_session_config_entry("session.save_model_format", "ORT")
    report(0, 1)
    try:
        ort.InferenceSession(str(source.path), chosen, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise translated(error, f"cannot compile {source.path.name}") from error
    report(1, 1)
    return {
        "compiler": _NAME,
        "runs_on": runs_on(_NAME, ort.__version__),
        "settings": {"optimisation": "all, as ONNX Runtime does when it opens the ONNX file"},
    }


def _open(path: Path, options: Options) -> Session:
    return OnnxRuntimeSession(Artifact.read(path), options)


BACKEND = Backend(name=_NAME, suffixes=(".onnx", _ORT), extra=_NAME, packages=(_NAME,), open=_open)
COMPILER = Compiler(
    name=_NAME,
    suffixes=(_ORT,),
    sources=(".onnx",),
    extra=_NAME,
    packages=(_NAME,),
    profile="cpu",
    compile=_compile,
    settings=("threads",),
)
