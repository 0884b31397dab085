"""Plan: what will be made, held to what, in which stages; written down before anything is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Final

from medattn_edge.artifact import tool_versions
from medattn_edge.deploy.candidates import FP16, FP32, CandidatePlan, planned_candidates
from medattn_edge.deploy.inputs import DeployInputs
from medattn_edge.deploy.recipe import CPU, DeployRecipe
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.gates import COMPARED, DEADLINE, INT8, REDUCED, TRUE_LABELS
from medattn_edge.gates import FP16 as FP16_GATE
from medattn_edge.gates import FP32 as FP32_GATE
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.truth import parse_label_values, values_of_labels
from medattn_edge.labels import Meaning
from medattn_edge.models.checkpoint import Checkpoint

PLAN: Final = "plan.json"
_PACKAGES: Final = {"onnx": "export", "onnxscript": "export", "onnxruntime": "export", "cyclonedx": "release"}
GATED: Final = "gate-"
FOREGROUND: Final = "foreground"
MEASURE: Final = "measure"
THREADS: Final = "threads"
BATCH: Final = "batch"
BATCHES: Final = (2, 4)  # patches per run that are tried beside one; on a CPU more gain nothing that four do not
TILING: Final = "tiling"
OVERLAPS: Final = (0.375, 0.25, 0.125, 0.0)  # of windows that are tried below the spec's own
RELEASE: Final = "release"
# What a stage costs beside the others, for the estimate of the time that is left: about a minute on two cores each.
_COST: Final = {
    "export": 1.0,
    "gate": 1.0,
    "int8": 4.0,
    "compile": 0.5,
    "look": 0.3,
    "batch": 3.0,
    TILING: 2.0,
    "release": 0.1,
}


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        name: of the stage, and of its folder.
        title: what it does, in words.
        kind: export, gate, int8, compile, tune, look, measure, batch, batches, tiling, threads or release.
        candidates: the files that it makes or judges.
        needs: the stages whose results it uses.
        seconds: what it takes at most where that is known, 0 where it is not.
        batch: patches of one run, of a stage that makes the fastest file again with them; else 0.
    """

    name: str
    title: str
    kind: str
    candidates: tuple[CandidatePlan, ...]
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    batch: int = 0

    @property
    def cost(self) -> float:
        """Beside the others; 0 where the seconds are known."""
        return 0.0 if self.seconds else _COST.get(self.kind, 0.5)


@dataclass(frozen=True)
class DeployPlan:
    """What will be done.

    Attributes:
        recipe: with this host's threads and instruction set where it named none.
        inputs: the files.
        hashes: what stands for them.
        candidates: every file of the target, with the reason of those that are not made.
        stages: in order.
        thresholds: figure -> limit, by what is held to it.
        assumptions: sentences: what nobody said, and what will not be run.
    """

    recipe: DeployRecipe
    inputs: DeployInputs = field(repr=False)
    hashes: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[CandidatePlan, ...] = ()
    stages: tuple[StagePlan, ...] = ()
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[CandidatePlan, ...]:
        """The candidates that are made."""
        return tuple(one for one in self.candidates if not one.left_out)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; no name and no path of a file."""
        return {
            "schema": 1,
            "target": self.recipe.target,
            "thresholds": {name: dict(limits) for name, limits in self.thresholds.items()},
            "inputs": dict(self.hashes),
            "candidates": [one.to_json() for one in self.candidates],
            "stages": [{"stage": one.name, "title": one.title, "needs": list(one.needs)} for one in self.stages],
            "assumptions": list(self.assumptions),
            "recipe": self.recipe.to_toml(),
            "host": {"cpu": hardware.cpu().model, "instruction_sets": list(hardware.cpu().instruction_sets)},
            "tools": tool_versions(),
        }


def plan_deployment(inputs: DeployInputs, recipe: DeployRecipe) -> DeployPlan:
    """What `deploy` will do with these files; every file is hashed, and nothing is written.

    Raises:
        UsageError: for a recipe that this host or these files cannot follow.
        InputError: for a file that cannot be read.
        MissingDependency: for what no deployment can do without.
    """
    recipe = replace(
        recipe,
        threads=recipe.threads or usable_cores(),
        isa=recipe.isa or hardware.isa_class(hardware.cpu()),
        name=recipe.name or _name_from(inputs.source.path.stem),
    )
    labelled, meaning = bool(inputs.labels), Meaning.of(inputs.source.loaded.spec)
    JudgedLabels(meaning, recipe.judge_labels)  # which refuses names that are none of the network's
    values_of_labels(parse_label_values(recipe.label_values), meaning)
    for package, extra in _PACKAGES.items():  # of the last stage too: it is said before the work
        if find_spec(package) is None:
            raise MissingDependency.of_extra(package, extra)
    candidates = planned_candidates(recipe)
    _check_deadline(recipe, candidates)
    if recipe.overlap not in (None, inputs.source.loaded.spec.overlap) and recipe.target != CPU:
        raise UsageError(
            f"an overlap of {recipe.overlap:g} for {recipe.target}",
            expected="other windows than the checkpoint's for the target cpu only: they are judged by running the file",
            hint="leave --overlap out",
        )
    hashes = inputs.hashes()
    return DeployPlan(
        recipe=recipe,
        inputs=inputs,
        hashes=hashes,
        candidates=candidates,
        stages=_stages(recipe, [one for one in candidates if not one.left_out], inputs),
        thresholds=_thresholds(recipe, labelled),
        assumptions=_assumptions(inputs, recipe, candidates, hashes),
    )


def _check_deadline(recipe: DeployRecipe, candidates: Sequence[CandidatePlan]) -> None:
    """Raise UsageError for a deadline where nothing will be timed: nobody could say that it is kept."""
    timed = recipe.target == CPU or (hardware.gpus() and any(one.is_engine and not one.left_out for one in candidates))
    if recipe.deadline_ms is not None and not timed:
        raise UsageError(
            f"a deadline for {recipe.target} on a host that runs none of its engines: nothing is timed here",
            expected="the GPU that will run it, or no deadline",
            hint="leave --deadline-ms out, and on the box: medattn-edge bench RELEASE --deadline-ms",
        )


def _name_from(stem: str) -> str:
    kept = "".join(one if one.isascii() and (one.isalnum() or one in "-_.") else "-" for one in stem.lower())
    return kept.strip("-_.")[:64] or "model"


def _stages(recipe: DeployRecipe, made: Sequence[CandidatePlan], inputs: DeployInputs) -> tuple[StagePlan, ...]:
    first = made[0]
    stages = [
        StagePlan(FP32, "export in FP32", "export", (first,)),
        StagePlan(GATED + FP32, "hold FP32 to the checkpoint on whole scans", "gate", (first,), (FP32,)),
    ]
    if not inputs.divided:  # else the gate has looked at this very scan
        stages.append(StagePlan(FOREGROUND, "look for foreground to calibrate on", "look", (), (FP32,)))
    stages += [_making(recipe, one, isinstance(inputs.source.loaded, Checkpoint)) for one in made[1:]]
    for group in _graphs(made[1:]):
        names = tuple(one.name for one in group)
        title = f"hold {' and '.join(names)} to the checkpoint on whole scans"
        stages.append(StagePlan(GATED + names[0], title, "gate", group, names))
    gates = tuple(stage.name for stage in stages if stage.kind == "gate")
    timed = tuple(one for one in made if one.eligible)
    seconds = 10.0 + (len(timed) + 1) * (recipe.duration_s + 4.0)  # opened, held to their gate, and timed
    stages.append(StagePlan(MEASURE, "time what holds its gate, in turn", MEASURE, timed, gates, seconds))
    if _tunes_batch(recipe, inputs):
        stages += _batches(recipe, timed)
    if _tunes_tiling(recipe, inputs):
        stages.append(StagePlan(TILING, _tiling_title(recipe, inputs), TILING, timed, (stages[-1].name,)))
    if recipe.target == CPU and not recipe.run_threads:
        needs = (stages[-1].name,)
        stages.append(StagePlan(THREADS, "tune the threads of the fastest", THREADS, timed, needs, 20.0))
    stages.append(StagePlan(RELEASE, "write the release", RELEASE, timed, (stages[-1].name,)))
    return tuple(stages)


def _tunes_batch(recipe: DeployRecipe, inputs: DeployInputs) -> bool:
    """A network from elsewhere is run as its file says, and other targets are not timed on every host."""
    return recipe.batch == 0 and recipe.target == CPU and isinstance(inputs.source.loaded, Checkpoint)


def _tunes_tiling(recipe: DeployRecipe, inputs: DeployInputs) -> bool:
    """Whether other windows than the spec's are judged: what was chosen has to be run here for that."""
    own = inputs.source.loaded.spec.overlap
    return recipe.target == CPU and recipe.overlap != own and (recipe.overlap is not None or min(OVERLAPS) < own)


def _tiling_title(recipe: DeployRecipe, inputs: DeployInputs) -> str:
    own = inputs.source.loaded.spec.overlap
    tried = [one for one in OVERLAPS if one < own] if recipe.overlap is None else [recipe.overlap]
    return f"hold windows that overlap by {', '.join(f'{one:g}' for one in tried)}, not {own:g}, to the checkpoint"


def _batches(recipe: DeployRecipe, timed: tuple[CandidatePlan, ...]) -> list[StagePlan]:
    making = [
        StagePlan(
            f"batch-{batch}", f"make the fastest for {batch} patches per run", "batch",
            timed, (MEASURE,), batch=batch,
        )
        for batch in BATCHES
    ]  # fmt: skip
    needs = (MEASURE, *(stage.name for stage in making))
    seconds = 10.0 + (2 * len(making) + 2) * (recipe.duration_s + 4.0)
    return [
        *making,
        StagePlan(
            BATCH, "time the batches in turn, and hold a faster one to the checkpoint", "batches", timed, needs, seconds
        ),
    ]


def _making(recipe: DeployRecipe, one: CandidatePlan, rewritable: bool) -> StagePlan:
    parents = (one.parent,) if one.parent else ()
    if one.compiler and one.parent == "" and rewritable and not recipe.rewrites:
        return StagePlan(one.name, f"tune {one.name}", "tune", (one,), parents, recipe.tune_duration_s)
    if one.compiler:
        return StagePlan(one.name, f"compile {one.name}", "compile", (one,), parents)
    if one.name == FP16:
        return StagePlan(one.name, "round to FP16, with FP32 islands", "export", (one,), parents)
    return StagePlan(one.name, f"quantise by {one.quantizer}", "int8", (one,), parents)


def _graphs(made: Sequence[CandidatePlan]) -> list[tuple[CandidatePlan, ...]]:
    """Those of one graph together: what a runtime makes of it is held to the graph as it is written."""
    groups: dict[str, list[CandidatePlan]] = {}
    for one in made:
        graph = one.parent if one.compiler and one.parent and not one.is_engine and one.parent != FP32 else one.name
        groups.setdefault(graph, []).append(one)
    return [tuple(group) for group in groups.values()]


def _thresholds(recipe: DeployRecipe, labelled: bool) -> dict[str, dict[str, float]]:
    """Every limit, from `gates` where the recipe names none."""
    shares: dict[str, float] = {}
    if labelled:
        for name in ("min_true_dice_share", "max_true_dice_share"):
            value = getattr(recipe, name)
            shares[name] = TRUE_LABELS.limits[name] if value is None else value
    usual = TRUE_LABELS if labelled else COMPARED
    dice = {"fp32": usual, "fp16": FP16_GATE, "int8": TRUE_LABELS if labelled else INT8}
    found: dict[str, dict[str, float]] = {}
    for precision, gate in dice.items():
        limit = gate.limits["min_dice"] if recipe.min_dice is None else recipe.min_dice
        found[f"{precision}, whole scans"] = {"min_dice": limit, **shares}
    found["fp32, patches"] = {name: FP32_GATE.limits[name] for name in ("min_sqnr_db", "min_label_match")}
    found["fp16 and int8, patches"] = {"min_sqnr_db": REDUCED.limits["min_sqnr_db"]}
    for precision in ("fp16", "int8"):  # by the gate that the graph carries, which is that of whole scans
        dice_limit = found[f"{precision}, whole scans"]["min_dice"]
        found[f"{precision}, compiled, against the graph"] = {**REDUCED.limits, "min_dice": dice_limit}
    if recipe.deadline_ms is not None:
        found["latency of a run"] = {"deadline_ms": recipe.deadline_ms, **DEADLINE.limits}
    return found


def _assumptions(
    inputs: DeployInputs, recipe: DeployRecipe, candidates: Sequence[CandidatePlan], hashes: Mapping[str, str]
) -> tuple[str, ...]:
    said = []
    if inputs.divided:
        said.append(
            "only one scan: a quantizer is judged on a third of it that it was not calibrated on, and the gate on "
            "whole scans is on this scan too; --held-out SCAN gives another"
        )
    if not inputs.labels:
        said.append("no --labels: the gate is the agreement with FP32, and says nothing of whether FP32 is right")
    if recipe.batch == 0 and not _tunes_batch(recipe, inputs):
        said.append("1 patch per run: another batch is tried for checkpoints on this CPU only; --batch N asks for one")
    if _tunes_tiling(recipe, inputs):
        said.append("windows are judged on scans of the sizes of those that are judged; on others they overlap as much")
    if recipe.target != CPU:
        said.append(f"{recipe.target}: graphs are judged on this CPU as they are written")
        if not hardware.gpus():
            said.append("no NVIDIA GPU here: no engine is run or timed, and FP16 is chosen by rule, not measured")
        if any(one.is_engine and not one.left_out for one in candidates):
            said.append("the bytes of an engine differ from build to build; those of every graph do not")
    if recipe.inputs:
        others = [name for name in sorted({*hashes, *recipe.inputs}) if hashes.get(name) != recipe.inputs.get(name)]
        if others:
            said.append(f"the recipe was stored with another {', '.join(others)}: the release will be another one")
    return tuple(said)
