"""NNCF: post-training quantisation with bias correction, of an ONNX graph or of an OpenVINO model."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

from medattn_edge.backends.openvino.library import imported_nncf
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe

METHODS = ("minmax", "percentile")


def quantised(model: Any, calibration: Calibration, recipe: QuantizationRecipe, floating: list[str]) -> Any:
    """The quantised form of a ModelProto or an openvino.Model; `floating` are the names of nodes to leave alone.

    Activations asymmetric where they are signed, weights symmetric per output channel. Patches are taken one by one.
    """
    nncf = imported_nncf()
    with _quiet(nncf):
        return nncf.quantize(
            model,
            nncf.Dataset(calibration.patches, lambda patch: {"image": patch}),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration.patches),
            ignored_scope=nncf.IgnoredScope(names=floating, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Without VNNI the 16-bit sums of two products overflow unless weights have 7 bits.
                overflow_fix=_overflow_fix(recipe.isa),
                activations_range_estimator_params=_estimator(recipe.method),
            ),
        )


def _overflow_fix(isa: str) -> Any:
    from nncf.quantization.advanced_parameters import OverflowFix

    return OverflowFix.ENABLE if isa == "x86" else OverflowFix.DISABLE


def _estimator(method: str) -> Any:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    known = {"minmax": RangeEstimatorParametersSet.MINMAX, "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE}
    return known[method]


@contextlib.contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """NNCF draws bars on stdout and tells every node that it leaves alone; what counts is the check of the result."""
    logger = logging.getLogger("nncf")
    level, hushed = logger.level, logging.ERROR
    nncf.set_log_level(hushed)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level or logging.INFO)
