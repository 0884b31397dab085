"""Times of a GPU's work by CUDA events: points in a stream that the GPU itself stamps as it passes them."""

from __future__ import annotations

from typing import Any

from medattn_edge.backends.cuda.memory import CudaStream


class Stopwatch:
    """The time between two points of a stream, to about 0.5 microseconds; its events are freed with the stream.

    Everything that the GPU does between the two counts, and so does its waiting for the host to queue it.
    """

    def __init__(self, stream: CudaStream) -> None:
        self._stream = stream
        self._start, self._end = self._event(), self._event()

    def _event(self) -> Any:
        (event,) = self._stream.call("cudaEventCreateWithFlags", self._stream.api.cudaEventDefault)
        self._stream.own("cudaEventDestroy", event)
        return event

    def start(self) -> None:
        """Queue the first point."""
        self._stream.call("cudaEventRecord", self._start, self._stream.handle)

    def stop(self) -> None:
        """Queue the second point."""
        self._stream.call("cudaEventRecord", self._end, self._stream.handle)

    def milliseconds(self) -> float:
        """Between the two points, once the stream has passed both: after `synchronize`."""
        (elapsed,) = self._stream.call("cudaEventElapsedTime", self._start, self._end)
        return float(elapsed)
