"""The child of a PartRunner: it opens a part of a graph, runs it, and forgets it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from medattn_edge.backends.parts import Floats, open_part
from medattn_edge.backends.session import Options
from medattn_edge.process import Reply, serve


def main(descriptor: int) -> NoReturn:
    """Serve a PartRunner at the other end of a socket, given by its file descriptor."""
    serve(descriptor, {"run": _run})


def _run(request: Mapping[str, Any], arrays: list[Floats]) -> Reply:
    device, threads, optimise, provider = request["options"]
    options = Options(device, threads, None, optimise, provider)
    part, count = open_part(request["backend"], Path(request["path"]), options), request["inputs"]
    answers = [part.run(arrays[start : start + count]) for start in range(0, len(arrays), count)]
    return {"outputs": len(answers[0])}, [one for answer in answers for one in answer]
