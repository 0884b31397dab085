"""A cohort that is killed before one of its calls to the system or the network, and then goes on; for each such call.

python -m tests.support.killed_cohort ARTIFACT SCANS FOLDER FIRST STEP

prints one JSON line for each kill: what was killed, which cases were whole then, which of them the next run did again,
and what lies in the folder in the end.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medattn_edge.artifact import sha256
from medattn_edge.backends.session import Session
from medattn_edge.cohort import CohortSettings, segment_cohort

# Loaded before the children are, so that each of them is quick.
LIBRARIES = ("onnxruntime", "nibabel", "scipy.ndimage", "medattn_edge.io.overlay", "medattn_edge.backends.onnxruntime")
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


def killed_before(number: int) -> list[str]:
    """Have this process killed before its nth such call; the names of the calls so far."""
    seen: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            seen.append(name)
            if len(seen) == number:
                os.write(1, f"{name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))
    Session.run_any = counted("network", Session.run_any)
    return seen


def run(artifact: Path, scans: Path, folder: Path, resume: bool) -> dict[str, Any]:
    settings = CohortSettings(overlay="{case}.png", resume=resume)
    outcome = segment_cohort(artifact, scans, folder, settings=settings).to_json()
    return {"done": [one["case"] for one in outcome["done"]], "skipped": outcome["skipped"]}


def in_child(work: Callable[[], dict[str, Any] | None]) -> tuple[bool, str]:
    """Whether a child ended by itself, and the last line that it printed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 1)
        code = 1
        try:
            os.write(1, f"{json.dumps(work())}\n".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the cohort failed")
    return os.WIFEXITED(status), text.splitlines()[-1]


def whole_in(folder: Path) -> list[str]:
    """The cases that are done: with a record, or whole and not moved out yet."""
    records = {path.stem for path in folder.glob("*.json")}
    return sorted(records | {path.stem for path in folder.glob(".medattn-edge-cohort/*.whole")})


def main() -> None:
    artifact, scans, root = map(Path, sys.argv[1:4])
    number, step = map(int, sys.argv[4:6])
    for library in LIBRARIES:
        importlib.import_module(library)
    while True:
        folder = root / str(number)

        def first(folder: Path = folder, number: int = number) -> None:
            killed_before(number)
            run(artifact, scans, folder, False)

        ended, call = in_child(first)
        whole = whole_in(folder)
        _, text = in_child(lambda folder=folder: run(artifact, scans, folder, True))  # type: ignore[misc]
        found = {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}
        about = {"call": "" if ended else call, "number": number, "whole": whole, **json.loads(text), "files": found}
        sys.stdout.write(json.dumps(about) + "\n")
        sys.stdout.flush()
        if ended:
            return
        number += step


if __name__ == "__main__":
    main()
