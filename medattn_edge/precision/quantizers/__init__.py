"""Quantizers: one file per way from FP32 to INT8, each with its QUANTIZER record."""
