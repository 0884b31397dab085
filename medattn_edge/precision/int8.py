"""FP32 ONNX -> INT8, calibrated on real scans, and judged on windows that it was not calibrated on.

Every door that can write the file is tried. Of those that hold the gate the fastest is taken; when none does, the
layers that lose most go back to floating point until the gate holds, or it is said that it cannot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.atomic import check_folder
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Patches, filled_runs
from medattn_edge.errors import AgreementError, UsageError
from medattn_edge.precision.cache import Cache
from medattn_edge.precision.derived import fp32_graph
from medattn_edge.precision.judge import Judge
from medattn_edge.precision.layers import layers
from medattn_edge.precision.lint import rules
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.onnx_graph import read
from medattn_edge.precision.quantizers.quantizer import Calibration, Door, Recipe, fitting_doors
from medattn_edge.precision.sensitivity import Damage, fewest_floating, rank
from medattn_edge.precision.statistics import Ranges, activation_ranges
from medattn_edge.precision.trials import Candidate, Runtime, Trials, installed
from medattn_edge.precision.windows import Windows

Progress = Callable[[str, int, int], None]  # what is going on, steps done, of
_TOLD = 20  # layers of the ranking that the manifest keeps
NOTHING_KEPT = Cache(None)


@dataclass(frozen=True)
class Settings:
    """What to ask of an INT8 file.

    recipe: profile, CPU and method. gate: the least Dice, see Judge. door: one alone, or empty for all that fit.
    runtime: the backend that will run it, empty for the suffix's own. max_trials: quantised graphs to judge at most.
    """

    recipe: Recipe
    gate: float = 0.999
    door: str = ""
    runtime: str = ""
    max_trials: int = 64
    threads: int = 0


def calibrate(
    parent: Artifact,
    path: Path,
    windows: tuple[Windows, Windows],
    settings: Settings,
    kept: Cache = NOTHING_KEPT,
    progress: Progress | None = None,
) -> Artifact:
    """Write the INT8 artifact of an FP32 ONNX artifact.

    windows: to calibrate on, and held out. The manifest's recipe says what they were, what every door gave, which
    layers stayed in floating point and why, and how fast it is against FP32 in its runtime.
    Raises AgreementError, and writes nothing, when the gate cannot be held within the trials; UsageError for a parent
    that is not FP32 ONNX, for windows in both sets and for settings that nothing can follow; MissingDependency.
    """
    doors = doors_for(parent, path, settings)
    calibrated, held_out = windows
    _check_disjoint(calibrated, held_out)
    tell = progress or (lambda what, done, total: None)
    model = read(parent.path)
    inputs = Inputs(calibrated, parent.manifest.batch)
    calibration = Calibration(inputs, calibrated.digest, _ranges(parent, model, inputs, settings, kept, tell))
    tell("FP32 on the held-out windows", 0, 1)
    with OnnxRuntimeSession(parent, Options(threads=settings.threads)) as reference:
        judge = Judge(reference, held_out, settings.gate)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(
            parent, model, calibration, judge, _runtime(path, settings), (Path(folder), settings.max_trials)
        )
        for index, door in enumerate(doors):
            tell(f"quantising by {door.name}", index, len(doors))
            trials.candidate(door, settings.recipe)
        candidates = trials.timed(trials.made, inputs[0])
        best, ranking = max(candidates, key=_worth), list[Damage]()
        if not best.verdict.holds:
            best, ranking = _with_floating_layers(trials, best, kept, tell)
            (best,) = trials.timed([best], inputs[0])
        if not best.verdict.holds:
            raise _gate_failed(best, trials, len(layers(model)))
        manifest = replace(
            best.artifact.manifest,
            agreement=(_case(best, judge),),
            recipe={
                **asdict(replace(settings.recipe, floating=())),
                "floating": [damage.to_json() for damage in ranking if set(damage.nodes) <= set(best.recipe.floating)],
                "door": best.door.name,
                "doors": [one.to_json() for one in candidates],
                "trials": trials.count,
                "ranking": [damage.to_json() for damage in ranking[:_TOLD]],
                "calibrated_on": calibrated.report(),
                "calibration_sha256": calibrated.digest,
                "judged_on": held_out.report(),
                "unseen": list(judge.unseen),
                "speed": asdict(best.speed) if best.speed else None,
                "lint": _linted(best),
            },
        )
        return installed(Artifact(best.artifact.path, manifest), path)


def doors_for(parent: Artifact, path: Path, settings: Settings) -> tuple[Door, ...]:
    """The doors that `calibrate` would try; raises what it raises before any work is done."""
    fp32_graph(parent, "int8")
    check_folder(path)
    if settings.runtime and settings.runtime != "openvino" and Path(path).suffix.lower() == ".xml":
        raise UsageError(
            f"{Path(path).name} in {settings.runtime}", expected="openvino", hint="leave --runtime out, or -o NAME.onnx"
        )
    return fitting_doors(path, settings.recipe, settings.door)


class Inputs(Sequence[Patches]):
    """The windows as runs of a network whose batch may be fixed."""

    def __init__(self, windows: Windows, batch: int | None) -> None:
        self._windows, self._batch, self.digest = windows, batch or 1, windows.digest

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: Any) -> Any:
        [(run, _)] = filled_runs(self._windows[index], self._batch)
        return run


def _ranges(
    parent: Artifact, model: Any, inputs: Inputs, settings: Settings, kept: Cache, tell: Progress
) -> Callable[[], Ranges]:
    """The activations' ranges, measured once, when a door asks for them, and kept for the next time."""

    @cache
    def measured() -> Ranges:
        method = settings.recipe.method
        key = {"model": parent.manifest.sha256, "patches": inputs.digest, "method": method}
        found = kept.load("ranges", key)
        if found is None:
            found = activation_ranges(
                model,
                floating_tensors(model),
                inputs,
                method,
                settings.threads,
                lambda done, total: tell("measuring activations", done, total),
            )
            kept.save("ranges", key, found)
        return {name: (low, high) for name, (low, high) in found.items()}

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


def _runtime(path: Path, settings: Settings) -> Runtime:
    """A graph for TensorRT is judged as it is written: what a CPU runtime makes of it is not what will run."""
    if settings.recipe.profile == "tensorrt":
        return Runtime("onnxruntime", False, settings.threads)
    default = "openvino" if Path(path).suffix.lower() == ".xml" else "onnxruntime"
    return Runtime(settings.runtime or default, True, settings.threads)


def _worth(candidate: Candidate) -> tuple[Any, ...]:
    """Agreement first, measured time second: of those that hold the gate the fastest, else the closest one."""
    if candidate.verdict.holds and candidate.speed is not None:
        return (True, candidate.speed.ratio_to_fp32)
    return (candidate.verdict.holds, *candidate.verdict.rank)


def _with_floating_layers(
    trials: Trials, best: Candidate, kept: Cache, tell: Progress
) -> tuple[Candidate, list[Damage]]:
    """The candidate with the fewest layers in floating point that holds the gate, or the best that was found."""
    found = layers(trials.model)
    ranking = rank(
        found,
        max(1, trials.left // 2),
        trials.alone(best.recipe, kept),
        lambda done, total: tell("ranking layers", done, total),
    )
    first = len(trials.made)

    def floating(nodes: tuple[str, ...]) -> Any:
        if not trials.left:
            return None
        tell(f"{len(nodes)} of {len(found)} layers in floating point", len(trials.made) - first, trials.left)
        return trials.candidate(best.door, replace(best.recipe, floating=nodes)).verdict

    fewest_floating(ranking, floating)
    # With every layer in floating point any gate holds, and nothing of it is INT8.
    made = [best, *(one for one in trials.made[first:] if len(one.recipe.floating) < len(found))]
    enough = [one for one in made if one.verdict.holds]
    if enough:
        return min(enough, key=lambda one: len(one.recipe.floating)), ranking
    return max(made, key=lambda one: one.verdict.rank), ranking


def _gate_failed(best: Candidate, trials: Trials, count: int) -> AgreementError:
    closest = f"{best.door.name}, {len(best.recipe.floating)} of {count} layers in floating point"
    figures = f"SQNR {best.verdict.agreement.sqnr_db:.1f} dB, after {trials.count} trials"
    return AgreementError(
        f"INT8 does not hold the gate: {'; '.join(best.verdict.failures)} ({closest}, {figures})",
        expected=f"a Dice of at least {trials.judge.gate:g}",
        hint="more --max-trials goes on from here, more scans or --method percentile may help; "
        "fp16 or fp32 keep the answer: medattn-edge export --precision fp16",
    )


def _case(best: Candidate, judge: Judge) -> dict[str, Any]:
    asked = "min_dice_ratio" if best.verdict.candidate_dice else "min_dice"
    thresholds = {asked: judge.gate}
    return {"input": "held out", "patches": len(judge.windows), "thresholds": thresholds, **best.verdict.to_json()}


def _linted(best: Candidate) -> list[dict[str, str]]:
    """What the lint warns of; raises InputError when it finds errors, which would be a bug of the door."""
    if best.artifact.path.suffix != ".onnx":
        return []
    found = rules.check(read(best.artifact.path), best.recipe.profile, best.recipe.isa_class)
    return [{"rule": one.rule, "node": one.node, "module": one.module, "reason": one.reason} for one in found]
