"""OpenVINO on the CPU: runs ONNX files, its IR (NAME.xml and NAME.bin) and blobs, and compiles to both.

An IR is read by any release, on any CPU. A blob opens faster, and only where it was compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source
from medattn_edge.backends.cpu_target import runs_on
from medattn_edge.backends.openvino.attention import fuse_attention
from medattn_edge.backends.openvino.layers import computed_layers, counts, deviations
from medattn_edge.backends.openvino.library import imported
from medattn_edge.backends.openvino.model import (
    BLOB,
    IR,
    NAME,
    WEIGHTS,
    compiled,
    configuration,
    is_pinned,
    loaded_from_cache,
    precision_of,
    read,
    translated,
)
from medattn_edge.backends.openvino.names import name_by_place
from medattn_edge.backends.session import Backend, GraphSession, Options, Patches, Session, closed
from medattn_edge.errors import HostError


class OpenVinoSession(GraphSession):
    """`image` in, `logits` (and `attention`) out; one run at a time, with all threads.

    Attributes:
        facts: `pinned` says whether its threads are tied to cores, `computed` how many layers are computed in which
            precision, `loaded_from_cache` whether the compiled model was taken from the folder that the environment
            variable MEDATTN_EDGE_MODEL_CACHE names (None: there is none).
    """

    def __init__(self, artifact: Artifact, options: Options) -> None:
        _check_device(options.device, artifact.path.name)
        ov, manifest = imported(), artifact.manifest
        precision = precision_of(manifest.target)
        self._lock = threading.Lock()
        self._compiled = compiled(
            ov,
            artifact.path,
            manifest,
            configuration(ov, precision, options.threads, shared_cores=options.shared_cores),
        )
        self._request: Any = self._compiled.create_infer_request()
        super().__init__(
            artifact.spec,
            batch=manifest.batch,
            attention_names=manifest.attention_maps,
            facts={
                "backend": NAME,
                **artifact.origin,
                "device": options.device,
                "threads": options.threads,
                "pinned": is_pinned(self._compiled),
                NAME: ov.__version__,
                "inference_precision": precision,
                "computed": counts(computed_layers(self._compiled)),
                "loaded_from_cache": loaded_from_cache(self._compiled),
            },
        )

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        with self._lock:
            if self._request is None:
                raise closed()
            try:
                outputs = self._request.infer({"image": patches}, share_inputs=False, share_outputs=False)
                return [np.asarray(outputs[name]) for name in names]
            except Exception as error:
                raise translated(error, "failed while running") from error

    def close(self) -> None:
        """Free the model's memory and threads."""
        with self._lock:
            self._request = self._compiled = None


def _check_device(device: str, name: str) -> None:
    if device != "cpu":
        raise HostError(
            f"{name} in OpenVINO on {device}, which would be CUDA",
            expected="the CPU, which is all that OpenVINO runs on here",
            hint="--device cpu",
        )


def _compile(
    source: Source, paths: Mapping[str, Path], settings: CompileSettings, progress: Progress | None
) -> dict[str, Any]:
    ov, report = imported(), progress or (lambda done, of: None)
    precision = settings.inference_precision
    chosen = configuration(ov, precision, settings.threads)
    report(0, 2)
    model = read(ov, source.path, source.manifest)
    fused = fuse_attention(model) if source.path.suffix.lower() == ".onnx" else []
    try:
        name_by_place(model)
        # An IR is compiled too: what this CPU makes of it is part of the record.
        compiled_model = ov.Core().compile_model(model, "CPU", chosen)
        report(1, 2)
        if BLOB in paths:
            paths[BLOB].write_bytes(compiled_model.export_model().getvalue())
            needs = runs_on(NAME, ov.__version__)
        else:
            ov.serialize(model, str(paths[IR]), str(paths[WEIGHTS]))  # weights as they are, never compressed to FP16
            needs = {NAME: ov.__version__}
    except OSError:
        raise
    except Exception as error:
        raise translated(error, f"cannot compile {source.path.name}") from error
    layers = computed_layers(compiled_model)
    report(2, 2)
    # BF16 is never called FP32; an INT8 or FP16 graph stays one, whatever the rest of it is computed in.
    plain = source.manifest.precision in ("fp32", "bf16")
    name = {"f32": "fp32", "bf16": "bf16"}[precision] if plain else source.manifest.precision
    return {
        "compiler": NAME,
        "precision": name,
        "runs_on": needs,
        "settings": {"inference_precision": precision},
        "fused_attention": fused,
        "computed": counts(layers),
        "deviations": deviations(layers, name),
    }


def _open(path: Path, options: Options) -> Session:
    return OpenVinoSession(Artifact.read(path), options)


BACKEND = Backend(
    name=NAME,
    suffixes=(IR, BLOB, ".onnx"),
    on_request=(".onnx",),
    extra=NAME,
    packages=(NAME,),
    open=_open,
)
COMPILER = Compiler(
    name=NAME,
    suffixes=(IR, BLOB),
    sources=(".onnx", IR),
    extra=NAME,
    packages=(NAME,),
    profile="cpu",
    compile=_compile,
    settings=("inference_precision", "threads"),
    companions=(WEIGHTS,),
)
