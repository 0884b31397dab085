"""What a quantizer leaves to be done: energies of an attention from before the rounding to 8 bits, order, names."""

from __future__ import annotations

from typing import Any

from medattn_edge.precision.lint.graph import DEQUANTIZE, LAYOUT, QUANTIZE, QdqGraph
from medattn_edge.precision.onnx_graph import in_order, name_new_nodes


def finish(model: Any) -> None:
    """What every Q/DQ graph needs when its quantizer is done with it; changes a ModelProto in place."""
    spare_energies(model)
    in_order(model)
    name_new_nodes(model)
    model.producer_name, model.producer_version = "medattn-edge", ""


def spare_energies(model: Any) -> None:
    """Let the products that feed a Softmax read their factors past Q/DQ pairs; changes a ModelProto in place.

    A quantizer that rounds a tensor for one node rounds it for all that read it. With both factors rounded a runtime
    computes the product in integers, whose error an exponential then takes as its argument. Pairs that nobody reads any
    more go.
    """
    graph = QdqGraph(model)
    for product in graph.energies:
        for index, name in enumerate(product.input[:2]):
            reader, at = product, index
            before = graph.producer.get(name)
            while before is not None and before.op_type in LAYOUT:
                reader, at = before, 0
                before = graph.producer.get(before.input[0])
            if before is not None and before.op_type == DEQUANTIZE:
                rounding = graph.producer.get(before.input[0])
                if rounding is not None and rounding.op_type == QUANTIZE:
                    reader.input[at] = rounding.input[0]
    _drop_unread(model.graph)


def _drop_unread(graph: Any) -> None:
    kept = {output.name for output in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | kept
        idle = [node for node in graph.node if node.op_type in (QUANTIZE, DEQUANTIZE) and not read & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
