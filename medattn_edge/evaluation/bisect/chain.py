"""Chain: a candidate's sub-graphs, one layer after the other, fed with the reference's values and with its own.

What runs is always one layer: an engine that is asked for every tensor of a network fuses nothing, and is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from medattn_edge.backends.parts import Floats, PartRunner, Values, run_as_written
from medattn_edge.errors import BackendError, InputError
from medattn_edge.evaluation.bisect.attainable import attainable
from medattn_edge.evaluation.bisect.figures import LayerFigures, Measured, limit_db, saturated, value_range
from medattn_edge.evaluation.bisect.layers import CutLayer, cut_layers, pieces
from medattn_edge.evaluation.bisect.matching import Named
from medattn_edge.evaluation.bisect.onnx_cut import OnnxCut
from medattn_edge.evaluation.bisect.storage import Storage, clipped, fed, restored, stored

Runs = list[Floats]  # of one tensor, for each run
Plan = tuple[tuple[str, ...], tuple[str, ...]]  # what a layer reads in the reference, and in the candidate
Progress = Callable[[str, int, int], None]


class Cut(Named, Protocol):
    """A graph that can be cut: an `OnnxCut` or an `OpenVinoCut`, whose methods say what these do."""

    @property
    def image(self) -> str:
        """The name of the input."""

    def storages(self, name: str) -> tuple[Storage, ...]:
        """What a tensor goes through until the outside gets it."""

    def reads(self, outputs: Sequence[str], cuts: Sequence[str]) -> tuple[str, ...]:
        """Which of the cut tensors a sub-graph reads."""

    def precision(self, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """In which numbers a sub-graph computes."""

    def write(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Path:
        """Write a sub-graph to a file."""


class Chain:
    """The layers of a candidate and its reference.

    Args:
        reference: the graph that counts as right; it is run as it is written.
        candidate: the graph that is judged.
        pairs: the reference's name of a tensor -> the candidate's, of all that both have.
        runner: of the candidate.
        folder: for the files of sub-graphs.

    Attributes:
        layers: in the order of their data.
        logits: of the candidate's layers one by one, for each run; after `measure`.
    """

    def __init__(
        self, reference: OnnxCut, candidate: Cut, pairs: Mapping[str, str], runner: PartRunner, folder: Path
    ) -> None:
        self._reference, self._candidate, self._runner, self._folder = reference, candidate, runner, folder
        self._pairs = {**pairs, reference.image: candidate.image}
        self._back = {theirs: name for name, theirs in self._pairs.items()}
        self.layers = cut_layers(reference, set(self._pairs))
        self.logits: Runs = []
        self._count = 0
        self._cuts = [reference.image, *dict.fromkeys(name for one in self.layers for name in one.outputs)]

    def measure(self, image: Runs, progress: Progress) -> Iterator[LayerFigures]:
        """The figures of each layer, in order.

        Args:
            image: float32 (N, C, *patch) for each run.
            progress: called with the layer, how many are done, and of how many.

        Raises:
            InputError: the candidate is wired otherwise.
        """
        right, own = {self._reference.image: image}, {self._reference.image: image}
        self._count = len(image)
        plans = [self._plan(one, self._cuts) for one in self.layers]
        last = {name: index for index, (mine, theirs) in enumerate(plans) for name in (*mine, *theirs)}
        for index, (layer, plan) in enumerate(zip(self.layers, plans, strict=True)):
            progress(layer.title, index, len(self.layers))
            yield self._measure(layer, plan, right, own)
            self.logits = own.get(self._reference.base(self._reference.result), self.logits)
            for name in [name for name in right if last.get(name, -1) <= index and name not in layer.outputs]:
                del right[name], own[name]
            for name in [name for name in layer.outputs if name not in last]:
                del right[name], own[name]
        progress("", len(self.layers), len(self.layers))

    def prefix_db(self, layer: CutLayer, image: Runs) -> float:
        """SQNR of a layer's outputs when all before it runs as one sub-graph with it."""
        names = [self._pairs[name] for name in layer.outputs]
        start = [self._candidate.image]
        whole = self._run(
            self._candidate.write(self._folder / "prefix", start, names), start, [{start[0]: one} for one in image]
        )
        source = self._reference.write(self._folder / "prefix-reference", [self._reference.image], layer.outputs)
        right = run_as_written(source, [self._reference.image], [{self._reference.image: one} for one in image])
        measured = Measured()
        for expected, found in zip(right, whole, strict=True):
            measured.add(layer.outputs, expected, found)
        return measured.sqnr_db

    def _plan(self, layer: CutLayer, cuts: Sequence[str]) -> Plan:
        """What a layer reads in the reference and in the candidate, both by the reference's names."""
        theirs = self._candidate.reads(
            [self._pairs[name] for name in layer.outputs], [self._pairs[name] for name in cuts]
        )
        return self._reference.reads(layer.outputs, cuts), tuple(self._back[name] for name in theirs)

    def _measure(
        self,
        layer: CutLayer,
        plan: Plan,
        right: dict[str, Runs],
        own: dict[str, Runs],
    ) -> LayerFigures:
        """The figures of a layer, whose outputs are added to `right` and `own`."""
        mine, theirs = plan
        if late := [name for name in theirs if name not in right]:
            raise InputError(
                f"{layer.title} of the candidate reads {late[0]}, which the reference computes later or not at all",
                expected="a candidate that was made from the reference",
                hint="medattn-edge compare REFERENCE CANDIDATE SCAN says how far apart they are",
            )
        seen, given = self._fed(right, {*mine, *theirs})
        count = self._count
        source = self._reference.write(self._folder / "reference", mine, layer.outputs)
        answers = run_as_written(source, mine, [*_each(right, mine, count), *_each(seen, mine, count)])
        exact, expected = answers[:count], answers[count:]
        names = [self._pairs[name] for name in layer.outputs]
        inputs = [self._pairs[name] for name in theirs]
        part = self._candidate.write(self._folder / "candidate", inputs, names)
        failure = ""
        try:
            kept = {name: [restored(one, self._storages(name)) for one in own[name]] for name in theirs}
            runs = [*_each(given, theirs, count, self._pairs), *_each(kept, theirs, count, self._pairs)]
            found = self._run(part, inputs, runs)
        except BackendError as error:
            failure, found = error.found, [*expected, *exact]  # what follows is fed as if it had been right
        local, accumulated = Measured(), Measured()
        for index in range(count):
            local.add(layer.outputs, expected[index], found[index])
            accumulated.add(layer.outputs, exact[index], found[count + index])
        entering = Measured()
        for name in mine:
            for before, after in zip(right[name], own[name], strict=True):
                entering.add([name], [before], [after])
        for place, name in enumerate(layer.outputs):
            right[name] = [answer[place] for answer in exact]
            own[name] = [answer[place] for answer in found[count:]]
        figures = self._figures(layer, (entering.sqnr_db, local.sqnr_db, accumulated.sqnr_db), right, own)
        figures = replace(figures, precision=self._candidate.precision(inputs, names), failure=failure)
        if figures.precision == "int8":
            best = attainable(self._reference, layer, mine, (_each(seen, mine, count), expected), source)
            figures = replace(figures, attainable_db=best)
        if not figures.leaves:
            return figures
        effect = None if failure else self._logits_db(layer, right, found[:count])
        if part.suffix == ".onnx" and not self._runner.runtime.as_written:
            figures = replace(figures, written_db=_written_db(layer, part, inputs, runs[:count], expected))
        return replace(figures, piece=self._piece(figures, right, count), logits_db=effect)

    def _logits_db(self, layer: CutLayer, right: Mapping[str, Runs], found: Sequence[Sequence[Floats]]) -> float:
        """SQNR of the reference's logits with the outputs of one layer from the candidate, fed with the reference."""
        logits = self._reference.base(self._reference.result)
        measured = Measured()
        if logits in layer.outputs:
            place = layer.outputs.index(logits)
            for expected, answer in zip(right[logits], found, strict=True):
                measured.add([logits], [expected], [answer[place]])
            return measured.sqnr_db
        inputs = self._reference.reads([logits], list(right))
        part = self._reference.write(self._folder / "rest", inputs, [logits])
        own = {**right, **{name: [one[place] for one in found] for place, name in enumerate(layer.outputs)}}
        runs = [*_each(right, inputs, self._count), *_each(own, inputs, self._count)]
        answers = run_as_written(part, inputs, runs)
        for whole, without in zip(answers[: self._count], answers[self._count :], strict=True):
            measured.add([logits], whole, without)
        return measured.sqnr_db

    def _figures(
        self,
        layer: CutLayer,
        ratios: tuple[float, float, float],
        right: Mapping[str, Runs],
        own: Mapping[str, Runs],
    ) -> LayerFigures:
        before = [one for name in layer.outputs for one in right[name]]
        after = [one for name in layer.outputs for one in own[name]]
        gates = [one for name in layer.gates for one in right[name]]
        return LayerFigures(
            layer=layer,
            precision="fp32",
            reference_range=value_range(before) or (-np.inf, np.inf),
            candidate_range=value_range(after),
            clipped=max(
                (clipped(one, self._storages(name)) for name in layer.outputs for one in right[name]), default=0.0
            ),
            saturated=(saturated(gates), saturated([one for name in layer.gates for one in own[name]]))
            if gates
            else None,
            in_db=ratios[0],
            local_db=ratios[1],
            out_db=ratios[2],
        )

    def _piece(self, figures: LayerFigures, right: Mapping[str, Runs], count: int) -> CutLayer | None:
        """The first part of a layer that leaves by itself; None where that is its main one, or none does."""
        layer = figures.layer
        parts = pieces(self._reference, set(self._pairs), layer)
        if len(parts) == 1 or figures.failure:
            return None
        inside = dict.fromkeys(name for one in parts for name in one.outputs)
        cuts = [*dict.fromkeys([*self._cuts, *inside])]
        mine = self._reference.reads(layer.outputs, self._cuts)
        source = self._reference.write(self._folder / "inside", mine, list(inside))
        answers = run_as_written(source, mine, _each(right, mine, count))
        values = {**right, **{name: [one[place] for one in answers] for place, name in enumerate(inside)}}
        for part in parts:
            if self._leaves(part, cuts, values, count):
                return None if part.plain or part.operator == layer.operator else part
        return None

    def _leaves(self, part: CutLayer, cuts: Sequence[str], values: Mapping[str, Runs], count: int) -> bool:
        mine, theirs = self._plan(part, cuts)
        if any(name not in values for name in (*mine, *theirs)):
            return False
        seen, given = self._fed(values, {*mine, *theirs})
        source = self._reference.write(self._folder / "piece", mine, part.outputs)
        expected = run_as_written(source, mine, _each(seen, mine, count))
        names = [self._pairs[name] for name in part.outputs]
        inputs = [self._pairs[name] for name in theirs]
        file = self._candidate.write(self._folder / "piece-candidate", inputs, names)
        measured = Measured()
        try:
            found = self._run(file, inputs, _each(given, theirs, count, self._pairs))
        except BackendError:
            return True
        for right, value in zip(expected, found, strict=True):
            measured.add(part.outputs, right, value)
        precision = self._candidate.precision(inputs, names)
        best = attainable(self._reference, part, mine, (_each(seen, mine, count), expected), source)
        return not measured.sqnr_db >= limit_db(precision, best if precision == "int8" else None)

    def _fed(self, values: Mapping[str, Runs], names: Collection[str]) -> tuple[dict[str, Runs], dict[str, Runs]]:
        """The reference's values as the candidate stores them, for the reference; and as they are, for the candidate.

        What a candidate loses when it stores a tensor is counted where the tensor is made, and not where it is read.
        """
        storages = {name: self._storages(name) for name in names}
        seen = {name: [stored(one, storages[name]) for one in values[name]] for name in names}
        return seen, {name: [fed(one, storages[name]) for one in values[name]] for name in names}

    def _storages(self, name: str) -> tuple[Storage, ...]:
        return () if name == self._reference.image else self._candidate.storages(self._pairs[name])

    def _run(self, part: Path, inputs: Sequence[str], runs: Sequence[Mapping[str, Floats]]) -> list[list[Floats]]:
        return self._runner.run(part, inputs, runs)


def _written_db(
    layer: CutLayer, part: Path, inputs: Sequence[str], runs: Sequence[Values], expected: Sequence[Sequence[Floats]]
) -> float | None:
    """SQNR of a part that is computed as it is written; None where nothing computes it."""
    measured = Measured()
    try:
        answers = run_as_written(part, inputs, runs)
    except BackendError:
        return None
    for right, answer in zip(expected, answers, strict=True):
        measured.add(layer.outputs, right, answer)
    return measured.sqnr_db


def _each(
    values: Mapping[str, Runs], names: Sequence[str], count: int, renamed: Mapping[str, str] | None = None
) -> list[dict[str, Floats]]:
    """Name -> values of each run, by other names where they have some."""
    return [{(renamed or {}).get(name, name): values[name][index] for name in names} for index in range(count)]
