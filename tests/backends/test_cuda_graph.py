"""How an engine is run on a GPU: memory, stream, events and graph, on a stand-in for NVIDIA's runtime.

The stand-in does on the CPU what the real functions are documented to do, takes what the installed cuda-bindings take,
and refuses a call that these do not know. It proves the order of the calls and what becomes of errors; what a GPU makes
of them, test_tensorrt_gpu.py asks a GPU.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medattn_edge.backends.cuda.graph import CudaGraph, recorded
from medattn_edge.backends.cuda.memory import CudaStream, GpuLost, lost_by
from medattn_edge.backends.tensorrt.execution import Execution
from medattn_edge.backends.tensorrt.library import Listeners, Message, has_gpu
from medattn_edge.errors import BackendError, MissingDependency

real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

OK = real.cudaError_t.cudaSuccess
SHAPES = {"image": (2, 1, 3), "logits": (2, 1, 3), "attention": (2, 1, 3)}


class Gpu:
    """Queues work and does it when it is waited for, a millisecond each; `errors`: name of a call -> what it gives."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self.memory: dict[int, Any] = {}
        self.calls: list[str] = []
        self.alive: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.queued: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.events: dict[int, float] = {}
        self.timeless: set[int] = set()
        self.pinned: dict[int, Any] = {}
        self.now, self._next = 0.0, 1000

    def __getattr__(self, name: str) -> Any:
        given = getattr(real, name)
        if not callable(given) or isinstance(given, type):  # a flag or an enum
            return given
        done, parameters = getattr(type(self), f"_{name}"), inspect.signature(given)

        def call(*arguments: Any) -> tuple[Any, ...]:
            parameters.bind(*arguments)
            self.calls.append(name)
            answer = done(self, *arguments)
            failed = self.errors.get(name)
            if failed:
                return (getattr(real.cudaError_t, failed), *[None for _ in answer])
            return (OK, *answer)

        return call

    def add(self, work: Callable[[], None]) -> None:
        """Queue or record work."""
        (self.queued if self.recording is None else self.recording).append(work)

    def new(self) -> int:
        """A handle that must be freed."""
        self._next += 1
        self.alive.add(self._next)
        return self._next

    def free(self, handle: int) -> tuple[()]:
        """Frees it; twice is an error."""
        self.alive.remove(handle)
        return ()

    def _cudaSetDevice(self, index: int) -> tuple[()]:  # noqa: N802
        return ()

    def _cudaGetLastError(self) -> tuple[()]:  # noqa: N802
        return ()

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[int]:  # noqa: N802
        return (self.new(),)

    def _cudaEventCreateWithFlags(self, flags: int) -> tuple[int]:  # noqa: N802
        event = self.new()
        if flags == real.cudaEventDisableTiming:  # it tells no time, and may not be asked for it
            self.timeless.add(event)
        return (event,)

    def _cudaEventSynchronize(self, event: int) -> tuple[()]:  # noqa: N802
        assert event in self.events or any(getattr(work, "event", None) == event for work in self.queued)
        return self._cudaStreamSynchronize(0)

    def _cudaMallocHost(self, size: int) -> tuple[int]:  # noqa: N802
        block = (ctypes.c_byte * size)()
        address = ctypes.addressof(block)
        self.pinned[address] = block
        self.alive.add(address)
        return (address,)

    def _cudaMalloc(self, size: int) -> tuple[int]:  # noqa: N802
        address = self.new()
        self.memory[address] = (ctypes.c_byte * size)()
        return (address,)

    _cudaFree = _cudaEventDestroy = _cudaStreamDestroy = _cudaGraphDestroy = _cudaGraphExecDestroy = free  # noqa: N815
    _cudaFreeHost = free  # noqa: N815

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Any, stream: int) -> tuple[()]:  # noqa: N802
        assert self.recording is None, "only the network is recorded: the arrays of a run are not those of the next"
        up = kind == real.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert (to if up else source) in self.alive
        host = source if up else to
        assert any(0 <= host - start <= len(block) - size for start, block in self.pinned.items()), "not pinned"
        places = (self.memory[to], source) if up else (to, self.memory[source])
        self.add(lambda: ctypes.memmove(*places, size))
        return ()

    def _cudaEventRecord(self, event: int, stream: int) -> tuple[()]:  # noqa: N802
        def passed() -> None:
            self.events[event] = self.now

        passed.event = event  # type: ignore[attr-defined]
        self.add(passed)
        return ()

    def _cudaEventElapsedTime(self, start: int, end: int) -> tuple[float]:  # noqa: N802
        assert not self.queued, "not yet passed"
        assert not {start, end} & self.timeless
        return (self.events[end] - self.events[start],)

    def _cudaStreamSynchronize(self, stream: int) -> tuple[()]:  # noqa: N802
        assert self.recording is None
        for work in self.queued:
            work()
            self.now += 1.0
        self.queued.clear()
        return ()

    def _cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[()]:  # noqa: N802
        self.recording = []
        return ()

    def _cudaStreamEndCapture(self, stream: int) -> tuple[int]:  # noqa: N802
        assert self.recording is not None
        work, self.recording = self.recording, None
        graph = 0 if "cudaStreamEndCapture" in self.errors else self.new()
        self.graphs[graph] = work
        return (graph,)

    def _cudaGraphGetNodes(self, graph: int) -> tuple[list[Any], int]:  # noqa: N802
        return [], len(self.graphs[graph])

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int]:  # noqa: N802
        executable = 0 if "cudaGraphInstantiate" in self.errors else self.new()
        self.graphs[executable] = self.graphs[graph]
        return (executable,)

    def _cudaGraphLaunch(self, executable: int, stream: int) -> tuple[()]:  # noqa: N802
        assert executable in self.alive
        self.queued += self.graphs[executable]
        return ()


class Context:
    """An engine's context, as TensorRT has them: logits = 2 image, attention = image + 1; only for a shape it knows."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.places, self.shape = gpu, dict[str, int](), None
        self.enqueued, self.works = 0, True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.places[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.gpu.recording is None
        self.shape = shape
        return self.works

    def execute_async_v3(self, stream: int) -> bool:
        self.enqueued += 1
        size = int(np.prod(self.shape))
        arrays = {name: np.frombuffer(self.gpu.memory[place], np.float32)[:size] for name, place in self.places.items()}

        def work() -> None:
            arrays["logits"][:] = 2 * arrays["image"]
            arrays["attention"][:] = arrays["image"] + 1

        if self.works:
            self.gpu.add(work)
        return self.works


class RtxContext(Context):
    """One that can be asked."""

    capturable = True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.capturable


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """The stand-in, in the place of NVIDIA's module."""
    stand_in = Gpu()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", stand_in)
    return stand_in


@pytest.fixture
def stream(gpu) -> CudaStream:
    """On that GPU."""
    return CudaStream(0, "tensorrt")


def failed(heard: list[Message]) -> BackendError:
    return BackendError(f"failed: {'; '.join(one.text for one in heard)}", hint="compile it again")


def execution_on(stream: CudaStream, context: Context, listeners: Listeners | None = None) -> Execution:
    return Execution(context, stream, SHAPES, listeners or Listeners(), failed)


def run(execution: Execution, patches: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Answers that start as not-a-number, and the milliseconds."""
    answers = {name: np.full(patches.shape, np.nan, np.float32) for name in ("logits", "attention")}
    return answers, execution.run(patches, answers)


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, 3), np.float32)


def assert_right(patches: np.ndarray, answers: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(answers["logits"], 2 * patches)
    np.testing.assert_array_equal(answers["attention"], patches + 1)


def test_a_recorded_engine_answers_for_every_new_input_without_being_queued_again(gpu, stream):
    context = Context(gpu)
    execution = execution_on(stream, context)
    assert execution.record() == ""
    assert context.enqueued == 2  # once to warm up, once recorded
    for seed in range(3):
        patches = noise(2, seed)
        assert_right(patches, run(execution, patches)[0])
    assert context.enqueued == 2


def test_an_engine_that_is_not_recorded_takes_patches_in_parts(gpu, stream):
    execution = execution_on(stream, Context(gpu))
    for count in (1, 2, 3, 5):
        patches = noise(count, count)
        assert_right(patches, run(execution, patches)[0])


def test_the_host_fills_one_place_while_the_gpu_works_on_the_other(gpu, stream):
    execution = execution_on(stream, Context(gpu))
    patches = noise(7, 3)
    assert_right(patches, run(execution, patches)[0])  # makes the second place
    gpu.calls.clear()
    assert_right(patches, run(execution, patches)[0])
    done = [name for name in gpu.calls if name in ("cudaMemcpyAsync", "cudaEventSynchronize")]
    copies, wait = ["cudaMemcpyAsync"] * 3, ["cudaEventSynchronize"]
    # Of four parts the first is waited for when two are queued, and never more than two are.
    assert done == [*copies, *copies, *wait, *copies, *wait, *copies, *wait, *wait]
    assert "cudaMallocHost" not in gpu.calls


def test_what_a_failed_run_left_is_not_given_to_the_next(gpu, stream):
    context = Context(gpu)
    execution = execution_on(stream, context)
    patches = noise(5)
    first = {name: np.full(patches.shape, np.nan, np.float32) for name in ("logits", "attention")}
    gpu.errors["cudaEventSynchronize"] = "cudaErrorNotReady"
    with pytest.raises(BackendError, match="cudaErrorNotReady in cudaEventSynchronize"):
        execution.run(patches, first)
    gpu.errors.clear()
    assert_right(patches + 1, run(execution, patches + 1)[0])
    assert all(np.isnan(answer).all() for answer in first.values())


def test_the_time_lies_between_the_first_copy_in_and_the_last_copy_out(gpu, stream):
    execution = execution_on(stream, Context(gpu))
    steps = 5  # each step of the stand-in takes a millisecond: the copy in, the network, two copies out, the mark
    assert run(execution, noise(2))[1] == 1 + steps  # and the first event itself
    assert run(execution, noise(5))[1] == 1 + 3 * steps
    assert execution.record() == ""
    assert run(execution, noise(2))[1] == 1 + steps


def test_an_engine_that_says_it_cannot_be_recorded_runs_and_says_why(gpu, stream):
    context = RtxContext(gpu)
    context.capturable = False
    execution = execution_on(stream, context)
    assert "cannot be recorded" in execution.record()
    assert "cudaStreamBeginCapture" not in gpu.calls
    patches = noise(2)
    assert_right(patches, run(execution, patches)[0])
    context.capturable = True
    assert execution.record() == ""


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("cudaStreamBeginCapture", "cudaErrorStreamCaptureUnsupported"),
        ("cudaStreamEndCapture", "cudaErrorStreamCaptureInvalidated"),
        ("cudaGraphInstantiate", "cudaErrorNotSupported"),
        ("cudaGraphLaunch", "cudaErrorInvalidValue"),
    ],
)
def test_what_cannot_be_recorded_runs_as_before_and_says_why(call, error, gpu, stream):
    execution = execution_on(stream, Context(gpu))
    gpu.errors[call] = error
    assert execution.record() == f"{error} in {call}"
    assert gpu.calls[-1] == "cudaGetLastError"  # else TensorRT would find the error and take it for its own
    gpu.errors.clear()
    gpu.recording = None
    patches = noise(2)
    assert_right(patches, run(execution, patches)[0])
    stream.close()
    assert not gpu.alive


def test_work_that_queues_nothing_is_no_graph(gpu, stream):
    for queued in (True, False):
        assert "nothing is queued" in recorded(stream, lambda answer=queued: answer)
    assert "cudaGraphInstantiate" not in gpu.calls
    stream.close()
    assert not gpu.alive


def test_what_the_library_said_stands_beside_why_it_is_not_recorded(gpu, stream):
    listeners, context = Listeners(), Context(gpu)

    class Loud(Context):
        def execute_async_v3(self, stream: int) -> bool:
            if self.gpu.recording is None:
                return super().execute_async_v3(stream)
            listeners.tell(Message(1, "it allocates while it runs"))
            return False

    context = Loud(gpu)
    assert execution_on(stream, context, listeners).record().endswith("it allocates while it runs")


def test_recording_that_is_interrupted_is_ended(gpu, stream):
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(stream, interrupted)
    assert gpu.recording is None


def test_a_first_run_that_fails_is_an_error_and_no_missing_graph(gpu, stream):
    listeners, context = Listeners(), Context(gpu)
    context.works = False
    with pytest.raises(BackendError, match="failed"):
        execution_on(stream, context, listeners).record()
    gpu.errors["cudaStreamSynchronize"] = "cudaErrorIllegalAddress"
    with pytest.raises(GpuLost, match="cannot use the GPU any more"):  # says more than the library
        execution_on(stream, context, listeners).record()


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch"])
def test_a_gpu_that_is_gone_is_not_taken_for_a_missing_graph(call, gpu, stream):
    execution = execution_on(stream, Context(gpu))
    gpu.errors[call] = "cudaErrorLaunchFailure"
    with pytest.raises(GpuLost) as lost:
        execution.record()
    assert "restart the process" in lost.value.hint


def test_closing_frees_everything_once_and_the_latest_first(gpu, stream):
    execution = execution_on(stream, Context(gpu))
    assert execution.record() == ""
    # The stream; the buffers on the GPU and the pinned ones on the host; the clock's events and the mark; the graph.
    assert len(gpu.alive) == 1 + 2 * len(SHAPES) + 3 + 1
    gpu.calls.clear()
    stream.close()
    stream.close()
    assert not gpu.alive
    assert gpu.calls[:2] == ["cudaSetDevice", "cudaGraphExecDestroy"]
    assert gpu.calls[-1] == "cudaStreamDestroy"


def test_closing_a_gpu_that_is_gone_raises_nothing(gpu, stream):
    execution_on(stream, Context(gpu))
    gpu.errors |= dict.fromkeys(("cudaSetDevice", "cudaFree", "cudaStreamDestroy"), "cudaErrorIllegalAddress")
    stream.close()


def test_a_graph_is_launched_in_the_order_of_its_stream(gpu, stream):
    seen: list[int] = []
    graph = recorded(stream, lambda: gpu.add(lambda: seen.append(1)) is None)
    assert isinstance(graph, CudaGraph)
    assert seen == [1]
    gpu.add(lambda: seen.append(2))
    graph.launch()
    assert seen == [1]
    stream.synchronize()
    assert seen == [1, 2, 1]


def test_the_errors_that_take_the_gpu_have_nvidias_numbers():
    for error in real.cudaError_t:
        fatal = "process must be terminated" in " ".join((error.__doc__ or "").split())
        assert lost_by(int(error)) in ({error.name} if fatal else {error.name, ""})
    assert lost_by(700) == "cudaErrorIllegalAddress"
    for harmless in (None, 0, 2, 35, "700"):
        assert lost_by(harmless) == ""


@pytest.mark.skipif(has_gpu(), reason="this host has a GPU")
def test_without_a_gpu_the_real_runtime_says_so():
    with pytest.raises(BackendError, match="in cudaSetDevice") as refused:
        CudaStream(0, "tensorrt")
    assert "nvidia-smi" in refused.value.hint
    assert not isinstance(refused.value, GpuLost)


def test_without_the_bindings_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependency, match="tensorrt-rtx"):
        CudaStream(0, "tensorrt-rtx")
