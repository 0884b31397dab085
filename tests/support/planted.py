"""Faults planted in ONNX files, each in one layer that a PyTorch module names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.exporters import random_patches
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.onnx_graph import Graph, module_of
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.precision.statistics import activation_ranges
from tests.support.sessions import make_volume

Plant = Callable[[Any], None]


def planted(artifact: Path, path: Path, *plants: Plant) -> Path:
    """The artifact with faults, under a manifest that was made to fit: nothing but its numbers gives it away."""
    model = onnx.load(str(artifact))
    for plant in plants:
        plant(model)
    onnx.save(model, str(path))
    replace(Artifact.read(artifact).manifest, sha256=sha256(path)).write(manifest_path(path))
    return path


def written(parent: Path, path: Path, **facts: Any) -> Path:
    """A file made from an artifact becomes one itself."""
    Artifact.read(parent).manifest.child(sha256=sha256(path), **facts).write(manifest_path(path))
    return path


def quantised(parent: Path, quantizer: str, profile: str, folder: Path | None = None) -> Path:
    """Its Q/DQ form by one of our quantizers."""
    artifact, model = Artifact.read(parent), onnx.load(str(parent))
    patches = [random_patches(artifact.spec, 1, seed=seed) for seed in range(3)]
    calibration = Calibration(patches, "0" * 64, lambda: activation_ranges(model, floating_tensors(model), patches))
    path = (folder or parent.parent) / f"{quantizer}-{profile}.onnx"
    recipe = QuantizationRecipe(profile)
    quantizers()[quantizer].quantise(artifact, model, calibration, recipe, {".onnx": path})
    facts = {"quantizer": quantizer, "profile": profile, "isa_class": recipe.isa_class, "method": recipe.method}
    return written(parent, path, precision="int8", recipe=facts)


def scan_of(artifact: Path) -> Path:
    """A scan as large as a patch, of the values that files are calibrated on, beside an artifact."""
    path, spec = artifact.with_name("scan.npz"), Artifact.read(artifact).spec
    patch = spec.patch if len(spec.patch) == 3 else (1, *spec.patch)
    volume = make_volume(random_patches(spec, 1, seed=1)[0, 0].reshape(patch))
    np.savez(path, voxels=volume.voxels, affine=volume.affine)
    return path


def nodes_of(model: Any, module: str, operator: str) -> list[Any]:
    """The nodes of one type that came from a module, in the graph's order."""
    found = [node for node in model.graph.node if node.op_type == operator and module_of(node) == module]
    assert found, f"no {operator} in {module}"
    return found


def constant(module: str, operator: str, index: int, change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Another constant: input `index` of a module's node; a pair of Q/DQ nodes that stores it is left as it is."""

    def plant(model: Any) -> None:
        [node, *_] = nodes_of(model, module, operator)
        name, graph = node.input[index], Graph(model)
        while name not in graph.weights:
            name = graph.producer[name].input[0]
        _change(model, name, change, node)

    return plant


def weight_scale(module: str, factor: float) -> Plant:
    """The scale of a convolution's whole weights."""

    def plant(model: Any) -> None:
        [node] = nodes_of(model, module, "Conv")
        pair = Graph(model).producer[node.input[1]]
        _change(model, pair.input[1], lambda scale: scale * np.float32(factor), pair)

    return plant


def weight_axis(module: str) -> Plant:
    """The scales of output channels taken for those of input channels."""

    def plant(model: Any) -> None:
        [node] = nodes_of(model, module, "Conv")
        pair = Graph(model).producer[node.input[1]]
        (entry,) = [one for one in pair.attribute if one.name == "axis"]
        entry.i = 1 - entry.i

    return plant


def activation_scale(module: str, operator: str, factor: float) -> Plant:
    """The scale by which a module's output is rounded, in both nodes of its pair."""

    def plant(model: Any) -> None:
        quantize, dequantize = _pair(model, module, operator)
        _own(model, (quantize, dequantize), 1, lambda scale: scale * np.float32(factor))

    return plant


def zero_point(module: str, operator: str, shift: int) -> Plant:
    """The zero-point with which a module's rounded output is read."""

    def plant(model: Any) -> None:
        _, dequantize = _pair(model, module, operator)
        _own(model, (dequantize,), 2, lambda zero: (zero.astype(np.int16) + shift).astype(zero.dtype))

    return plant


def attribute(module: str, operator: str, name: str, value: Any, call: int = 0) -> Plant:
    """An attribute of a module's node; call: which of its nodes, from 0."""

    def plant(model: Any) -> None:
        node = nodes_of(model, module, operator)[call]
        for entry in [one for one in node.attribute if one.name == name]:
            node.attribute.remove(entry)
        node.attribute.append(onnx.helper.make_attribute(name, value))

    return plant


def swapped_inputs(module: str, operator: str) -> Plant:
    """A module's node with its two inputs exchanged."""

    def plant(model: Any) -> None:
        [node] = nodes_of(model, module, operator)
        first, second = node.input
        node.input[:] = [second, first]

    return plant


def _pair(model: Any, module: str, operator: str) -> tuple[Any, Any]:
    [node] = nodes_of(model, module, operator)
    graph = Graph(model)
    [quantize] = graph.users[node.output[0]]
    dequantize = graph.users[quantize.output[0]][0]
    assert (quantize.op_type, dequantize.op_type) == ("QuantizeLinear", "DequantizeLinear")
    return quantize, dequantize


def _own(model: Any, nodes: tuple[Any, ...], index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Give nodes a constant of their own, made from the one that they share with others."""
    values = numpy_helper.to_array(Graph(model).weights[nodes[0].input[index]])
    name = f"{nodes[0].input[index]}_planted"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(change(values)), name))
    for node in nodes:
        node.input[index] = name


def _change(model: Any, name: str, change: Callable[[np.ndarray], np.ndarray], reader: Any) -> None:
    values = numpy_helper.to_array(Graph(model).weights[name])
    changed = np.asarray(change(values)).astype(values.dtype)
    new = f"{name}_planted"
    model.graph.initializer.append(numpy_helper.from_array(changed, new))
    graph = Graph(model)
    # Only what leads to the reader: other calls of the module keep the constant.
    places, owner = [reader], reader
    while name not in owner.input:
        owner = next(graph.producer[one] for one in owner.input if one in graph.producer and _leads(graph, one, name))
        places.append(owner)
    owner.input[list(owner.input).index(name)] = new


def _leads(graph: Graph, tensor: str, name: str) -> bool:
    node = graph.producer.get(tensor)
    while node is not None:
        if name in node.input:
            return True
        node = graph.producer.get(node.input[0])
    return False
