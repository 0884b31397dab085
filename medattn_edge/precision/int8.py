"""FP32 ONNX -> INT8, calibrated on windows of scans, and judged on windows that it was not calibrated on.

Every quantizer that can write the file is tried. Of those that hold the gate the fastest is taken; when none does, the
layers that lose most go back to floating point until the gate holds, or it is said that it cannot.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.atomic import check_folder
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Patches, filled_runs
from medattn_edge.errors import AgreementError, UsageError
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.labels import Meaning
from medattn_edge.precision.cache import NO_CACHE, Cache
from medattn_edge.precision.derived import fp32_graph
from medattn_edge.precision.judge import Judge
from medattn_edge.precision.layers import layers, nodes_of_modules
from medattn_edge.precision.lint import rules
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.onnx_graph import read
from medattn_edge.precision.quantizers.quantizer import (
    Calibration,
    Quantizer,
    absent_quantizers,
    fitting_quantizers,
)
from medattn_edge.precision.sensitivity import Damage
from medattn_edge.precision.settings import CalibrationSettings
from medattn_edge.precision.statistics import Ranges, activation_ranges
from medattn_edge.precision.trials import Progress, QuantizationTrials, QuantizedCandidate, TrialRuntime, install
from medattn_edge.precision.windows import ScanFacts, Windows

_NO_FACTS = ScanFacts()
_RANKED = 20  # layers of the ranking that the manifest keeps


def quantise(
    parent: Artifact,
    path: Path,
    windows: tuple[Windows, Windows],
    settings: CalibrationSettings,
    cache: Cache = NO_CACHE,
    progress: Progress | None = None,
    facts: ScanFacts = _NO_FACTS,
) -> Artifact:
    """Write the INT8 artifact of an FP32 ONNX artifact, from windows that were chosen; `calibrate` chooses them.

    Args:
        parent: the FP32 artifact.
        path: NAME.onnx, or NAME.xml.
        windows: to calibrate on, and held out.
        settings: what to ask.
        cache: where measured ranges and rankings are kept.
        progress: called with what is done, how many steps of it, and of how many.
        facts: of the scans that the windows are of, for the recipe and the gate that the file carries.

    Returns:
        The artifact. Its manifest's recipe says what the windows were, what every quantizer gave, which layers stayed
        in floating point and why, and how fast it is against FP32 in its runtime; its gate, what was asked.

    Raises:
        AgreementError: the gate cannot be held within the trials; nothing was written.
        UsageError: a parent that is not FP32 ONNX, windows in both sets, or settings that nothing can follow.
        MissingDependency: no quantizer that fits is installed.
    """
    quantizers = quantizers_for(parent, path, settings)
    absent = absent_quantizers(path, settings.recipe, settings.quantizer)
    calibrated, held_out = windows
    _check_disjoint(calibrated, held_out)
    report = progress or (lambda what, done, total: None)
    model = read(parent.path)
    recipe = replace(settings.recipe, floating=nodes_of_modules(model, settings.floating))
    inputs = Inputs(calibrated, parent.manifest.batch)
    calibration = Calibration(inputs, calibrated.digest, _ranges(parent, model, inputs, settings, cache, report))
    report("FP32 on the held-out windows", 0, 1)
    with OnnxRuntimeSession(parent, Options(threads=settings.threads)) as reference:
        judged = facts.judged or JudgedLabels(Meaning.of(parent.spec), settings.judge_labels)
        judge = Judge(reference, held_out, settings.thresholds(held_out.has_truth), judged)
    with tempfile.TemporaryDirectory() as folder:
        trials = QuantizationTrials(
            parent, model, calibration, judge, _runtime(path, settings), (Path(folder), settings.max_trials)
        )
        for index, quantizer in enumerate(quantizers):
            report(f"quantising by {quantizer.name}", index, len(quantizers))
            trials.candidate(quantizer, recipe)
        candidates = trials.timed(trials.candidates, inputs[0])
        best, ranking = max(candidates, key=_score), list[Damage]()
        if not best.verdict.holds:
            best, ranking = trials.with_floating_layers(best, cache, report)
            (best,) = trials.timed([best], inputs[0])
        if not best.verdict.holds:
            raise _gate_failed(best, trials, len(layers(model)), absent)
        manifest = replace(
            best.artifact.manifest,
            agreement=(_case(best, judge),),
            gate=judge.file_gate(facts.label_values),
            recipe={
                **asdict(replace(recipe, floating=())),
                "floating": [damage.to_json() for damage in ranking if set(damage.nodes) <= set(best.recipe.floating)],
                "floating_modules": list(settings.floating),
                "quantizer": best.quantizer.name,
                "quantizers": [one.to_json() for one in candidates],
                "quantizers_not_installed": {one.name: list(one.missing) for one in absent},
                "trials": trials.count,
                "ranking": [damage.to_json() for damage in ranking[:_RANKED]],
                "calibrated_on": calibrated.report(),
                "calibration_sha256": calibrated.digest,
                "judged_on": held_out.report(),
                "scan_notes": list(facts.notes),
                "judged_labels": list(judge.judged),
                "unseen": list(judge.unseen),
                "label_audits": [audit.to_json() for audit in judged.audits],
                "speed": best.speed.to_json() if best.speed else None,
                "lint": _warnings(best),
            },
        )
        return install(Artifact(best.artifact.path, manifest), path)


def quantizers_for(parent: Artifact, path: Path, settings: CalibrationSettings) -> tuple[Quantizer, ...]:
    """The quantizers that `quantise` would try; raises what it raises before any work is done."""
    fp32_graph(parent, "int8")
    check_folder(path)
    if settings.runtime and settings.runtime != "openvino" and Path(path).suffix.lower() == ".xml":
        raise UsageError(
            f"{Path(path).name} in {settings.runtime}", expected="openvino", hint="leave --runtime out, or -o NAME.onnx"
        )
    return fitting_quantizers(path, settings.recipe, settings.quantizer)


class Inputs(Sequence[Patches]):
    """The windows as runs of a network whose batch may be fixed.

    Attributes:
        digest: of the windows.
    """

    def __init__(self, windows: Windows, batch: int | None) -> None:
        self._windows, self._batch, self.digest = windows, batch or 1, windows.digest

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: Any) -> Any:
        [(run, _)] = filled_runs(self._windows[index], self._batch)
        return run


def _ranges(
    parent: Artifact, model: Any, inputs: Inputs, settings: CalibrationSettings, cache: Cache, report: Progress
) -> Callable[[], Ranges]:
    """The activations' ranges, measured once, when a quantizer asks for them, and kept for the next time."""

    @functools.cache
    def measured() -> Ranges:
        method = settings.method
        key = {"model": parent.manifest.sha256, "patches": inputs.digest, "method": method}
        values = cache.load("ranges", key)
        if values is None:
            values = activation_ranges(
                model,
                floating_tensors(model),
                inputs,
                method,
                settings.threads,
                lambda done, total: report("measuring activations", done, total),
            )
            cache.save("ranges", key, values)
        return {name: (low, high) for name, (low, high) in values.items()}

    return measured


def _check_disjoint(calibrated: Windows, held_out: Windows) -> None:
    if not len(calibrated) or not len(held_out):
        raise UsageError("no window to calibrate or to judge on", expected="scans for both", hint="--held-out SCAN")
    shared = calibrated.places & held_out.places
    if shared:
        raise UsageError(
            f"{len(shared)} windows are both calibrated and judged on",
            expected="held-out scans that are not among those to calibrate on",
            hint="--held-out OTHER_SCAN",
        )


def _runtime(path: Path, settings: CalibrationSettings) -> TrialRuntime:
    """A graph for TensorRT is judged as it is written: what a CPU runtime makes of it is not what will run."""
    if settings.profile == "tensorrt":
        return TrialRuntime("onnxruntime", False, settings.threads)
    default = "openvino" if Path(path).suffix.lower() == ".xml" else "onnxruntime"
    return TrialRuntime(settings.runtime or default, True, settings.threads)


def _score(candidate: QuantizedCandidate) -> tuple[Any, ...]:
    """Agreement first, measured time second: of those that hold the gate the fastest, else the closest one."""
    if candidate.verdict.holds and candidate.speed is not None:
        return (True, candidate.speed.ratio_to_fp32)
    return (candidate.verdict.holds, *candidate.verdict.rank)


def _gate_failed(
    best: QuantizedCandidate, trials: QuantizationTrials, count: int, absent: Sequence[Quantizer]
) -> AgreementError:
    """What was closest, and what may help: more trials only where these were too few."""
    closest = f"{best.quantizer.name}, {len(best.recipe.floating)} of {count} layers in floating point"
    figures = f"SQNR {best.verdict.agreement.sqnr_db:.1f} dB, after {trials.count} trials"
    return AgreementError(
        f"INT8 does not hold the gate: {'; '.join(best.verdict.failures)} ({closest}, {figures})",
        expected=trials.judge.gate.text,
        hint="; ".join(_ways_on(trials, absent)),
    )


def _ways_on(trials: QuantizationTrials, absent: Sequence[Quantizer]) -> Iterator[str]:
    if trials.exhausted:
        yield f"--max-trials {2 * trials.limit} goes on from here: {trials.limit} trials were too few"
    others = [one for one in ("minmax", "percentile") if one != trials.candidates[0].recipe.method]
    yield f"more scans or --method {others[0]} may help"
    for one in absent:
        yield f"the quantizer {one.name} was not tried: {one.install_hint}"
    yield "fp16 or fp32 keep the answer: medattn-edge export --precision fp16"


def _case(best: QuantizedCandidate, judge: Judge) -> dict[str, Any]:
    thresholds = judge.gate.to_json()
    return {"input": "held out", "patches": len(judge.windows), "thresholds": thresholds, **best.verdict.to_json()}


def _warnings(best: QuantizedCandidate) -> list[dict[str, str]]:
    """What the lint warns of; raises InputError when it finds errors, which would be a bug of the quantizer."""
    if best.artifact.path.suffix != ".onnx":
        return []
    findings = rules.check(read(best.artifact.path), best.recipe.profile, best.recipe.isa_class)
    return [{"rule": one.rule, "node": one.node, "module": one.module, "reason": one.reason} for one in findings]
