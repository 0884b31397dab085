"""Memory and a stream on one GPU, through NVIDIA's `cuda-bindings` and without torch."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import BackendError, MissingDependency

# After one of these, every later call in the process fails: the GPU's context is gone for good (CUDA Runtime API,
# section Error Handling: "the process must be terminated and relaunched").
_STICKY = {
    "cudaErrorECCUncorrectable": 214,
    "cudaErrorNvlinkUncorrectable": 220,
    "cudaErrorContained": 226,
    "cudaErrorIllegalAddress": 700,
    "cudaErrorLaunchTimeout": 702,
    "cudaErrorContextIsDestroyed": 709,
    "cudaErrorAssert": 710,
    "cudaErrorHardwareStackError": 714,
    "cudaErrorIllegalInstruction": 715,
    "cudaErrorMisalignedAddress": 716,
    "cudaErrorInvalidAddressSpace": 717,
    "cudaErrorInvalidPc": 718,
    "cudaErrorLaunchFailure": 719,
    "cudaErrorTensorMemoryLeak": 721,
    "cudaErrorMpsClientTerminated": 810,
    "cudaErrorExternalDevice": 911,
    "cudaErrorUnknown": 999,
}


class GpuLost(BackendError):
    """Nothing in this process can use the GPU any more; a new process can."""


class CudaStream:
    """A stream of one GPU and what was made on it, all of it freed by `close`.

    api: NVIDIA's module of CUDA's runtime. Raises MissingDependency without it, GpuLost after an error from which only
    a new process recovers, BackendError when CUDA fails otherwise.
    """

    def __init__(self, index: int, extra: str) -> None:
        try:
            self.api: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise MissingDependency.of_extra("cuda-bindings", extra) from error
        self._index, self._owned = index, list[tuple[str, Any]]()
        self._stream: Any = None
        self.use()
        (self._stream,) = self.call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream, as other libraries take it."""
        return int(self._stream)

    def use(self) -> None:
        """Make the GPU this thread's own; a thread that calls the session for the first time has GPU 0."""
        self.call("cudaSetDevice", self._index)

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """What a function of CUDA's runtime returns behind its error code."""
        code, *answer = getattr(self.api, name)(*arguments)
        if int(code) != 0:
            raise cuda_error(name, code.name)
        return tuple(answer)

    def own(self, free: str, handle: Any) -> None:
        """Have `close` free a handle with the function of this name, the latest handle first."""
        self._owned.append((free, handle))

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        (address,) = self.call("cudaMalloc", size)
        self.own("cudaFree", int(address))
        return int(address)

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """An array of this shape in memory of the host that the GPU copies by itself; gone with the stream."""
        count = int(np.prod(shape))
        (address,) = self.call("cudaMallocHost", 4 * count)
        self.own("cudaFreeHost", int(address))
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(int(address))).reshape(shape)

    def mark(self) -> Any:
        """A mark in the stream, which `wait_for` waits for."""
        (event,) = self.call("cudaEventCreateWithFlags", self.api.cudaEventDisableTiming)
        self.own("cudaEventDestroy", event)
        return event

    def set_mark(self, event: Any) -> None:
        """Put a mark behind everything that is queued."""
        self.call("cudaEventRecord", event, self._stream)

    def wait_for(self, event: Any) -> None:
        """Wait until the GPU has passed a mark; what failed on the way is raised here."""
        self.call("cudaEventSynchronize", event)

    def upload(self, array: npt.NDArray[np.float32], address: int) -> None:
        """Queue the copy of a C-contiguous array to the GPU."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: npt.NDArray[np.float32]) -> None:
        """Queue the copy from the GPU into a C-contiguous array, which is full after `synchronize`."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until everything queued is done; what failed on the way is raised here."""
        self.call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything; twice does no harm. What fails here was raised before, by the call that broke the GPU."""
        if self._stream is None:
            return
        self.api.cudaSetDevice(self._index)
        for free, handle in reversed(self._owned):
            getattr(self.api, free)(handle)
        self.api.cudaStreamDestroy(self._stream)
        self._stream, self._owned = None, []


def cuda_error(call: str, name: str) -> BackendError:
    """What to say when `call` fails with the error `name` of CUDA's runtime, and what can be done about it."""
    if name in _STICKY:
        return GpuLost(
            f"{name} in {call}: this process cannot use the GPU any more",
            expected="a run of the network",
            hint="restart the process; dmesg | grep NVRM says more when it comes back",
        )
    if name == "cudaErrorMemoryAllocation":
        return BackendError(
            f"the GPU has too little free memory ({call})",
            expected="room for the network's input and output",
            hint="nvidia-smi shows who uses it; else a smaller --batch or --patch",
        )
    return BackendError(f"{name} in {call}", expected="a GPU that answers", hint="check nvidia-smi")


def lost_by(code: object) -> str:
    """The name of the error with this number if it takes the GPU from its process, else nothing."""
    return next((name for name, number in _STICKY.items() if number == code), "")
