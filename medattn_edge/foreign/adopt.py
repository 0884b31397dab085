"""An ONNX graph of anybody's in the form of our own: `image` in, `logits` out, static sizes, no shape arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medattn_edge.errors import BackendError, InputError, UsageError
from medattn_edge.exporters.onnx_tidy import MODULE, tidy
from medattn_edge.foreign.activation import logits_before
from medattn_edge.foreign.onnx_checks import check_graph, image_of, nodes_of, shape_of

IMAGE, LOGITS, FREE = "image", "logits", "N"
_IR = 8  # before 4, weights were inputs too


@dataclass(frozen=True)
class Adopted:
    """A graph in our form, and what it was before.

    Attributes:
        model: the ModelProto: float32 `image` (N, C, *patch) -> float32 `logits` (N, K, *patch).
        in_channels: C.
        outputs: K.
        patch: (H, W) or (D, H, W).
        image: the name of its input in the file.
        logits: the name of the tensor in the file that is `logits` here.
        activation: the operator that stood after the logits and is left out: Softmax, LogSoftmax, Sigmoid, or "".
        opset: of ONNX's own operators, as in the file.
        dropped: outputs of the file that are not in the graph any more.
    """

    model: Any
    in_channels: int
    outputs: int
    patch: tuple[int, ...]
    image: str
    logits: str
    activation: str
    opset: int
    dropped: tuple[str, ...]


def adopt(
    original: Any, name: str, *, patch: Sequence[int] | None = None, output: str = "", batch: int | None = 1
) -> Adopted:
    """Bring a graph to our form; the function stays the same.

    Args:
        original: a ModelProto with its weights inside; it is not changed.
        name: of the file, for errors.
        patch: (H, W) or (D, H, W), for an input whose sizes are free; None takes the file's.
        output: which output (or inner tensor) is the logits, where there are several.
        batch: the fixed N of the result, or None for any.

    Raises:
        InputError: for a graph that is no network from one image to logits of its size.
        UsageError: for a patch, a batch or an output that the graph does not have.
    """
    from onnx import inliner

    model = copy.deepcopy(original)
    if model.functions:
        model = inliner.inline_local_functions(model)
    check_graph(model, name)
    image = image_of(model, name)
    channels, sizes = _input_sizes(image, name, patch, batch)
    chosen = _output_of(model, name, output)
    dropped = tuple(value.name for value in model.graph.output if value.name != chosen)
    rank = 2 + len(sizes)
    logits, activation = logits_before(model, chosen, rank, name)
    _set_interface(model, image, logits, (batch, channels, *sizes))
    model = _folded(model, name, batch)
    shape = shape_of(model.graph.output[0])
    _check_answer(name, logits, (channels, *sizes), shape, model.graph.output[0])
    if shape[1] == 1 and activation not in ("", "Sigmoid"):
        raise InputError(
            f"{name} ends with a {activation} over one channel, which is 1 everywhere",
            expected="a Sigmoid for one output, or several outputs",
            hint=f"--output-name '{logits}' takes what is before it",
        )
    model = _tidied(model, name, batch)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Adopted(model, channels, shape[1], sizes, image.name, logits, activation, opset, dropped)


def _input_sizes(image: Any, name: str, patch: Sequence[int] | None, batch: int | None) -> tuple[int, tuple[int, ...]]:
    found = shape_of(image)
    text = f"{name} has the input {image.name} {_shown(found)}"
    if len(found) not in (4, 5):
        raise InputError(
            text, expected="(N, C, H, W) or (N, C, D, H, W)", hint="export the network for one image per sample"
        )
    if found[1] < 1:
        raise InputError(
            f"{text}, whose number of channels is free",
            expected="a fixed C",
            hint="export it again with dynamic axes for the batch and the sizes only",
        )
    if patch is not None and len(patch) != len(found) - 2:
        raise UsageError(
            f"a patch of {len(patch)} sizes for {text}",
            expected=f"{len(found) - 2} sizes",
            hint="--patch " + "x".join(["64"] * (len(found) - 2)),
        )
    if patch is None and min(found[2:]) < 1:
        raise UsageError(
            f"{text}, whose sizes are free",
            expected="the patch that it will see",
            hint="--patch " + "x".join(["96" if len(found) == 5 else "256"] * (len(found) - 2)),
        )
    sizes = tuple(patch or found[2:])
    if any(size not in (own, 0) and own > 0 for own, size in zip(found[2:], sizes, strict=True)):
        raise UsageError(
            f"the patch {'x'.join(map(str, sizes))} for {text}",
            expected="the sizes that it was exported for",
            hint="--patch " + "x".join(str(own or size) for own, size in zip(found[2:], sizes, strict=True)),
        )
    if min(sizes) < 2:
        raise InputError(
            f"{text}: a size of {min(sizes)} along an axis of space",
            expected="channels second, (N, C, *patch)",
            hint="put the channels second, and export again",
        )
    if found[0] > 0 and found[0] != batch:
        raise UsageError(
            f"a batch of {batch or 'any size'} for {text}",
            expected=f"its own batch of {found[0]}",
            hint=f"--batch {found[0]}",
        )
    return found[1], sizes


def _output_of(model: Any, name: str, wanted: str) -> str:
    outputs = [str(value.name) for value in model.graph.output]
    if wanted:
        inner = {made for node in model.graph.node for made in node.output}
        if wanted in outputs or wanted in inner:
            return wanted
        raise UsageError(
            f"{name} has no output {wanted!r}",
            expected=f"one of {', '.join(outputs)}, or the name of an inner tensor",
            hint=f"--output-name '{outputs[0]}'",
        )
    if len(outputs) != 1:
        listed = "; ".join(f"{value.name} {_shown(shape_of(value))}" for value in model.graph.output)
        raise UsageError(
            f"{name} has {len(outputs)} outputs: {listed}",
            expected="to be told which one is the logits",
            hint=f"--output-name '{outputs[0]}'",
        )
    return outputs[0]


def _set_interface(model: Any, image: Any, logits: str, shape: tuple[int | None, ...]) -> None:
    """One input and one output of our names; every size but a free N is a number, and no shape of before is left."""
    from onnx import TensorProto, helper

    graph = model.graph
    taken = {IMAGE, LOGITS} - {image.name, logits}
    renamed = {name: f"{name}_of_the_file" for name in taken} | {image.name: IMAGE, logits: LOGITS}
    for holder in nodes_of(graph):
        holder.input[:] = [renamed.get(name, name) for name in holder.input]
        holder.output[:] = [renamed.get(name, name) for name in holder.output]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    sizes = [FREE if size is None else size for size in shape]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, sizes))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None))
    model.ir_version = max(model.ir_version, _IR)


def _folded(model: Any, name: str, batch: int | None) -> Any:
    """Constants computed, BatchNorms in their convolutions, dead ends gone, every shape known."""
    import onnx
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import (
        fuse_batchnorm_into_conv_rule,
        fuse_batchnorm_into_conv_transpose_rule,
    )

    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        model = optimizer.optimize(model)
        model = rewriter.rewrite(model, [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule])
        del model.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        why = str(error).strip().splitlines()[-1]
        raise InputError(
            f"the shapes in {name} do not fit together at this patch: {why}",
            expected="a network that takes it",
            hint="--batch 1" if batch is None else "--patch with the size that it was trained for",
        ) from error


def _check_answer(name: str, logits: str, given: tuple[int, ...], found: list[int], value: Any) -> None:
    from onnx import TensorProto

    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        raise InputError(
            f"the output {logits} of {name} is {kind}",
            expected="logits in float32",
            hint="--output-name TENSOR takes what is before it: medattn-edge inspect lists the last ones",
        )
    if len(found) != len(given) + 1 or tuple(found[2:]) != given[1:] or found[1] < 1:
        raise InputError(
            f"{name} makes {logits} {_shown(found)} from an image {_shown([0, *given])}",
            expected=f"logits (N, K, {', '.join(map(str, given[1:]))}), of the size of the patch",
            hint="--output-name for another output, --patch for a size that comes out as it goes in",
        )


def _tidied(model: Any, name: str, batch: int | None) -> Any:
    import onnx

    _name_nodes(model)
    try:
        model = tidy(model)
    except BackendError as error:
        raise InputError(
            f"{name}: {error.found}",
            expected="a graph whose shapes are known before it runs",
            hint="--batch 1" if batch is None else "export it again, for one fixed size",
        ) from error
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == MODULE and not entry.value:
                entry.value = _scope(node.name)
    onnx.checker.check_model(model, full_check=True)
    return model


def _name_nodes(model: Any) -> None:
    """Every node a name of its own: what stays FP32, and what is searched, is named by it."""
    known = set[str]()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in known:
            node.name = f"{node.name or node.op_type}_{number}"
        known.add(node.name)


def _scope(name: str) -> str:
    """Where a node is, by its name: torch's exporters write /down/down.0/Conv for one of the module down.0."""
    parts = [part for part in name.split("/") if part]
    return parts[-2] if len(parts) > 1 else name


def _shown(sizes: Sequence[int]) -> str:
    names = ["N", *"?" * (len(sizes) - 1)][: len(sizes)]
    return "(" + ", ".join(str(size) if size > 0 else name for size, name in zip(sizes, names, strict=True)) + ")"
