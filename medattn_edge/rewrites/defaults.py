"""Which rewrites a file for one runtime is made with, when nobody says which."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medattn_edge.errors import UsageError
from medattn_edge.rewrites.plan import ALWAYS_GOOD, changed

# By the name of the exporter or of the compiler that writes the file. Against BatchNorm folding alone, medians of
# paired ratios on a 2-core Xeon with AMX that was not quiet (2-D, self-guided, 3-D; published layouts): ONNX Runtime
# FP32 1.07, 1.11, 1.02; OpenVINO FP32 1.19, 1.12, 1.14; OpenVINO INT8 1.09, 1.00, 1.11. What costs in one of them
# (pixel-shuffle: 0.85 in ONNX Runtime; attention-inputs: 0.92 in OpenVINO) is for `compile --tune` to try.
#
# With winograd beside them OpenVINO is 1.15 and 1.21 times as fast again in FP32 (2-D, self-guided), for a file that is
# 2.0 and 1.3 times as large; ONNX Runtime gains 1.05 and 1.07 only. supervision-products: OpenVINO INT8 1.16, FP32
# 1.03, ONNX Runtime 1.00; not measured in TensorRT, which does not pad channels to 16.
_TENSORRT = ALWAYS_GOOD - {"supervision-products"}
DEFAULTS: dict[str, frozenset[str]] = {
    "onnx": ALWAYS_GOOD,  # read by several runtimes and in several precisions: nothing that pays in one alone
    "torchscript": ALWAYS_GOOD,
    "onnxruntime": ALWAYS_GOOD,
    "openvino": ALWAYS_GOOD | {"winograd"},  # it makes one operation of a position attention by itself
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
    "torch-tensorrt": _TENSORRT,
}
# The self-guided network attends at a quarter of the patch's size, and its weights have a row per position: 64 MiB with
# this many, 1 GiB with four times as many. Beyond it they are computed a block at a time. ONNX Runtime is faster with
# blocks long before; the figures are in position_attention.py.
MAX_POSITIONS = 4096
MAX_POSITIONS_IN = {"onnxruntime": 1024}
_REDUCTION = 16


def defaults(runtime: str, patch: Sequence[int]) -> tuple[str, ...]:
    """The names of the rewrites, in the order in which they are applied.

    Args:
        runtime: an exporter or a compiler.
        patch: sizes (H, W) or (D, H, W) of the input.

    Raises:
        UsageError: for a runtime that has no entry.
    """
    if runtime not in DEFAULTS:
        raise UsageError(
            f"no rewrites are known for {runtime!r}",
            expected=f"one of {', '.join(DEFAULTS)}",
            hint=next(iter(DEFAULTS)),
        )
    attends = len(patch) == 2  # no 3-D network has position attention
    long = attends and math.prod(patch) / _REDUCTION > MAX_POSITIONS_IN.get(runtime, MAX_POSITIONS)
    return changed(DEFAULTS[runtime], ("position-blocks",) if long else ())
