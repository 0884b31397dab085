"""In which precision a runtime would really compute an fp32, fp16 or int8 artifact on this host.

A runtime is named by the package that it is imported as; a device is `cpu` or `cuda:INDEX`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medattn_edge.host.hardware import Cpu, isa

NOT_OFFERED = "not offered"
_OLDEST_TENSOR_CORES = 75  # the first compute capability, times ten, that current TensorRT versions build for


def executed(runtime: str, device: str, cpu: Cpu, facts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """fp32, fp16, int8 -> what is executed. facts: what the runtime says of itself, see probe.py."""
    if runtime == "torch":
        return {"fp32": "fp32", "fp16": NOT_OFFERED, "int8": NOT_OFFERED}
    if runtime in ("tensorrt", "tensorrt_rtx", "torch_tensorrt"):
        return {
            "fp32": "fp32",
            "fp16": "fp16, and fp32 in the graph's islands",
            "int8": "int8 where the graph has Q/DQ",
        }
    if runtime == "onnxruntime" and device != "cpu":
        slow = "Q/DQ computed in fp32: the CUDA provider has no int8 convolution"
        return {"fp32": "fp32 (TF32 off)", "fp16": "fp16", "int8": slow}
    if runtime == "onnxruntime":
        return {"fp32": "fp32", "fp16": "stored fp16, computed in fp32", "int8": onnxruntime_int8(cpu)}
    if runtime == "openvino":
        default = str((facts or {}).get("default_inference_precision", ""))
        fp16 = "stored fp16, computed in fp32"
        return {"fp32": openvino_fp32(default), "fp16": fp16, "int8": openvino_int8(cpu)}
    return dict.fromkeys(("fp32", "fp16", "int8"), "not known")


def onnxruntime_int8(cpu: Cpu) -> str:
    """How ONNX Runtime's CPU provider computes a Q/DQ graph; it has no INT8 ConvTranspose anywhere."""
    if isa(cpu) == "arm":
        return "int8 (S8S8, dot product)" if {"dotprod", "i8mm"} & set(cpu.isa) else "int8, slower: no dot product"
    return "int8 (U8S8, VNNI)" if isa(cpu) == "x86-vnni" else "int8 (U8S8, 7-bit weights), slower: no VNNI"


def openvino_fp32(default: str) -> str:
    """What OpenVINO's FP32 is; `default` is the precision that it would take by itself, such as bf16."""
    other = default not in ("", "f32", "fp32", "float32")
    return f"fp32 (set by us; its own default here is {default})" if other else "fp32"


def openvino_int8(cpu: Cpu) -> str:
    """How OpenVINO's CPU plugin computes a quantised graph."""
    if isa(cpu) == "arm":
        return "int8 where the ARM plugin has a kernel, fp32 elsewhere"
    if {"amx_int8"} & set(cpu.isa):
        return "int8 (AMX)"
    return "int8 (VNNI)" if isa(cpu) == "x86-vnni" else "int8 (7-bit weights), slower: no VNNI"


def too_old_for_tensorrt(compute_capability: str) -> bool:
    """Whether a GPU, such as sm61, is older than current TensorRT versions build for."""
    number = compute_capability.removeprefix("sm")
    return number.isdigit() and int(number) < _OLDEST_TENSOR_CORES
