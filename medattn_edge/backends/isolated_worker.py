"""The child of an IsolatedSession: it opens one artifact and answers for it until its parent is gone."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import socket
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.backends.cuda.memory import GpuLost
from medattn_edge.backends.session import Patches, Session
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.child import attach
from medattn_edge.spec import ModelSpec

_STATUS = Path("/proc/self/status")
_KIB = 1024


def main(descriptor: int) -> None:
    """Serve the session at the other end of a socket, given by its file descriptor; it never returns."""
    attach(descriptor)
    with socket.socket(fileno=descriptor) as end, contextlib.suppress(EOFError):
        _serve(Channel(end))
    os._exit(0)  # a runtime that crashes while it is taken down has nothing left to say


def _serve(channel: Channel) -> None:
    session: Session | None = None
    while True:
        asked, patches = channel.receive()
        try:
            if session is None:
                session = _opened(asked)
                answer, arrays = _described(session), list[Patches]()
            else:
                answer, arrays = _answers(session, asked["do"], patches)
        except GpuLost as error:  # nothing here can use the GPU any more: this process ends, and a new one can
            channel.send({**_refusal(error), "lost": True})
            return
        except MedattnError as error:
            answer, arrays = _refusal(error), []
        except MemoryError:
            answer, arrays = _refusal(_out_of_memory()), []
        except Exception:  # noqa: BLE001 - a bug, which the parent raises with this traceback
            answer, arrays = {"bug": traceback.format_exc()}, []
        channel.send(answer, arrays)


def _opened(asked: Message) -> Session:
    module, name = asked["opener"].split(":")
    opener = getattr(importlib.import_module(module), name)
    options = dict(asked["options"])
    spec = options.pop("spec")
    opened: Session = opener(
        Path(asked["path"]),
        backend=asked["backend"],
        spec=None if spec is None else ModelSpec.from_json(spec),
        **options,
    )
    return opened


def _described(session: Session) -> dict[str, Any]:
    return {
        "spec": session.spec.to_json(),
        "batch": session.batch,
        "fixed_patch": session.fixed_patch,
        "attention_names": session.attention_names,
        "facts": session.facts,
        "peak_rss_mb": _peak_rss_mb(),
    }


def _answers(session: Session, name: str, patches: Sequence[Patches]) -> tuple[dict[str, Any], list[Patches]]:
    """How long it took here, without the way to the parent, and the answers."""
    start = time.perf_counter()
    answers = (session.run(*patches),) if name == "run" else session.run_with_attention(*patches)
    took = {"ms": (time.perf_counter() - start) * 1e3, "device_ms": session.device_ms}
    took["peak_rss_mb"] = _peak_rss_mb()
    return took, [np.ascontiguousarray(answer) for answer in answers]  # it is sent as it lies in memory


def _peak_rss_mb() -> float:
    """The most memory that this process has held, in 1e6 bytes.

    Linux counts what the parent held before exec in ru_maxrss; VmHWM is that of this program alone.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _KIB / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 1e6


def _refusal(error: MedattnError) -> dict[str, Any]:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return {"error": {"kinds": kinds, "found": error.found, "expected": error.expected, "hint": error.hint}}


def _out_of_memory() -> BackendError:
    return BackendError("memory ran out", expected="room for the patches and their logits", hint="a smaller --batch")
