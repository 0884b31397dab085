"""Ask one runtime what it is, in a process of its own: a runtime that raises or crashes on import takes only that down.

The process reads this file alone and nothing else of ours; the last line on its stdout is a JSON object.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

_SECONDS = 8.0  # for all packages together


@dataclass(frozen=True)
class Answer:
    """What a package said. error: why it cannot be imported, empty when it can. facts: JSON values, see `_FACTS`."""

    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def ask(packages: Iterable[str], seconds: float = _SECONDS) -> dict[str, Answer]:
    """Import every package, each in a fresh process and all at once; never raises, whatever they do."""
    end = time.monotonic() + seconds
    running = {
        name: subprocess.Popen(
            [sys.executable, "-P", "-c", f"import runpy; runpy.run_path({__file__!r})['tell']({name!r})"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        for name in packages
    }
    return {name: _answer(process, end, seconds) for name, process in running.items()}


def _answer(process: subprocess.Popen[str], end: float, seconds: float) -> Answer:
    with process:
        try:
            told, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return Answer(f"no answer within {seconds:g} s")
    try:
        return Answer(**json.loads(told.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        return Answer(f"the process that imported it ended with {ended}")


def _torch(torch: Any) -> dict[str, Any]:
    return {"cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available()}


def _onnxruntime(ort: Any) -> dict[str, Any]:
    return {"providers": ort.get_available_providers()}


def _openvino(ov: Any) -> dict[str, Any]:
    core = ov.Core()
    devices = list(core.available_devices)
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name() if "CPU" in devices else ""
    return {"devices": devices, "default_inference_precision": default}


def _pydicom(pydicom: Any) -> dict[str, Any]:
    """Which of the decoders that are installed can open each kind of compression."""
    kinds = {"RLE": "5", "JPEG": "4.51", "JPEG lossless": "4.70", "JPEG-LS": "4.80", "JPEG 2000": "4.90"}
    decoders = importlib.import_module("pydicom.pixels").get_decoder
    able = {kind: decoders(f"1.2.840.10008.1.2.{end}").available_plugins for kind, end in kinds.items()}
    return {"decoders": {kind: list(names) for kind, names in able.items()}}


def _nothing(package: Any) -> dict[str, Any]:
    return {}


_FACTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "pydicom": _pydicom,
}


def tell(name: str) -> None:
    """Import a package and write what it says of itself; called in a process of its own, see `ask`."""
    # openvino and nncf report to a web service through this package at import: see backends/openvino/library.py.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        found = _FACTS.get(name, _nothing)(importlib.import_module(name))
        answer = Answer(facts=found)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken package may raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        answer = Answer(f"{type(error).__name__}: {first}")
    sys.stdout.write("\n" + json.dumps(asdict(answer)) + "\n")
