"""The process that segments: it opens the models of one device, and works for the node until that is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import MedattnError
from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.child import attach
from medattn_edge.reasons import FAILED, OUT_OF_MEMORY
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.work.canary import CanaryError
from medattn_edge.scanner.work.segmenting import Segmenter
from medattn_edge.scanner.work.tasks import Done, Task, model_from_json

_ABSENT: Final = ("torch", "onnx", "safetensors")  # nothing of a trainer's belongs on a scanner host
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


def main(descriptor: int) -> None:
    """Serve the node at the other end of a socket, given by its file descriptor; it never returns."""
    # The node decides when a worker ends: a terminal's Ctrl-C, and a service manager's SIGTERM, reach both.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _end_with_the_thread_that_started_us()
    attach(descriptor)
    log = Log(allow=(FAILED, OUT_OF_MEMORY))
    with captured(log), socket.socket(fileno=descriptor) as end, contextlib.suppress(EOFError):
        _serve(Channel(end), log)
    os._exit(0)  # a runtime that crashes while it is taken down has nothing left to say


def _end_with_the_thread_that_started_us() -> None:
    """By the kernel, and so also when this process is stopped, or hangs in a library that lets no thread run.

    Whoever is gone already is noticed by `attach`, at the other end of the socket.
    """
    if sys.platform == "linux":
        failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
        if failed:
            raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")


def _serve(channel: Channel, log: Log) -> None:
    segmenter: Segmenter | None = None
    while True:
        asked, _ = channel.receive()
        try:
            if segmenter is None:
                segmenter = Segmenter([model_from_json(one) for one in asked["models"]])
                answer: dict[str, Any] = {"canaries": segmenter.canaries(Path(asked["root"]))}
            else:
                answer = _answer(segmenter, asked)
        except MemoryError:
            answer = {"lost": OUT_OF_MEMORY}
        except MedattnError as error:
            log.failure("worker_failed", error)
            why = error.reason if isinstance(error, CanaryError) else error.code
            answer = {"lost": FAILED, "found": error.message, "why": why}
        except Exception as error:  # noqa: BLE001 - a bug; the node tries once more in a new process, then quarantines
            log.failure("worker_failed", error)
            answer = {"lost": FAILED, "found": type(error).__name__, "why": "bug"}
        channel.send(answer)


def _answer(segmenter: Segmenter, asked: Message) -> dict[str, Any]:
    if asked["do"] == "modules":
        return {"modules": sorted(name for name in sys.modules if name in _ABSENT)}
    found = segmenter.work(Task.from_json(asked["task"]))
    if isinstance(found, Done):
        return {"done": found.to_json()}
    return {"refused": {"reason": found.reason, "detail": found.detail}}
