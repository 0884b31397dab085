"""Where to cut: the layers of a reference's graph, and the sub-graphs that stand for one layer each.

A layer is what a runtime computes as one: a convolution with its activation, an attention from its energies to the
product with its values, what only shows a tensor in another shape together with its reader. Inside it no tensor is
looked at.
"""

from __future__ import annotations

import graphlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medattn_edge.evaluation.bisect.onnx_cut import TRANSPARENT, OnnxCut
from medattn_edge.precision.layers import WEIGHTED
from medattn_edge.precision.lint.graph import LAYOUT
from medattn_edge.precision.onnx_graph import module_of

# What a runtime computes in the kernel before it.
_ACTIVATIONS = frozenset(
    ("Relu", "PRelu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Clip", "Elu", "Tanh", "BatchNormalization", "Softplus")
)
_VIEWS = LAYOUT | {"Expand", "Slice", "Split", "Cast"}
_JOINED = _VIEWS | {"Concat"}
_MAIN = (*WEIGHTED, "MatMul", "Resize", "Concat")  # what names a layer, the first that it has


@dataclass(frozen=True)
class CutLayer:
    """A layer between tensors that both graphs have.

    Attributes:
        module: the outermost PyTorch module that has no other layer in it.
        operator: of its main node.
        operators: of all its nodes, in order.
        call: which of the calls of the module it is, from 1; and of how many.
        inputs: the tensors that it reads, by the reference's names.
        outputs: the tensors that others read.
        gates: those of its outputs that a sigmoid makes.
        weights: the reference's names of its weights.
        nodes: the reference's nodes.
    """

    module: str
    operator: str
    operators: tuple[str, ...]
    call: tuple[int, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    gates: tuple[str, ...]
    weights: tuple[str, ...]
    nodes: tuple[Any, ...]

    @property
    def plain(self) -> bool:
        """Whether it is nothing but an activation without weights, which belongs to what it follows."""
        return all(node.op_type in _ACTIVATIONS and len(node.input) == 1 for node in self.nodes)

    @property
    def title(self) -> str:
        """Its module, and which call of it where there are several; the network itself has no name."""
        name = self.module or "the network itself"
        return name if self.call[1] == 1 else f"{name} (call {self.call[0]} of {self.call[1]})"


def cut_layers(reference: OnnxCut, cuts: Collection[str]) -> list[CutLayer]:
    """The layers of a graph in an order of their data.

    Args:
        reference: the graph.
        cuts: tensors at which it may be cut; what lies between two others stays in one layer.
    """
    grouped = _Grouped(reference, cuts)
    names = _Names(grouped.every)
    layers = [grouped.layer(nodes, names) for nodes in grouped.ordered()]
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for one in layers:
        totals[one.module, one.operator] += 1
    seen: dict[tuple[str, str], int] = defaultdict(int)
    numbered = []
    for one in layers:
        key = one.module, one.operator
        seen[key] += 1
        numbered.append(replace(one, call=(seen[key], totals[key])))
    return numbered


def pieces(reference: OnnxCut, cuts: Collection[str], layer: CutLayer) -> list[CutLayer]:
    """A layer cut further, at every tensor in it that both graphs have; the layer itself where there is none."""
    grouped = _Grouped(reference, cuts, layer.nodes)
    names = _Names(grouped.every)
    found = [replace(grouped.layer(nodes, names), call=layer.call) for nodes in grouped.ordered()]
    return found if len(found) > 1 else [layer]


class _Grouped:
    """Nodes joined into layers; Q/DQ pairs and casts are part of the tensor that they store.

    Args:
        reference: the graph.
        cuts: tensors at which it may be cut.
        only: nodes to leave apart from each other wherever the cuts allow it; None for all, joined into layers.
    """

    def __init__(self, reference: OnnxCut, cuts: Collection[str], only: Sequence[Any] | None = None) -> None:
        self._graph, self._cuts, self._joined = reference, set(cuts), only is None
        self.every = [
            node for node in reference.graph.nodes if node.op_type not in TRANSPARENT and reference.computes(node)
        ]
        self.nodes = self.every if only is None else list(only)
        self._maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in self._reads(node):
                self._readers[name].append(index)
        self._outputs = {reference.base(name) for name in reference.graph.outputs}
        if only is not None:  # what others read of them
            inside = {name for node in only for name in node.output}
            others = [node for node in self.every if not inside.intersection(node.output)]
            self._outputs |= {name for node in others for name in self._reads(node)}
        self._parent = list(range(len(self.nodes)))
        self._join_pieces()
        if self._joined:
            self._join_attentions()

    def _reads(self, node: Any) -> list[str]:
        """The tensors that a node reads, from before they were stored."""
        bases = dict.fromkeys(self._graph.base(name) for name in node.input if self._graph.depends(name))
        return list(bases)

    def _find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def _join(self, first: int, second: int) -> None:
        self._parent[self._find(second)] = self._find(first)

    def _join_pieces(self) -> None:
        for name, maker in self._maker.items():
            readers = self._readers[name]
            if name in self._outputs or not readers:
                continue
            one = self.nodes[readers[0]] if len(readers) == 1 else None
            joined = (
                self._joined
                and one is not None
                and (one.op_type in _ACTIVATIONS or self.nodes[maker].op_type in _JOINED or one.op_type in _VIEWS)
            )
            if joined or name not in self._cuts:
                for reader in readers:
                    self._join(maker, reader)

    def _join_attentions(self) -> None:
        """From the products before a softmax to the one after it, which runtimes know as a whole."""
        for index, node in enumerate(self.nodes):
            if node.op_type != "Softmax":
                continue
            waiting = [index]
            while waiting:
                one = waiting.pop()
                for name in self._reads(self.nodes[one]):
                    maker = self._maker.get(name)
                    if maker is not None and self.nodes[maker].op_type not in WEIGHTED:
                        if self.nodes[maker].op_type != "MatMul" and self._find(maker) != self._find(index):
                            waiting.append(maker)
                        self._join(index, maker)
            self._join_values(index)

    def _join_values(self, softmax: int) -> None:
        waiting = [softmax]
        while waiting:
            one = waiting.pop()
            for name in self.nodes[one].output:
                for reader in self._readers[name]:
                    self._join(softmax, reader)
                    if self.nodes[reader].op_type in _VIEWS:
                        waiting.append(reader)

    def ordered(self) -> Iterator[list[Any]]:
        """The nodes of each layer, layers in the order of their data: those that wait for each other become one."""
        while True:
            before: dict[int, set[int]] = {self._find(index): set() for index in range(len(self.nodes))}
            for index, node in enumerate(self.nodes):
                makers = (self._maker[name] for name in self._reads(node) if name in self._maker)
                before[self._find(index)] |= {self._find(maker) for maker in makers} - {self._find(index)}
            try:
                order = list(graphlib.TopologicalSorter(before).static_order())
                break
            except graphlib.CycleError as error:
                first, *others = error.args[1]
                for other in others:
                    self._join(first, other)
        members: dict[int, list[Any]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            members[self._find(index)].append(node)
        # The order of the graph where the data leave it open: as the network is read.
        place = {id(node): index for index, node in enumerate(self.nodes)}
        yield from sorted((members[root] for root in order), key=lambda nodes: max(place[id(node)] for node in nodes))

    def layer(self, nodes: list[Any], names: _Names) -> CutLayer:
        """The layer of some nodes."""
        own = {name for node in nodes for name in node.output if name}
        inputs = dict.fromkeys(name for node in nodes for name in self._reads(node) if name not in own)
        members = {id(node) for node in nodes}
        outputs = [
            name
            for node in nodes
            for name in node.output
            if name
            and (name in self._outputs or any(id(self.nodes[one]) not in members for one in self._readers[name]))
        ]
        main = next((node for kind in (*_MAIN, "") for node in nodes if kind in (node.op_type, "")), nodes[0])
        sigmoids = {name for node in nodes if node.op_type == "Sigmoid" for name in node.output}
        weights = [self._graph.weight(name) for node in nodes if node.op_type in WEIGHTED for name in node.input[1:2]]
        return CutLayer(
            module=names.outermost(main, nodes),
            operator=main.op_type,
            operators=tuple(node.op_type for node in nodes),
            call=(1, 1),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            gates=tuple(name for name in outputs if name in sigmoids),
            weights=tuple(name for name in weights if name),
            nodes=tuple(nodes),
        )


class _Names:
    """PyTorch modules, and whose layers lie in each."""

    def __init__(self, nodes: list[Any]) -> None:
        self._inside: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for node in nodes:
            path = module_of(node)
            for outer in _ancestors(path):
                self._inside[outer].add((path, node.op_type))

    def outermost(self, main: Any, nodes: list[Any]) -> str:
        """The outermost module around a node that holds no node but these, or another call of the same ones."""
        own = {(module_of(node), node.op_type) for node in nodes}
        path = module_of(main)
        fitting = [outer for outer in _ancestors(path) if self._inside[outer] <= own]
        return fitting[-1] if fitting else path


def _ancestors(path: str) -> list[str]:
    """a.b.c -> a.b.c, a.b, a."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
