"""The child of an IsolatedSession: it opens one artifact and answers for it until its parent is gone."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from medattn_edge.backends.cuda.memory import GpuLost
from medattn_edge.backends.session import Patches, Session
from medattn_edge.process import Reply, serve
from medattn_edge.process.channel import Message
from medattn_edge.spec import ModelSpec


def main(descriptor: int) -> NoReturn:
    """Serve the session at the other end of a socket, given by its file descriptor."""
    served = _Served()
    handlers = {"open": served.open, "run": served.run, "run_with_attention": served.run_with_attention}
    serve(descriptor, handlers, fatal=(GpuLost,))  # nothing here can use the GPU any more, and a new process can


class _Served:
    """The one session of this process."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def open(self, request: Message, arrays: list[Patches]) -> Reply:
        module, name = request["opener"].split(":")
        opener = getattr(importlib.import_module(module), name)
        options = dict(request["options"])
        spec = options.pop("spec")
        session: Session = opener(
            Path(request["path"]),
            backend=request["backend"],
            spec=None if spec is None else ModelSpec.from_json(spec),
            **options,
        )
        self._session = session
        described = {
            "spec": session.spec.to_json(),
            "batch": session.batch,
            "fixed_patch": session.fixed_patch,
            "attention_names": session.attention_names,
            "facts": session.facts,
        }
        return described, ()

    def run(self, request: Message, arrays: list[Patches]) -> Reply:
        return self._timed(lambda session: (session.run(*arrays),))

    def run_with_attention(self, request: Message, arrays: list[Patches]) -> Reply:
        return self._timed(lambda session: session.run_with_attention(*arrays))

    def _timed(self, call: Callable[[Session], tuple[Patches, ...]]) -> Reply:
        """How long it took here, without the way to the parent, and the answers."""
        session = self._session
        assert session is not None, "it is opened first"
        start = time.perf_counter()
        answers = call(session)
        return {"ms": (time.perf_counter() - start) * 1e3, "device_ms": session.device_ms}, answers
