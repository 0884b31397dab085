"""TensorRT and TensorRT-RTX, which have one Python interface: how to import them, and what they log."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from medattn_edge.errors import HostError, MissingDependency
from medattn_edge.host.hardware import Gpu, gpus
from medattn_edge.installation import install_line


@dataclass(frozen=True)
class Library:
    """name: of the backend, and of the extra that installs it. package: to import. suffix: of its engines."""

    name: str
    package: str
    suffix: str


TENSORRT = Library("tensorrt", "tensorrt", ".engine")
TENSORRT_RTX = Library("tensorrt-rtx", "tensorrt_rtx", ".rtx")


@dataclass(frozen=True)
class Message:
    """A line of the library's log; severity: 0 internal error, 1 error, 2 warning."""

    severity: int
    text: str


class Listeners:
    """Who gets what the library logs; it logs from threads of its own."""

    def __init__(self) -> None:
        self._lock, self._all = threading.Lock(), list[list[Message]]()

    def tell(self, message: Message) -> None:
        """Pass a message to everyone who collects."""
        with self._lock:
            for one in self._all:
                one.append(message)

    @contextmanager
    def collecting(self) -> Iterator[list[Message]]:
        """The list that fills with what is logged until the block ends."""
        heard: list[Message] = []
        with self._lock:
            self._all.append(heard)
        try:
            yield heard
        finally:
            with self._lock:
                self._all = [one for one in self._all if one is not heard]


def has_gpu() -> bool:
    """Whether this host has an NVIDIA GPU with a driver; never raises."""
    return bool(gpus())


def gpu_at(index: int) -> Gpu:
    """The GPU with this index; raises HostError when the driver is missing or sees no such GPU."""
    present = gpus()
    if not present:
        raise HostError(
            "this host has no NVIDIA GPU with a driver that answers (CUDA)",
            expected=f"the GPU cuda:{index}",
            hint="check nvidia-smi; without a GPU, run the ONNX file it was made from: --device cpu",
        )
    here = [gpu for gpu in present if gpu.index == index]
    if not here:
        raise HostError(
            f"the NVIDIA driver sees {', '.join(f'cuda:{gpu.index}' for gpu in present)}, not cuda:{index}",
            expected="the device that was asked for",
            hint="--device cuda:0",
        )
    return here[0]


def imported(library: Library) -> Any:
    """The library's module; raises MissingDependency, or HostError when it is there and cannot be loaded."""
    try:
        return importlib.import_module(library.package)
    except ModuleNotFoundError as error:
        raise MissingDependency.of_extra(library.package, library.name) from error
    except (ImportError, OSError) as error:
        raise HostError(
            f"{library.package} is installed and cannot be loaded: {str(error).splitlines()[0]}",
            expected="its shared libraries",
            hint=install_line(library.name, again=True),
        ) from error


@cache
def log_of(library: Library) -> tuple[Any, Listeners]:
    """The logger of this process, and those who listen to it.

    One for all: the library keeps the first logger that it is given and ignores every other.
    """
    trt: Any = imported(library)
    listeners = Listeners()

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                listeners.tell(Message(int(severity), text))

    return Log(), listeners


def reasons(heard: list[Message]) -> list[str]:
    """What the errors say, each once and in one line, without the places in the library's source.

    That no driver answers is left out: a host without a GPU builds all the same, and says so each time.
    """
    lines = [_plain(one.text) for one in heard if one.severity <= 1]
    return list(dict.fromkeys(line for line in lines if line and "(cudaError 35" not in line))


def warnings(heard: list[Message]) -> list[str]:
    """What the warnings say, each once and in one line."""
    return list(dict.fromkeys(_plain(one.text) for one in heard if one.severity == 2))


def _plain(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    head, separator, rest = line.partition(".cpp:")
    if separator and " " not in head:  # "onnxOpImporters.cpp:1980: what it says"
        line = rest.partition(": ")[2]
    end = line.rfind(" In ")
    return line[:end].rstrip(" .(") if end > 0 and ".cpp:" in line[end:] else line
