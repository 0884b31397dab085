"""What is measured: network x backend x precision x patch, as data. How it is measured lives in medattn_edge.

Three cases are published layouts with deterministic weights (`tests/models/vectors`), three the same layouts with the
weights that a training starts from. Neither has learnt anything, so no real scan means anything to them: they are
calibrated on smooth random images and judged on other ones, by SQNR.
Those that are trained are calibrated on slices that they learnt from, and judged by the true labels of slices that were
held out: the published widths of `train_published.py`, which are what people deploy, and the small shipped ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from medattn_edge import gates
from medattn_edge.agreement import Thresholds

FP32 = Thresholds(min_sqnr_db=gates.FP32.limits["min_sqnr_db"])
FP32_ON_GPU = FP32
BY_TRUTH = {
    "fp32": FP32,
    "fp16": Thresholds(**{**gates.FP16.limits, "min_true_dice_share": 0.9995}),
    "int8": gates.TRUE_LABELS.thresholds,
}


def by_sqnr(int8_db: float) -> dict[str, Thresholds]:
    """The gates of a network that has learnt nothing."""
    return {"fp32": FP32, "fp16": gates.FP16_NOISE.thresholds, "int8": Thresholds(min_sqnr_db=int8_db)}


class Case(NamedTuple):
    """One network at one size.

    source: `LAYOUT` of tests/models/vectors/keys, the name of a trained checkpoint, or empty for a network of these
    settings, channels and classes with deterministic weights. gates: precision that was asked for -> what it must keep.
    calibration, held_out: patches. trials: INT8 graphs to judge at most, when layers must stay in floating point.
    initial: the weights that a training starts from, instead of the deterministic ones. trained: it has learnt
    something.
    """

    name: str
    network: str
    source: str
    channels: int
    classes: int
    patch: tuple[int, ...]
    gates: Mapping[str, Thresholds]
    settings: Mapping[str, Any] = {}
    calibration: int = 8
    held_out: int = 4
    trials: int = 1
    batch: int = 1
    initial: bool = False
    trained: bool = False


PUBLISHED = (
    Case("attention-unet-2d", "attention-unet-2d", "attu_net_leejunhyun", 3, 1, (256, 256), by_sqnr(50.0)),
    Case("self-guided", "self-guided", "ms_dual_guided_resnext101_96d76f2", 1, 5, (256, 256), by_sqnr(44.0)),
    Case(
        "attention-unet-3d",
        "attention-unet-3d",
        "agn_multi_dsv",
        1,
        4,
        (96, 96, 96),
        by_sqnr(34.0),
        {"gates": "multi"},
        calibration=4,
        held_out=2,
    ),
)
SHIPPED = (
    Case(
        "lungs-attention-unet-2d",
        "attention-unet-2d",
        "lungs-attention-unet-2d",
        1,
        3,
        (128, 128),
        BY_TRUTH,
        calibration=20,
        held_out=10,
        trials=8,
        trained=True,
    ),
    Case(
        "lungs-self-guided",
        "self-guided",
        "lungs-self-guided",
        1,
        3,
        (128, 128),
        BY_TRUTH,
        calibration=20,
        held_out=10,
        trials=8,
        trained=True,
    ),
)


def _published(network: str, classes: int, patch: tuple[int, ...], calibration: int, held_out: int) -> Case:
    name = f"{network}-published"
    return Case(name, network, name, 1, classes, patch, BY_TRUTH, {}, calibration, held_out, trials=8, trained=True)


# The published widths, as `train_published.py` trains them: left out where they have not been trained.
TRAINED = (
    _published("attention-unet-2d", 4, (128, 128), 20, 10),
    _published("self-guided", 4, (128, 128), 20, 10),
    _published("attention-unet-3d", 4, (32, 96, 96), 8, 6),
)
# The deterministic weights make networks that amplify what is rounded: INT8 stays below the floors that it reaches from
# the weights that a training starts from, whose logits hardly depend on the image. The speed is the same.
INITIAL = tuple(case._replace(name=f"{case.name}-initial", initial=True) for case in PUBLISHED)
CASES = (*TRAINED, *SHIPPED, *PUBLISHED, *INITIAL)


class Form(NamedTuple):
    """One way to run a network: a row.

    name: the row's `artifact`. made: the function of `artifacts.py` that makes its file. precision: what it is computed
    in, which is not always what was asked for. asked: the gate that it is held to. opener: of a peer. runs: the name
    that the row's `backend` has, where it is not the backend itself.
    """

    name: str
    made: str
    backend: str
    precision: str
    asked: str
    opener: str = "medattn_edge.backends:open_session"
    runs: str = ""
    device: str = "cpu"


REFERENCE = Form("eager", "checkpoint", "eager", "fp32", "fp32")
OURS = (
    Form("fused.torchscript", "torchscript", "torchscript", "fp32", "fp32"),
    Form("fused.onnx", "onnx", "onnxruntime", "fp32", "fp32"),
    Form("fused.xml", "openvino", "openvino", "fp32", "fp32"),
    Form("fp16.onnx", "fp16", "onnxruntime", "fp32", "fp16"),  # a CPU computes FP16 graphs in FP32, between casts
    Form("int8-nncf.onnx", "int8_nncf", "onnxruntime", "int8", "int8"),
    Form("int8-ort.onnx", "int8_ort", "onnxruntime", "int8", "int8"),
    Form("int8.xml", "int8_openvino", "openvino", "int8", "int8"),
    # What stays in floating point is computed in BF16 where the CPU has it: attention and grouped convolutions, mostly.
    Form("int8-bf16.xml", "int8_bf16", "openvino", "int8", "int8"),
)
PLAIN = Form("plain.onnx", "plain", "onnxruntime", "fp32", "fp32", "peers:open_onnxruntime", "onnxruntime-defaults")
_INT8_OPENERS = {
    "onnxruntime-defaults": "peers:open_onnxruntime",
    "openvino-defaults": "peers:open_openvino",
    "openvino-f32": "peers:open_openvino_f32",
    "inductor, pt2e": "peers:open_torch_int8",
}


def _int8_peer(name: str, made: str, backend: str, runs: str) -> Form:
    return Form(name, made, backend, "int8", "int8", _INT8_OPENERS[runs], runs)


# What somebody who knows OpenVINO would type: the peer to beat in INT8.
NNCF = _int8_peer("nncf.quantize", "nncf_default", "openvino", "openvino-f32")
PEERS = (
    Form("torch.compile", "checkpoint", "eager", "fp32", "fp32", "peers:open_torch_compile", "inductor"),
    Form("max-autotune", "checkpoint", "eager", "fp32", "fp32", "peers:open_max_autotune", "inductor, max-autotune"),
    Form("optimize_for_inference", "checkpoint", "eager", "fp32", "fp32", "peers:open_torch_jit", "torch.jit"),
    PLAIN,
    # It is asked for an FP32 graph and answers in BF16 where the CPU has it: held to what was asked for.
    Form("plain.onnx in OpenVINO", "plain", "openvino", "default", "fp32", "peers:open_openvino", "openvino-defaults"),
    Form("plain.onnx in OpenVINO, f32", "plain", "openvino", "fp32", "fp32", "peers:open_openvino_f32", "openvino-f32"),
    _int8_peer("quantize_static.onnx", "quantize_static", "onnxruntime", "onnxruntime-defaults"),
    _int8_peer("quantize_static.onnx, recommended", "quantize_recommended", "onnxruntime", "onnxruntime-defaults"),
    _int8_peer("quantize_dynamic.onnx", "quantize_dynamic", "onnxruntime", "onnxruntime-defaults"),
    NNCF,
    _int8_peer("nncf.quantize, default precision", "nncf_default", "openvino", "openvino-defaults"),
    _int8_peer("nncf with accuracy control", "nncf_accuracy", "openvino", "openvino-f32"),
    _int8_peer("torchao pt2e", "torch_int8", "eager", "inductor, pt2e"),
)
EAGER_ON_GPU = Form("eager on CUDA", "checkpoint", "eager", "fp32", "gpu", device="cuda:0")
GPU = (
    EAGER_ON_GPU,
    Form("fused.engine", "engine", "tensorrt", "fp32", "gpu", device="cuda:0"),
    Form("fp16.engine", "engine_fp16", "tensorrt", "fp16", "fp16", device="cuda:0"),
    Form("int8.engine", "engine_int8", "tensorrt", "int8", "int8", device="cuda:0"),
    Form("fused.rtx", "rtx", "tensorrt-rtx", "fp32", "gpu", device="cuda:0"),
    Form("fp16.rtx", "rtx_fp16", "tensorrt-rtx", "fp16", "fp16", device="cuda:0"),
    Form("int8.rtx", "rtx_int8", "tensorrt-rtx", "int8", "int8", device="cuda:0"),
)
# Paired ratios beside the one to eager: field -> the row that its time is divided by.
BASELINES = {"ratio_to_plain_onnx": PLAIN.name, "ratio_to_nncf": NNCF.name, "ratio_to_eager_cuda": EAGER_ON_GPU.name}
