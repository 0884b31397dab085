"""Network -> ONNX through torch's exporter, then tidied: what a runtime sees is the network and nothing else."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.errors import BackendError, UsageError
from medattn_edge.exporters.exporter import Exporter, ExportSettings, Written
from medattn_edge.exporters.onnx_tidy import tidy
from medattn_edge.spec import ModelSpec


def write(module: nn.Module, spec: ModelSpec, settings: ExportSettings, path: Path) -> Written:
    """Input `image` (N, C, *patch), outputs `logits` and, if asked, `attention`; static sizes, N fixed or free."""
    import onnx

    # Two samples where N is free: torch.export would take a 1 for a constant.
    image = torch.zeros(settings.batch or 2, spec.in_channels, *spec.patch)
    names = ["logits", "attention"] if settings.attention else ["logits"]
    dynamic = None if settings.batch else ({0: torch.export.Dim("N")},)
    with _quiet():
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            opset_version=settings.opset,
            input_names=["image"],
            output_names=names,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise BackendError("torch exported nothing", expected="an ONNX program", hint="please report this bug")
    model = tidy(program.model_proto)
    _check_opset(model, settings.opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return Written(operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())))


def _check_opset(model: Any, requested: int) -> None:
    """torch's exporter keeps its own opset, with a message, when it cannot convert to another; we do not."""
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if written != requested:
        raise UsageError(
            f"this network cannot be written in opset {requested}",
            expected=f"an opset near {written}",
            hint=f"--opset {written}",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks: about torchvision, which we do not use, and of its own deprecated pieces."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


EXPORTER = Exporter(
    name="onnx",
    suffixes=(".onnx",),
    extra="export",
    packages=("torch", "onnx", "onnxscript", "onnxruntime"),
    write=write,
    session=OnnxRuntimeSession,
)
