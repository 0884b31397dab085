"""Shared memory of this host between a client and a Triton server: patches and answers are not sent, only named."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any
from uuid import uuid4

import numpy as np

from medattn_edge.backends.session import Patches
from medattn_edge.errors import BackendError, HostError

_NAMED = "shared memory region"  # as the server's errors name what it does not know, or cannot open


class SharedRegion:
    """Room for one request: the patches first, then each output; close it.

    Args:
        sizes: name of a tensor -> its bytes.

    Raises:
        HostError: this host has no room left for it.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes, self.registered = dict(sizes), False
        self._offsets, place = dict[str, int](), 0
        for name, size in sizes.items():
            self._offsets[name] = place
            place += -(-size // 64) * 64
        self._bytes = place
        self.name = f"medattn-edge-{uuid4().hex}"
        try:
            self._memory = SharedMemory(self.name, create=True, size=place)
        except OSError as error:
            raise HostError(
                f"no shared memory for {place / 1e6:.0f} MB: {error.strerror or error}",
                expected="room in /dev/shm",
                hint="df -h /dev/shm; or serve write without --shared-memory",
            ) from error

    def close(self) -> None:
        """Give it back; the server may still have it mapped until it forgets it."""
        self._memory.close()
        with suppress(FileNotFoundError):
            self._memory.unlink()

    def write(self, patches: Patches) -> None:
        """Put the patches where the server looks for them."""
        self._view("image", patches.shape)[...] = patches

    def read(self, name: str, shape: tuple[int, ...]) -> Patches:
        """A copy of an answer float32 of that shape, which has to fill its place."""
        if 4 * int(np.prod(shape, dtype=np.int64)) != self.sizes[name]:
            raise BackendError(
                f"the server answered with {name!r} of the shape {shape}",
                expected=f"{self.sizes[name]} bytes of float32",
                hint="compare the artifact with its checkpoint: medattn-edge compare",
            )
        return self._view(name, shape).copy()

    def refer(self, parameters: Any, name: str) -> None:
        """Say in a request's tensor where it is."""
        parameters["shared_memory_region"].string_param = self.name
        parameters["shared_memory_byte_size"].int64_param = self.sizes[name]
        parameters["shared_memory_offset"].int64_param = self._offsets[name]

    def register(self, stub: Any, messages: Any, timeout_s: float) -> None:
        """Have the server map it."""
        request = messages.SystemSharedMemoryRegisterRequest(
            name=self.name, key=f"/{self.name}", offset=0, byte_size=self._bytes
        )
        stub.SystemSharedMemoryRegister(request, timeout=timeout_s)
        self.registered = True

    def unregister(self, stub: Any, messages: Any, timeout_s: float) -> None:
        """Have the server forget it."""
        request = messages.SystemSharedMemoryUnregisterRequest(name=self.name)
        stub.SystemSharedMemoryUnregister(request, timeout=timeout_s)
        self.registered = False

    def _view(self, name: str, shape: tuple[int, ...]) -> Patches:
        return np.ndarray(shape, np.float32, self._memory.buf, self._offsets[name])


class Regions:
    """The regions of a session, one for each request in flight, each as large as the last one that needed it."""

    def __init__(self) -> None:
        self._free: queue.LifoQueue[SharedRegion] = queue.LifoQueue()
        self._closed = False

    def take(self, sizes: Mapping[str, int], stub: Any, messages: Any, timeout_s: float) -> SharedRegion:
        """One that nobody uses, of these sizes; an unfit one is given back first."""
        try:
            region = self._free.get_nowait()
        except queue.Empty:
            return SharedRegion(sizes)
        if region.sizes == dict(sizes):
            return region
        self._drop(region, stub, messages, timeout_s)
        return SharedRegion(sizes)

    def give(self, region: SharedRegion) -> None:
        """It is used no more."""
        if self._closed:  # the session was closed during a run
            region.close()
        else:
            self._free.put(region)

    def close(self, stub: Any, messages: Any, timeout_s: float) -> None:
        """Give all back."""
        self._closed = True
        while True:
            try:
                self._drop(self._free.get_nowait(), stub, messages, timeout_s)
            except queue.Empty:
                return

    @staticmethod
    def _drop(region: SharedRegion, stub: Any, messages: Any, timeout_s: float) -> None:
        import grpc

        with suppress(grpc.RpcError, ValueError):  # a server that is gone has forgotten it already
            if region.registered:
                region.unregister(stub, messages, timeout_s)
        region.close()


def is_unknown_region(error: Any) -> bool:
    """Whether an error of the server says that it does not know a region, as after it was started again."""
    return "unable to find" in (error.details() or "").lower() and _NAMED in (error.details() or "").lower()
