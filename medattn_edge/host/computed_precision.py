"""In which precision a runtime would really compute an fp32, fp16 or int8 artifact on this host.

A runtime is named by the package that it is imported as; a device is `cpu` or `cuda:INDEX`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medattn_edge.host.hardware import Cpu, isa_class

PRECISIONS = ("fp32", "fp16", "int8")
_NOT_OFFERED = "not offered"
_TENSORRT = ("tensorrt", "tensorrt_rtx", "torch_tensorrt")
# NVIDIA's support matrices of TensorRT for RTX 1.0 to 1.5, read in 2026-11: neither A100 (sm80) nor Orin (sm87) nor
# Hopper (sm90), whatever names its library has; sm121 from 1.5. INT8 stands there as weight-only GEMM alone.
RTX_CAPABILITIES = ("sm75", "sm86", "sm89", "sm120", "sm121")
RTX_INT8 = (
    "nothing documents INT8 in TensorRT for RTX to be faster, where its maker lists weight-only GEMM alone, and it was "
    "not measured"
)
_OLDEST_TENSOR_CORES = 75  # the first compute capability, times ten, that current TensorRT versions build for


def computed_in(stored: str, runtime: str, device: str, *, provider: str = "", as_written: bool = False) -> str:
    """The precision in which a runtime computes most of a file of a precision: what it is compared and timed as.

    CPUs compute FP16 graphs in FP32 between casts; ONNX Runtime computes a Q/DQ graph in FP32 when it is run as it is
    written, and in its CUDA provider, which has no INT8 convolution.

    Args:
        stored: fp32, fp16, int8 or bf16.
        runtime: the package that it is imported as.
        device: cpu or cuda:INDEX.
        provider: of ONNX Runtime on a GPU; by default cuda.
        as_written: whether the graph is run without the runtime's own rewrites.
    """
    cuda_provider = runtime == "onnxruntime" and device != "cpu" and provider != "tensorrt"
    if stored == "fp16" and device == "cpu":
        return "fp32"
    if stored == "int8" and (cuda_provider or (runtime == "onnxruntime" and as_written)):
        return "fp32"
    return stored


def described(runtime: str, device: str, cpu: Cpu, facts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """fp32, fp16, int8 -> what `computed_in` says, with what a user should know of it on this host.

    Args:
        runtime: the package that it is imported as.
        device: cpu or cuda:INDEX.
        cpu: of the host.
        facts: what the runtime says of itself, see probe.py.
    """
    if runtime == "tritonclient":
        return dict.fromkeys(PRECISIONS, "as its server computes it")
    if runtime not in (*_TENSORRT, "torch", "onnxruntime", "openvino"):
        return dict.fromkeys(PRECISIONS, "not known")
    notes = _notes(runtime, device, cpu, facts or {})
    return {stored: notes.get(stored) or _plain(stored, computed_in(stored, runtime, device)) for stored in PRECISIONS}


def _plain(stored: str, computed: str) -> str:
    return stored if stored == computed else f"stored {stored}, computed in {computed}"


def _notes(runtime: str, device: str, cpu: Cpu, facts: Mapping[str, Any]) -> dict[str, str]:
    if runtime == "torch":
        return {"fp16": _NOT_OFFERED, "int8": _NOT_OFFERED}
    if runtime == "tensorrt_rtx":
        islands = "fp16, and fp32 in the graph's islands: recommended"
        return {"fp16": islands, "int8": "built, not documented to be faster, not measured: take fp16"}
    if runtime in _TENSORRT:
        return {"fp16": "fp16, and fp32 in the graph's islands", "int8": "int8 where the graph has Q/DQ"}
    if runtime == "onnxruntime" and device != "cpu":
        computed = computed_in("int8", runtime, device)
        return {
            "fp32": "fp32 (TF32 off)",
            "int8": f"Q/DQ computed in {computed}: the CUDA provider has no int8 convolution",
        }
    if runtime == "onnxruntime":
        return {"int8": onnxruntime_int8(cpu)}
    return {"fp32": openvino_fp32(str(facts.get("default_inference_precision", ""))), "int8": openvino_int8(cpu)}


def onnxruntime_int8(cpu: Cpu) -> str:
    """How ONNX Runtime's CPU provider computes a Q/DQ graph; it has no INT8 ConvTranspose anywhere."""
    if isa_class(cpu) == "arm":
        return (
            "int8 (S8S8, dot product)"
            if {"dotprod", "i8mm"} & set(cpu.instruction_sets)
            else "int8, slower: no dot product"
        )
    return "int8 (U8S8, VNNI)" if isa_class(cpu) == "x86-vnni" else "int8 (U8S8, 7-bit weights), slower: no VNNI"


def openvino_fp32(default: str) -> str:
    """What OpenVINO's FP32 is; `default` is the precision that it would take by itself, such as bf16."""
    other = default not in ("", "f32", "fp32", "float32")
    return f"fp32 (set by us; its own default here is {default})" if other else "fp32"


def openvino_int8(cpu: Cpu) -> str:
    """How OpenVINO's CPU plugin computes a quantised graph."""
    if isa_class(cpu) == "arm":
        return "int8 where the ARM plugin has a kernel, fp32 elsewhere"
    if {"amx_int8"} & set(cpu.instruction_sets):
        return "int8 (AMX)"
    return "int8 (VNNI)" if isa_class(cpu) == "x86-vnni" else "int8 (7-bit weights), slower: no VNNI"


def too_old_for_tensorrt(compute_capability: str) -> bool:
    """Whether a GPU, such as sm61, is older than current TensorRT versions build for."""
    number = compute_capability.removeprefix("sm")
    return number.isdigit() and int(number) < _OLDEST_TENSOR_CORES
