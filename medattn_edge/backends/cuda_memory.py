"""Memory and a stream on one GPU, through NVIDIA's `cuda-bindings` and without torch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import BackendError, MissingDependency

# After one of these, every later call in the process fails: the GPU's context is gone for good (CUDA Runtime API,
# section Error Handling: "the process must be terminated and relaunched").
_STICKY = {
    *("cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable", "cudaErrorContained", "cudaErrorUnknown"),
    *("cudaErrorIllegalAddress", "cudaErrorLaunchTimeout", "cudaErrorContextIsDestroyed", "cudaErrorAssert"),
    *("cudaErrorHardwareStackError", "cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress"),
    *("cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc", "cudaErrorLaunchFailure", "cudaErrorTensorMemoryLeak"),
    "cudaErrorExternalDevice",
}


class CudaStream:
    """A stream of one GPU and the buffers used on it, all of them freed by `close`.

    Raises MissingDependency without the bindings, BackendError when CUDA fails.
    """

    def __init__(self, index: int, extra: str) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise MissingDependency.of_extra("cuda-bindings", extra) from error
        self._index, self._buffers = index, list[int]()
        self._stream: Any = None
        self.use()
        (self._stream,) = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream, as other libraries take it."""
        return int(self._stream)

    def use(self) -> None:
        """Make the GPU this thread's own; a thread that calls the session for the first time has GPU 0."""
        self._call("cudaSetDevice", self._index)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        (address,) = self._call("cudaMalloc", size)
        self._buffers.append(int(address))
        return int(address)

    def upload(self, array: npt.NDArray[np.float32], address: int) -> None:
        """Queue the copy of a C-contiguous array to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: npt.NDArray[np.float32]) -> None:
        """Queue the copy from the GPU into a C-contiguous array, which is full after `synchronize`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until everything queued is done; what failed on the way is raised here."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything; twice does no harm. What fails here was raised before, by the call that broke the GPU."""
        if self._stream is None:
            return
        self._cuda.cudaSetDevice(self._index)
        for address in self._buffers:
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self._stream)
        self._stream, self._buffers = None, []

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *answer = getattr(self._cuda, name)(*arguments)
        if int(code) != 0:
            raise cuda_error(name, code.name)
        return tuple(answer)


def cuda_error(call: str, name: str) -> BackendError:
    """What to say when `call` fails with the error `name` of CUDA's runtime, and what can be done about it."""
    if name in _STICKY:
        return BackendError(
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
