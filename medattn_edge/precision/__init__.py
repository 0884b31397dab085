"""Fewer bits: FP32 ONNX to FP16 and INT8, and whether a runtime computes what such a graph says."""

from medattn_edge.precision.calibration import calibrate
from medattn_edge.precision.settings import CalibrationSettings

__all__ = ["CalibrationSettings", "calibrate"]
