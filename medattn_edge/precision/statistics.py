"""Quantisation ranges of activations, gathered patch by patch: memory does not grow with the number of patches."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from medattn_edge.backends.session import Patches
from medattn_edge.errors import UsageError
from medattn_edge.precision.observe import ACTIVATION_BYTES, Progress, activations, ranges

METHODS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.999  # of the absolute values: what lies beyond is clipped
_BINS = {"percentile": 2048, "entropy": 128}
_QUANTISED_BINS = 128

Ranges = Mapping[str, tuple[float, float]]


def check_method(method: str) -> None:
    """Raise UsageError for a calibration method that is not known."""
    if method not in METHODS:
        raise UsageError(
            f"the method {method!r} is not known", expected=f"one of {', '.join(METHODS)}", hint="--method minmax"
        )


def activation_ranges(
    model: Any,
    names: Iterable[str],
    patches: Iterable[Patches],
    method: str = "minmax",
    threads: int = 0,
    progress: Progress | None = None,
    max_bytes: int = ACTIVATION_BYTES,
) -> dict[str, tuple[float, float]]:
    """Tensor -> the smallest and largest value to represent.

    The histograms are ONNX Runtime's; unlike its calibrators, which keep every activation until the end, each patch is
    forgotten once it is counted.

    Args:
        model: a ModelProto.
        names: of the tensors.
        patches: runs of the network's own batch.
        method: minmax: all that was seen; percentile: PERCENTILE of the absolute values; entropy: the threshold with
            the smallest Kullback-Leibler divergence between the values and their quantised form.
        threads: of the CPU; 0 leaves it to the runtime.
        progress: called with how many patches are done, and of how many.
        max_bytes: what one run may keep of a patch's tensors.

    Raises:
        UsageError: a method that is not known.
    """
    check_method(method)
    known = list(names)
    counted = _counted(patches, progress)
    if method == "minmax":
        return ranges(model, known, counted, threads)
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(method, method == "percentile", _BINS[method], _QUANTISED_BINS, PERCENTILE, "same")
    with contextlib.redirect_stdout(io.StringIO()):  # the collector prints every call
        for part in activations(model, known, counted, threads, max_bytes):
            collector.collect(dict(part))
        thresholds = collector.compute_collection_result()
    return {name: (float(values[0]), float(values[1])) for name, values in thresholds.items()}


def _counted(patches: Iterable[Patches], progress: Progress | None) -> Iterable[Patches]:
    total = len(patches) if isinstance(patches, Sized) else 0
    for index, patch in enumerate(patches):
        yield patch
        if progress is not None:
            progress(index + 1, total)
