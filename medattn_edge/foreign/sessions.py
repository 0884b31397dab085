"""References: what a network from elsewhere computes, run as it came by its own runtime in FP32 on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.backends.torch.session import TorchSession, prepare_torch
from medattn_edge.errors import BackendError
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    import torch


class OriginalOnnx(Session):
    """A ModelProto in ONNX Runtime, not optimised: its own input, and any of its tensors as the logits.

    Args:
        model: with its weights inside; it is not changed.
        spec: what it expects.
        image: the name of its input.
        logits: the name of the tensor that is asked for.
        batch: its fixed N, or None.
        threads: of the CPU; 0 leaves it to the runtime.
    """

    def __init__(
        self, model: Any, spec: ModelSpec, image: str, logits: str, batch: int | None, threads: int = 0
    ) -> None:
        import onnxruntime as ort
        from onnx import TensorProto, helper

        model = copy.deepcopy(model)
        if logits not in {value.name for value in model.graph.output}:
            model.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = ort.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _translated(error, "cannot open") from error
        self._image, self._logits = image, logits
        super().__init__(spec, batch=batch, facts={"backend": "the file as it came", "onnxruntime": ort.__version__})

    def _run(self, patches: Patches) -> Patches:
        try:
            return np.asarray(self._session.run([self._logits], {self._image: patches})[0])
        except Exception as error:
            raise _translated(error, "failed while running") from error

    def close(self) -> None:
        """Free the model's memory and threads."""
        self._session = None


class OriginalTorch(TorchSession):
    """A torch program or module that answers one tensor (N, K, *patch), logits or what an activation made of them."""

    def __init__(
        self, run: Callable[[torch.Tensor], torch.Tensor], spec: ModelSpec, batch: int | None, threads: int = 0
    ) -> None:
        facts = {"backend": "the program as it came", **prepare_torch(Options(threads=threads))}
        super().__init__(spec, "cpu", run, fixed_patch=True, batch=batch, facts=facts)


class Activated(Session):
    """A session of logits that answers what the network made of them before its activation was cut off.

    From probabilities 0.5 is taken where one output stands for itself (Sigmoid), so that what is above 0 is still what
    is labelled.
    """

    def __init__(self, session: Session, activation: str) -> None:
        super().__init__(session.spec, batch=session.batch, fixed_patch=session.fixed_patch, facts=session.facts)
        self._session, self._activation = session, activation

    def _run(self, patches: Patches) -> Patches:
        logits = self._session.run(patches).astype(np.float64)
        if self._activation == "Sigmoid":
            answer = 0.5 * (1 + np.tanh(0.5 * logits)) - 0.5
        else:
            shifted = logits - logits.max(axis=1, keepdims=True)
            answer = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            answer = np.exp(answer) if self._activation == "Softmax" else answer
        return np.asarray(answer, np.float32)

    def close(self) -> None:
        """Close the session of the logits."""
        self._session.close()


class Centred(Session):
    """A session of sigmoids less 0.5; see Activated."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.spec, batch=session.batch, fixed_patch=session.fixed_patch, facts=session.facts)
        self._session = session

    def _run(self, patches: Patches) -> Patches:
        return np.asarray(self._session.run(patches) - np.float32(0.5))

    def close(self) -> None:
        """Close the session of the sigmoids."""
        self._session.close()


def _translated(error: Exception, what: str) -> BackendError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BackendError(
        f"ONNX Runtime {what} the file as it came: {lines[0]}",
        expected="a graph that it runs",
        hint="check the file with onnxruntime, or export it again",
    )
