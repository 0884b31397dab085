"""FP32 ONNX -> INT8 through one quantizer, judged by any gate: an SQNR floor as well as a Dice.

`medattn-edge calibrate` asks for Dice on real scans, which deterministic weights do not have.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from trained import Patches

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.backends.check import on_patches
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Session
from medattn_edge.file_gate import FileGate
from medattn_edge.host import hardware
from medattn_edge.precision.judge import Verdict
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.onnx_graph import read
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.precision.statistics import activation_ranges
from medattn_edge.precision.trials import QuantizationTrials, QuantizedCandidate, TrialRuntime, install


class Runs(list[Any]):
    """Patches as runs of one network."""

    def __init__(self, patches: Any, batch: int) -> None:
        super().__init__(patches[index : index + 1].repeat(batch, 0) for index in range(len(patches)))
        self.digest = hashlib.sha256(patches.tobytes()).hexdigest()


class Judge:
    """Holds candidates to a gate on patches, against the FP32 graph that they are made of."""

    def __init__(self, reference: Session, patches: Patches, gate: Thresholds, batch: int) -> None:
        self.windows, self.gate = Runs(patches.held_out, batch), gate
        self._reference, self._patches, self._truth = reference, patches.held_out, patches.truth

    def judge(self, candidate: Session, indices: tuple[int, ...] | None = None) -> Verdict:
        """The verdict on all patches, or on those of `indices`."""
        chosen = list(range(len(self._patches)) if indices is None else indices)
        truth = None if self._truth is None else self._truth[chosen]
        found = on_patches(self._reference, candidate, self._patches[chosen], truth)
        return Verdict(found, tuple(self.gate.failures(found)))


def int8(
    parent: Artifact,
    path: Path,
    way: tuple[str, str],
    patches: Patches,
    limits: tuple[Thresholds, int],
    isa: str = "",
) -> Artifact:
    """Write the INT8 artifact of an FP32 ONNX artifact: the best that the trials give, also when the gate fails.

    Args:
        parent: the FP32 artifact.
        path: to write, .onnx or .xml.
        way: quantizer and profile.
        patches: to calibrate on, and others to judge on, with their truth where there is one.
        limits: the gate, and how many graphs may be judged; while it fails, the layers that lose most go back to
            floating point.
        isa: the class of the CPU that it is for; by default this host's.
    """
    (name, profile), (gate, limit) = way, limits
    quantizer, model = quantizers()[name], read(parent.path)
    runs = Runs(patches.calibration, parent.manifest.batch or 1)
    recipe = QuantizationRecipe(profile, isa or hardware.isa_class(hardware.cpu()))
    ranges = cache(lambda: activation_ranges(model, floating_tensors(model), runs, recipe.method))
    as_written = profile == "tensorrt"  # what a CPU makes of it is not what will run
    runtime = TrialRuntime("openvino" if path.suffix == ".xml" else "onnxruntime", optimise=not as_written)
    with OnnxRuntimeSession(parent, Options()) as reference, tempfile.TemporaryDirectory() as folder:
        judge: Any = Judge(reference, patches, gate, parent.manifest.batch or 1)
        trials = QuantizationTrials(
            parent, model, Calibration(runs, runs.digest, ranges), judge, runtime, (Path(folder), limit)
        )
        best = trials.candidate(quantizer, recipe)
        if not best.verdict.holds and best.verdict.agreement.finite:
            best, _ = trials.with_floating_layers(best, closeness=_closeness)
        how = {"quantizer": name, "floating": list(best.recipe.floating), "trials": trials.count}
        carried = _file_gate(gate) if best.verdict.holds else None  # as calibrate does: what it is compiled by
        manifest = replace(best.artifact.manifest, recipe={**how, **best.verdict.to_json()}, gate=carried)
        return install(Artifact(best.artifact.path, manifest), path)


def _file_gate(gate: Thresholds) -> FileGate | None:
    if gate.min_dice is None:
        return None
    return FileGate(gate.min_dice, gate.min_true_dice_share, gate.max_true_dice_share)


def _closeness(candidate: QuantizedCandidate) -> float:
    return candidate.verdict.agreement.sqnr_db
