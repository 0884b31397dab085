"""Parts of graphs in a runtime: files with any inputs and outputs, which are no artifacts and have no spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medattn_edge.backends.runtimes import Runtime
from medattn_edge.backends.session import Options
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.process import Child, ChildLost

if TYPE_CHECKING:
    from typing_extensions import Self

Floats = npt.NDArray[np.float32]
Values = Mapping[str, Floats]
BACKENDS = ("onnxruntime", "openvino")  # that take any graph
_WORKER = "medattn_edge.backends.parts_worker"


class PartRunner:
    """Runs parts in one runtime, in a process of its own that is started again when a part has crashed it.

    Args:
        runtime: to run them in; its backend is one of BACKENDS.
        threads: of the CPU; 0 leaves it to the runtime.
        timeout_s: of opening a part and all its runs.
    """

    def __init__(self, runtime: Runtime, threads: int, timeout_s: float) -> None:
        self.runtime, self._threads, self._timeout_s = runtime, threads, timeout_s
        self._child: Child | None = None

    def run(self, path: Path, inputs: Sequence[str], runs: Sequence[Values]) -> list[list[Floats]]:
        """The outputs of a part, in its order, for each run.

        Args:
            path: NAME.onnx, or NAME.xml for OpenVINO.
            inputs: the names of its inputs, in its order.
            runs: for each, name -> float32 values.

        Raises:
            BackendError: when the runtime cannot open it, fails, crashes or takes too long.
        """
        runtime = self.runtime
        if self._child is None or not self._child.alive:
            self._child = Child(_WORKER, environment=runtime.environment)
        request = {
            "do": "run",
            "path": str(path),
            "backend": runtime.backend,
            "options": [runtime.device, self._threads, runtime.optimise, runtime.provider],
            "inputs": len(inputs),
        }
        arrays = [np.ascontiguousarray(values[name], np.float32) for values in runs for name in inputs]
        try:
            reply, answers = self._child.ask(request, arrays, timeout_s=self._timeout_s)
        except ChildLost as lost:
            raise BackendError(
                f"the runtime {lost.how}", expected="an answer for a part of the graph", hint="another --runtime"
            ) from None
        count = reply["outputs"]
        return [list(answers[start : start + count]) for start in range(0, len(answers), count)]

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_as_written(path: Path, inputs: Sequence[str], runs: Sequence[Values], threads: int = 0) -> list[list[Floats]]:
    """The same of an .onnx part node by node, without optimisation, in this process: what the graph means."""
    part = open_part("onnxruntime", path, Options(threads=threads, optimise=False))
    return [part.run([values[name] for name in inputs]) for values in runs]


class Part:
    """An open part."""

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Floats]:
        """Its outputs for its inputs, both in its order; what it keeps in half precision is converted."""
        raise NotImplementedError


def open_part(backend: str, path: Path, options: Options) -> Part:
    """A part, opened with the settings that sessions of the backend have; raises BackendError, HostError."""
    return {"onnxruntime": _OnnxRuntimePart, "openvino": _OpenVinoPart}[backend](path, options)


class _OnnxRuntimePart(Part):
    def __init__(self, path: Path, options: Options) -> None:
        from medattn_edge.backends.onnxruntime import inference_session

        self._session = inference_session(path, options)
        self._inputs = self._session.get_inputs()

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Floats]:
        from medattn_edge.backends.onnxruntime import translated

        named = {one.name: _as(array, "float16" in one.type) for one, array in zip(self._inputs, arrays, strict=True)}
        try:
            return [np.asarray(answer).astype(np.float32) for answer in self._session.run(None, named)]
        except Exception as error:
            raise translated(error, "failed while running a part of the graph") from error


class _OpenVinoPart(Part):
    def __init__(self, path: Path, options: Options) -> None:
        from medattn_edge.backends.openvino.library import imported
        from medattn_edge.backends.openvino.model import configuration, translated

        ov = imported()
        settings = configuration(ov, "f32", options.threads)
        try:
            self._compiled = ov.Core().compile_model(str(path), "CPU", settings)
        except MedattnError:
            raise
        except Exception as error:
            raise translated(error, "cannot compile a part of the graph") from error

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[Floats]:
        from medattn_edge.backends.openvino.model import translated

        half = [one.get_element_type().get_type_name() == "f16" for one in self._compiled.inputs]
        given = {index: _as(array, half[index]) for index, array in enumerate(arrays)}
        try:
            answers = self._compiled.create_infer_request().infer(given, share_inputs=False, share_outputs=False)
            return [np.asarray(answers[index]).astype(np.float32) for index in range(len(self._compiled.outputs))]
        except Exception as error:
            raise translated(error, "failed while running a part of the graph") from error


def _as(array: npt.NDArray[Any], half: bool) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # an overflow is what may be looked for
        return array.astype(np.float16) if half else array
