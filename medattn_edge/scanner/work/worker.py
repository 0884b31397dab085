"""The process that segments: it opens the models of one device, and works for the node until that is gone."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from medattn_edge.errors import MedattnError
from medattn_edge.process import Handler, Reply, leave_the_end_to_the_parent, serve
from medattn_edge.reasons import FAILED, OUT_OF_MEMORY
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.work.canary import CanaryError
from medattn_edge.scanner.work.segmenting import Segmenter
from medattn_edge.scanner.work.tasks import Done, Task, model_from_json
from medattn_edge.volume import Array

_ABSENT: Final = ("torch", "onnx", "safetensors")  # nothing of a trainer's belongs on a scanner host
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


def main(descriptor: int) -> NoReturn:
    """Serve the node at the other end of a socket, given by its file descriptor."""
    leave_the_end_to_the_parent()
    _end_with_the_thread_that_started_us()
    log = Log(allow=(FAILED, OUT_OF_MEMORY))
    served = _Served()
    with captured(log):
        serve(
            descriptor,
            {
                "open": _guarded(served.open, log),
                "segment": _guarded(served.segment, log),
                "modules": lambda *_: ({"modules": sorted(name for name in sys.modules if name in _ABSENT)}, ()),
            },
        )


def _end_with_the_thread_that_started_us() -> None:
    """By the kernel, and so also when this process is stopped, or hangs in a library that lets no thread run.

    Whoever is gone already is noticed by `serve`, at the other end of the socket.
    """
    if sys.platform == "linux":
        failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
        if failed:
            raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")


class _Served:
    """The segmenter of this process."""

    def __init__(self) -> None:
        self._segmenter: Segmenter | None = None

    def open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        models = [model_from_json(one) for one in request["models"]]
        segmenter = Segmenter(models, shared_cores=request["shared_cores"])
        canaries = segmenter.canaries(Path(request["root"]))
        self._segmenter = segmenter
        return {"canaries": canaries}

    def segment(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._segmenter is not None, "it is opened first"
        outcome = self._segmenter.work(Task.from_json(request["task"]))
        if isinstance(outcome, Done):
            return {"done": outcome.to_json()}
        return {"refused": {"reason": outcome.reason, "detail": outcome.detail}}


def _guarded(handler: Callable[[Mapping[str, Any]], dict[str, Any]], log: Log) -> Handler:
    """A handler whose errors are logged here, and reported by their codes: their texts may quote a data set."""

    def handle(request: dict[str, Any], arrays: list[Array]) -> Reply:
        try:
            return handler(request), ()
        except MemoryError:
            return {"lost": OUT_OF_MEMORY}, ()
        except MedattnError as error:
            log.failure("worker_failed", error)
            why = error.reason if isinstance(error, CanaryError) else error.code
            return {"lost": FAILED, "found": error.message, "why": why}, ()
        except Exception as error:  # noqa: BLE001 - a bug; the node tries once more in a new process, then quarantines
            log.failure("worker_failed", error)
            return {"lost": FAILED, "found": type(error).__name__, "why": "bug"}, ()

    return handle
