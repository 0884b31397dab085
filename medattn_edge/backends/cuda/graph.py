"""CUDA graphs: work recorded once from a stream, and launched as a whole: one call instead of one for each kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medattn_edge.backends.cuda.memory import CudaStream, GpuLost
from medattn_edge.errors import BackendError


class CudaGraph:
    """Recorded work, which reads and writes the very addresses that it was recorded with; freed with its stream."""

    def __init__(self, stream: CudaStream, executable: Any) -> None:
        self._stream, self._executable = stream, executable
        stream.own("cudaGraphExecDestroy", executable)

    def launch(self) -> None:
        """Queue the work on the stream."""
        self._stream.call("cudaGraphLaunch", self._executable, self._stream.handle)


def recorded(stream: CudaStream, work: Callable[[], bool]) -> CudaGraph | str:
    """The graph of what `work` queues on the stream, launched once, or why there is none.

    work: queues, waits for nothing, and says whether it could queue; it has been done before without being recorded.
    Without a graph the stream is as it was before. Raises GpuLost when the GPU is gone.
    """
    try:
        graph = CudaGraph(stream, _instance(stream, work))
        graph.launch()  # the first launch prepares the GPU, which may fail for want of memory
        stream.synchronize()
        return graph
    except GpuLost:
        raise
    except BackendError as error:
        stream.api.cudaGetLastError()  # forget it, or the next who asks CUDA for errors takes it for his own
        return error.found


def _instance(stream: CudaStream, work: Callable[[], bool]) -> Any:
    mode = stream.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may allocate meanwhile
    stream.call("cudaStreamBeginCapture", stream.handle, mode)
    try:
        queued = work()
    except BaseException:  # whatever happened, the stream must stop recording
        stream.api.cudaStreamEndCapture(stream.handle)
        raise
    (graph,) = stream.call("cudaStreamEndCapture", stream.handle)
    try:
        _, count = stream.call("cudaGraphGetNodes", graph)
        if not queued or not count:  # an empty graph would leave the answer of the run before where it lies
            raise BackendError("nothing is queued while it is recorded", expected="a CUDA graph with nodes")
        (executable,) = stream.call("cudaGraphInstantiate", graph, 0)
    finally:
        stream.call("cudaGraphDestroy", graph)
    return executable
