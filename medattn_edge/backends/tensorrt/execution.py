"""An engine at work: one execution context, its buffers on the GPU, one stream, its clock and its CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from medattn_edge.backends.cuda.events import Stopwatch
from medattn_edge.backends.cuda.graph import CudaGraph, recorded
from medattn_edge.backends.cuda.memory import CudaStream
from medattn_edge.backends.session import Patches
from medattn_edge.backends.tensorrt.library import Listeners, Message, reasons
from medattn_edge.errors import BackendError

IMAGE = "image"


class _Place:
    """Where one part waits on the host: its input, its answers, and the mark behind the GPU's work on them."""

    def __init__(self, stream: CudaStream, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._stream = stream
        self.arrays = {name: stream.pinned(shape) for name, shape in shapes.items()}
        self._mark, self._answers = stream.mark(), dict[str, Patches]()

    def put(self, patches: Patches) -> Patches:
        """Copy the input of a part here."""
        image = self.arrays[IMAGE][: len(patches)]
        image[:] = patches
        return image

    def expect(self, answers: Mapping[str, Patches]) -> None:
        """Everything that is queued so far fills this place; `take` will copy it to `answers`."""
        self._answers = dict(answers)
        self._stream.set_mark(self._mark)

    def forget(self) -> None:
        """Nobody waits any more for what a run that failed left here."""
        self._answers = {}

    def take(self) -> None:
        """Wait for the GPU, and copy the answers of the part that is here, if one is, to where they belong."""
        if self._answers:
            self._stream.wait_for(self._mark)
        for name, answer in self._answers.items():
            answer[:] = self.arrays[name][: len(answer)]
        self._answers = {}


class Execution:
    """One run after the other: it has one set of buffers, all of them freed with the stream.

    Everything goes through pinned memory, which the GPU copies by itself. Where patches need several parts there are
    two places of it: the host fills and empties one while the GPU works on the other.

    context: of TensorRT or TensorRT-RTX. shapes: of `image` and of every output, with the most patches of one part.
    failed: makes the error from what the library logged.
    """

    def __init__(
        self,
        context: Any,
        stream: CudaStream,
        shapes: Mapping[str, tuple[int, ...]],
        listeners: Listeners,
        failed: Callable[[list[Message]], BackendError],
    ) -> None:
        self._context, self._stream, self._shape = context, stream, shapes[IMAGE]
        self._listeners, self._failed = listeners, failed
        self._graph: CudaGraph | None = None
        self._shapes, self._addresses = dict(shapes), dict[str, int]()
        for name, shape in shapes.items():
            self._addresses[name] = stream.allocate(4 * int(np.prod(shape)))
            context.set_tensor_address(name, self._addresses[name])
        self._places = [_Place(stream, self._shapes)]
        self._clock = Stopwatch(stream)

    def record(self) -> str:
        """Run once on zeros, then record the run for every later one; why it cannot be recorded, empty when it is.

        Only for an engine whose batch is fixed: a graph is good for one shape. Raises BackendError when that first run
        fails.
        """
        stream, context = self._stream, self._context
        stream.upload(self._places[0].put(np.zeros(self._shape, np.float32)), self._addresses[IMAGE])
        self._enqueue(self._shape)  # the first run allocates, and TensorRT-RTX compiles: neither can be recorded
        stream.synchronize()
        ask = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX knows; TensorRT is tried
        if ask is not None and not ask(stream.handle):
            return "TensorRT-RTX says that this engine's work cannot be recorded"
        with self._listeners.collecting() as heard:
            graph = recorded(stream, lambda: bool(context.execute_async_v3(stream.handle)))
        if isinstance(graph, str):
            return "; ".join([graph, *reasons(heard)[:2]])
        self._graph = graph
        return ""

    def run(self, patches: Patches, answers: Mapping[str, Patches]) -> float:
        """Fill the answers, part by part; the milliseconds between two CUDA events.

        The first stands in the stream before the input is copied to the pinned memory, the second behind the copy of
        the last answer out of it. Between them lie all copies and the network.
        """
        stream, most = self._stream, self._shape[0]
        stream.use()
        if len(patches) > most and len(self._places) == 1:
            self._places.append(_Place(stream, self._shapes))
        for place in self._places:
            place.forget()
        self._clock.start()
        for number, start in enumerate(range(0, len(patches), most)):
            part, place = slice(start, start + most), self._places[number % len(self._places)]
            place.take()  # of the part before the last one
            stream.upload(place.put(patches[part]), self._addresses[IMAGE])
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue(patches[part].shape)
            for name, answer in answers.items():
                stream.download(self._addresses[name], place.arrays[name][: len(answer[part])])
            place.expect({name: answer[part] for name, answer in answers.items()})
        for place in self._places:
            place.take()
        self._clock.stop()
        stream.synchronize()
        return self._clock.milliseconds()

    def _enqueue(self, shape: tuple[int, ...]) -> None:
        with self._listeners.collecting() as heard:
            started = self._context.set_input_shape(IMAGE, shape)
            started = started and self._context.execute_async_v3(self._stream.handle)
        if not started:
            self._stream.synchronize()  # says more when it was the GPU that failed
            raise self._failed(heard)
