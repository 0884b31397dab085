"""Which graphs a runtime computes as they are written: rules for FP32, FP16 and INT8 (Q/DQ) ONNX models.

Two profiles, as no INT8 file suits all: `cpu` for ONNX Runtime and OpenVINO, `tensorrt` for TensorRT 10, 11 and RTX.
A third, `tensorrt-rtx`, has the rules of `tensorrt` and what TensorRT for RTX adds: the files are the same.
Most of what is found here would build, run, and give other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medattn_edge.errors import InputError, UsageError
from medattn_edge.precision.lint import operators, pairs
from medattn_edge.precision.lint.graph import Fault, QdqGraph

if TYPE_CHECKING:
    from onnx import ModelProto

PROFILES = ("cpu", "tensorrt")
RTX = "tensorrt-rtx"
LINT_PROFILES = (*PROFILES, RTX)
ISAS = ("x86-vnni", "x86", "arm")
Severity = Literal["error", "warning"]
_NAMED = 3  # findings that `check` names


@dataclass(frozen=True)
class Finding:
    """What a rule has against a graph.

    Attributes:
        rule: its name.
        severity: error or warning.
        node: its name, empty for the graph as a whole.
        module: the path of the PyTorch module that it serves.
        reason: what is wrong.
        remedy: what to do.
    """

    rule: str
    severity: Severity
    node: str
    module: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """One rule of the lint.

    Attributes:
        name: that findings have.
        find: graph, instruction set -> faults.
        severity: profile -> how bad; a profile that is not named allows it, and tensorrt-rtx is as tensorrt.
        remedy: what to do about it.
    """

    name: str
    find: Callable[[QdqGraph, str], Iterator[Fault]]
    severity: Mapping[str, Severity]
    remedy: str

    def severity_in(self, profile: str) -> Severity | None:
        """How bad it is in a profile; None where that allows it."""
        return self.severity.get(profile) or (self.severity.get("tensorrt") if profile == RTX else None)


_BOTH: dict[str, Severity] = {"cpu": "error", "tensorrt": "error"}
_TENSORRT: dict[str, Severity] = {"tensorrt": "error"}
_CPU: dict[str, Severity] = {"cpu": "error"}
_SYMMETRIC = "quantise for TensorRT: activations symmetric INT8, zero-point 0"
_FLOAT = "leave this node out of the quantisation"
_ISLAND = "keep this node FP32 between casts"
_PAIR = "take the node out, or complete the QuantizeLinear/DequantizeLinear pair"

RULES = (
    Rule("constant-parameters", pairs.parameters, _BOTH, "store scales and zero-points as initializers"),
    Rule("scale", pairs.scale, _BOTH, "calibrate again on scans that reach this node"),
    Rule("zero-point", pairs.zero_point, _TENSORRT, _SYMMETRIC),
    Rule("unsigned", pairs.unsigned, _TENSORRT, _SYMMETRIC + ", said by an INT8 zero-point"),
    Rule("bias", pairs.bias, _TENSORRT, "quantise without the bias"),
    Rule("type", pairs.number_type(("INT8",), "a CPU runtime"), _CPU, "quantise to 8 bits"),
    Rule("type", pairs.number_type(("INT8", "INT4", "FLOAT8E4M3FN"), "TensorRT"), _TENSORRT, "quantise to INT8"),
    Rule("weight-axis", pairs.weight_axis, _TENSORRT, "axis 0 of Conv, 1 of ConvTranspose, the last of MatMul"),
    Rule("activation-channels", pairs.activation_channels, _TENSORRT, "one scale for all channels of an activation"),
    Rule("orphan", pairs.orphan, _TENSORRT, _PAIR),
    Rule("output-pair", pairs.output_pair, _TENSORRT, "quantise inputs only: take the pair out"),
    Rule("softmax", operators.softmax, _BOTH, _FLOAT),
    Rule("attention-product", operators.attention_product, _BOTH, _FLOAT),
    Rule("quantised-operator", operators.forbidden, {"cpu": "warning", "tensorrt": "error"}, _FLOAT),
    Rule("few-channels", operators.few_channels, {"tensorrt": "warning"}, _FLOAT + ": usually no slower, more exact"),
    Rule("operator", operators.foreign, _TENSORRT, "write Q/DQ around ONNX's own operators"),
    Rule("opset", operators.opset, {"tensorrt": "warning"}, "export again with --opset 18"),
    Rule("free-size", operators.free_sizes, _TENSORRT, "export with the patch's fixed sizes"),
    Rule("control-flow", operators.control, _TENSORRT, "export with constant shapes"),
    Rule("s8s8", operators.signed_activations, _CPU, "quantise activations to UINT8 (U8S8), or run it on ARM"),
    Rule("eight-bit-weights", operators.eight_bit_weights, _CPU, "quantise weights to 7 bits (reduce_range)"),
    Rule("transposed-3d", operators.transposed_3d, {"cpu": "warning"}, _FLOAT + ", or open the file in OpenVINO"),
    Rule("half-port", operators.half_ports, _BOTH, "make inputs and outputs FP32, with casts behind and before them"),
    Rule("half-island", operators.half_islands, _BOTH, _ISLAND),
    Rule("half-energy", operators.half_energy, _BOTH, _ISLAND),
    Rule("half-weight", operators.half_weights, _BOTH, _ISLAND),
    Rule("rtx-int8", operators.integers_in_rtx, {RTX: "warning"}, "FP16 for RTX: medattn-edge export --precision fp16"),
)


def lint(model: ModelProto, profile: str, isa: str = "x86-vnni") -> tuple[Finding, ...]:
    """What the rules of a profile have against a model, errors first; the file and this host play no part in it.

    Args:
        model: the graph.
        profile: one of LINT_PROFILES.
        isa: of the CPU that will run it, one of ISAS; the profile tensorrt does not look at it.

    Raises:
        UsageError: a profile or an isa that is not known.
    """
    for what, value, known in (("profile", profile, LINT_PROFILES), ("instruction set", isa, ISAS)):
        if value not in known:
            raise UsageError(
                f"the {what} {value!r} is not known",
                expected=f"one of {', '.join(known)}",
                hint=f"--{'isa' if known is ISAS else 'profile'} {known[0]}",
            )
    graph = QdqGraph(model)
    findings = [
        _finding(graph, rule, severity, fault)
        for rule in RULES
        if (severity := rule.severity_in(profile)) is not None
        for fault in rule.find(graph, isa)
    ]
    return tuple(sorted(findings, key=lambda finding: finding.severity))


def check(model: ModelProto, profile: str, isa: str = "x86-vnni") -> tuple[Finding, ...]:
    """The warnings about a model that is about to be built or run; raises InputError when there are errors."""
    findings = lint(model, profile, isa)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        named = "; ".join(f"{_where(one)}: {one.reason} [{one.rule}] ({one.remedy})" for one in errors[:_NAMED])
        more = f"; and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
        raise InputError(
            f"the graph breaks the {profile} rules: {named}{more}",
            expected="a graph without errors",
            hint=f"medattn-edge lint NAME.onnx --profile {profile}",
        )
    return findings


def _finding(graph: QdqGraph, rule: Rule, severity: Severity, fault: Fault) -> Finding:
    node = fault.node
    name = "" if node is None else node.name or f"{node.op_type} of {', '.join(node.output)}"
    module = "" if node is None else graph.module_of(node)
    return Finding(rule.name, severity, name, module, fault.reason, rule.remedy)


def _where(finding: Finding) -> str:
    return f"{finding.node or 'the graph'}{f' in {finding.module}' if finding.module else ''}"
