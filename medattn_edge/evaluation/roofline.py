"""Roofline: the fastest that this host multiplies matrices, in FP32 and in INT8, with what is installed on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medattn_edge.process import Child, ChildLost

_TIMEOUT_S = 120.0  # of one runtime
_RUNTIMES = ("numpy", "onnxruntime", "openvino")
_WORKER = "medattn_edge.evaluation.roofline_worker"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Peak:
    """The best of all runtimes, in 1e9 operations (2 x multiply-adds) per second; None where none could be measured.

    Attributes:
        fp32_gflops: in FP32.
        int8_gops: in INT8.
        by: precision -> runtime -> what it reached.
        left_out: what was not measured -> why.
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


def peak(threads: int, duration_s: float = 0.5) -> Peak:
    """Measure with a number of threads, each runtime alone in a process of its own; never raises for a runtime.

    Args:
        threads: of each runtime.
        duration_s: of one kernel, in s; the fastest run counts, so that a disturbance does not.
    """
    by: dict[str, dict[str, float]] = {"fp32": {}, "int8": {}}
    left_out: dict[str, str] = {}
    for name in _RUNTIMES:
        measured = _measured(name, threads, duration_s)
        for precision, value in measured["reached"].items():
            by[precision][name] = value
        left_out |= {f"{name} {what}".strip(): why for what, why in measured["left_out"].items()}
    best = {precision: max(reached.values(), default=None) for precision, reached in by.items()}
    return Peak(best["fp32"], best["int8"], by, left_out)


def _measured(name: str, threads: int, duration_s: float) -> dict[str, Any]:
    """What one runtime reaches; whatever it does to its process is a reason to leave it out."""
    child = Child(_WORKER, environment=dict.fromkeys(_THREADS, str(threads)), quiet=True)
    try:
        request = {"do": "measure", "runtime": name, "threads": threads, "duration_s": duration_s}
        reply, _ = child.ask(request, timeout_s=_TIMEOUT_S)
    except ChildLost as lost:
        return {"reached": {}, "left_out": {"": f"its process {lost.how}"}}
    finally:
        child.close()
    return reply
