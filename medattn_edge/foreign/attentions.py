"""Attention in a graph of anybody's: which of its forms the precisions and the runtimes here know."""

from __future__ import annotations

from typing import Any, NamedTuple

_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_BETWEEN = (*_VIEWS, "Sub", "Neg", "Add", "Mul", "Div", "Cast", "Expand", "ReduceMax")
POSITION, CHANNEL, GATE = "position attention", "channel attention", "attention gate"


class Attention(NamedTuple):
    """An attention that was found.

    Attributes:
        kind: POSITION, softmax(Q K^T) V; CHANNEL, softmax of X X^T; GATE, a sigmoid that multiplies features.
        node: the name of its Softmax or Sigmoid.
        exact: whether OpenVINO computes a position attention without its matrix: three-dimensional operands, and
            nothing between the products and the softmax.
    """

    kind: str
    node: str
    exact: bool


def attentions(model: Any) -> tuple[Attention, ...]:
    """The attentions of a graph with known shapes, in its order."""
    producer = {made: node for node in model.graph.node for made in node.output}
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            users.setdefault(name, []).append(node)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    found = []
    for node in model.graph.node:
        if node.op_type == "Sigmoid" and any(user.op_type == "Mul" for user in users.get(node.output[0], [])):
            found.append(Attention(GATE, node.name, exact=True))
        if node.op_type == "Softmax" and _product_after(node, users):
            energy, direct = _energy(producer.get(node.input[0]), producer)
            if energy is None:
                continue
            same = len({_source(producer, name) for name in energy.input[:2]}) == 1
            three = len(shapes.get(energy.output[0], ())) == 3
            found.append(Attention(CHANNEL if same else POSITION, node.name, exact=same or (direct and three)))
    return tuple(found)


def notes_on(found: tuple[Attention, ...]) -> tuple[str, ...]:
    """What a person should know of the attentions of a graph."""
    names = {kind: [one for one in found if one.kind == kind] for kind in (POSITION, CHANNEL, GATE)}
    counted = [f"{len(ones)} {kind}{'s' if len(ones) > 1 else ''}" for kind, ones in names.items() if ones]
    notes = [f"found {', '.join(counted)}: their softmaxes and sigmoids stay FP32"] if counted else []
    if blocked := [one.node for one in names[POSITION] if not one.exact]:
        notes.append(
            f"{blocked[0]}{' and others' if len(blocked) > 1 else ''}: a position attention in a form of its own; it "
            "is computed with the whole matrix of its weights in every runtime"
        )
    return tuple(notes)


def _energy(node: Any, producer: dict[str, Any]) -> tuple[Any, bool]:
    """The product before a softmax, and whether nothing is between them."""
    direct = True
    while node is not None and node.op_type != "MatMul":
        if node.op_type not in _BETWEEN:
            return None, False
        direct = False
        node = next((producer[name] for name in reversed(node.input) if name in producer), None)
    return node, direct


def _product_after(softmax: Any, users: dict[str, list[Any]]) -> bool:
    waiting = list(users.get(softmax.output[0], []))
    while waiting:
        node = waiting.pop()
        if node.op_type == "MatMul":
            return True
        if node.op_type in (*_VIEWS, "Cast", "Dropout"):
            waiting += users.get(node.output[0], [])
    return False


def _source(producer: dict[str, Any], name: str) -> str:
    while name in producer and producer[name].op_type in _VIEWS:
        name = producer[name].input[0]
    return name
