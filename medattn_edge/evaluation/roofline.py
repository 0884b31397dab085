"""Roofline: the fastest that this host multiplies matrices, in FP32 and in INT8, with what is installed on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SECONDS = 120.0  # of one runtime
_RUNTIMES = ("numpy", "onnxruntime", "openvino")
_WORKER = "medattn_edge.evaluation.roofline_worker"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Peak:
    """The best of all runtimes, in 1e9 operations (2 x multiply-adds) per second; None where none could be measured.

    by: precision -> runtime -> what it reached. left_out: what was not measured, and why.
    """

    fp32_gflops: float | None
    int8_gops: float | None
    by: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def of(self, precision: str) -> float | None:
        """The peak of what computes in a precision on a CPU, where FP16 is FP32; None for those without, as BF16."""
        return {"fp32": self.fp32_gflops, "fp16": self.fp32_gflops, "int8": self.int8_gops}.get(precision)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        by = {precision: dict(found) for precision, found in self.by.items()}
        left_out = dict(self.left_out)
        return {"fp32_gflops": self.fp32_gflops, "int8_gops": self.int8_gops, "by": by, "left_out": left_out}


def peak(threads: int, seconds: float = 0.5) -> Peak:
    """Measure with a number of threads, each runtime alone in a process of its own; never raises for a runtime.

    seconds: of one kernel; the fastest run counts, so that a disturbance does not.
    """
    by: dict[str, dict[str, float]] = {"fp32": {}, "int8": {}}
    left_out: dict[str, str] = {}
    for name in _RUNTIMES:
        told = _ask(name, threads, seconds)
        for precision, value in told["found"].items():
            by[precision][name] = value
        left_out |= {f"{name} {what}".strip(): why for what, why in told["left_out"].items()}
    best = {precision: max(found.values(), default=None) for precision, found in by.items()}
    return Peak(best["fp32"], best["int8"], by, left_out)


def _ask(name: str, threads: int, seconds: float) -> dict[str, Any]:
    """What one runtime reaches; whatever it does to its process is a reason to leave it out."""
    start = f"import sys; sys.path[:] = {sys.path!r}; import {_WORKER} as worker; worker.tell"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"{start}({name!r}, {threads}, {seconds})"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
            timeout=_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        why = f"no answer within {_SECONDS:g} s"
    except (IndexError, ValueError, TypeError):
        why = f"its process ended with {done.returncode}"
    return {"found": {}, "left_out": {"": why}}
