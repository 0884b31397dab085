"""ONNX artifacts in ONNX Runtime: on the CPU, or on CUDA where its provider is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.session import Backend, Options, Patches, Session
from medattn_edge.errors import BackendError, EnvironmentProblem, UsageError


class OnnxRuntimeSession(Session):
    """`image` in, `logits` (and `attention`) out."""

    def __init__(self, artifact: Artifact, options: Options) -> None:
        import onnxruntime as ort

        providers = _providers(ort, options)
        settings = ort.SessionOptions()
        if not options.optimise:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = 3
        if options.threads:
            settings.intra_op_num_threads = options.threads
        try:
            self._session: Any = ort.InferenceSession(str(artifact.path), settings, providers=providers)
        except Exception as error:
            raise _translated(error, f"cannot open {artifact.path.name}") from error
        _check_provider(self._session.get_providers(), providers, options.device)
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
                "onnxruntime": ort.__version__,
            },
        )

    def _run(self, patches: Patches) -> Patches:
        return self._answers(["logits"], patches)[0]

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        logits, maps = self._answers(["logits", "attention"], patches)
        return logits, maps

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        if self._session is None:
            raise BackendError("this session is closed", expected="an open one", hint="open the artifact again")
        try:
            return [np.asarray(answer) for answer in self._session.run(names, {"image": patches})]
        except Exception as error:
            raise _translated(error, "failed while running") from error

    def close(self) -> None:
        """Free the model's memory and threads."""
        self._session = None


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
        raise EnvironmentProblem(
            f"this ONNX Runtime has {', '.join(ort.get_available_providers())}, not {options.device}",
            expected=wanted[0][0],
            hint="--device cpu, or pip uninstall onnxruntime && pip install onnxruntime-gpu",
        )
    return [*wanted, "CPUExecutionProvider"]


def _check_provider(active: list[str], wanted: list[Any], device: str) -> None:
    """ONNX Runtime falls back to the CPU with a warning; we do not."""
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in active:
        raise EnvironmentProblem(
            f"ONNX Runtime could not start {first} and runs on {', '.join(active)}",
            expected=device,
            hint="check the driver with nvidia-smi, or --device cpu",
        )


def _translated(error: Exception, what: str) -> BackendError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BackendError(
        f"ONNX Runtime {what}: {lines[0]}",
        expected="a valid run",
        hint="compare the artifact with its checkpoint: medattn-edge compare",
    )


def _open(path: Path, options: Options) -> Session:
    return OnnxRuntimeSession(Artifact.read(path), options)


BACKEND = Backend(name="onnxruntime", suffixes=(".onnx",), extra="onnxruntime", packages=("onnxruntime",), open=_open)
