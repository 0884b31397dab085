"""What stands at the end of a graph: logits, or the activation that this house applies by itself."""

from __future__ import annotations

from typing import Any

from medattn_edge.errors import InputError

ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_SAME = ("Identity", "Dropout")  # the tensor itself, in evaluation
_LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Concat", "Slice", "Clip", "Flatten", *_SAME)
_DECISIONS = ("ArgMax", "Greater", "GreaterOrEqual", "Round", "Where", "TopK", "Less", "LessOrEqual")


def logits_before(model: Any, output: str, rank: int, name: str) -> tuple[str, str]:
    """The tensor of the logits behind an output, and the operator that was between them ("" for none).

    A Softmax over the channels or a Sigmoid that is the last node is passed over. One that something else follows is
    refused: its probabilities would be taken for logits.

    Args:
        model: a ModelProto.
        output: a tensor of it.
        rank: of the output.
        name: of the file, for errors.

    Raises:
        InputError: for an activation that cannot be cut off, and for decisions instead of scores.
    """
    producer = {made: node for node in model.graph.node for made in node.output}
    node = producer.get(output)
    while node is not None and node.op_type in _SAME:
        output = node.input[0]
        node = producer.get(output)
    if node is not None and node.op_type in ACTIVATIONS:
        if node.op_type != "Sigmoid":
            _check_axis(model, node, rank, name)
        return node.input[0], node.op_type
    waiting, seen = [node], set[str]()
    while waiting:
        one = waiting.pop()
        if one is None or one.output[0] in seen:
            continue
        seen.add(one.output[0])
        if one.op_type in ACTIVATIONS or one.op_type in _DECISIONS:
            what = "decisions, not scores" if one.op_type in _DECISIONS else "probabilities in another order"
            raise InputError(
                f"{name} ends with {_shown(one)} and then {', '.join(_after(model, one, output)) or 'nothing'}: {what}",
                expected="logits (N, K, *patch), or a Softmax over the channels or a Sigmoid as the last node",
                hint=f"--output-name '{one.input[0]}' takes what is before it",
            )
        if one.op_type in _LAYOUT:
            waiting += [producer.get(source) for source in one.input]
    return output, ""


def _check_axis(model: Any, node: Any, rank: int, name: str) -> None:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    default = -1 if opset >= 13 else 1
    axis = next((int(entry.i) for entry in node.attribute if entry.name == "axis"), default)
    flattens = opset < 13 and axis % rank != rank - 1  # before opset 13 it is over this axis and all that follow
    if axis % rank != 1 or flattens:
        over = f"axis {axis} and all after it" if flattens else f"axis {axis}"
        raise InputError(
            f"{name} ends with a {node.op_type} over {over}",
            expected="one over the channels, axis 1",
            hint=f"--output-name '{node.input[0]}' takes what is before it",
        )


def _after(model: Any, node: Any, output: str) -> list[str]:
    """The operators between a node and an output, in the order of the data."""
    users = {source: one for one in model.graph.node for source in one.input}
    names, at = list[str](), node.output[0]
    while at != output and at in users and len(names) < 8:
        names.append(users[at].op_type)
        at = users[at].output[0]
    return names


def _shown(node: Any) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else str(node.op_type)
