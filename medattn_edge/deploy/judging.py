"""Judging: whole scans beside the checkpoint's own answer, and the time of what holds its gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.plan import DeployPlan
from medattn_edge.deploy.work_folder import WorkFolder, key_of
from medattn_edge.errors import HostError, ScanError
from medattn_edge.evaluation import (
    BenchSettings,
    ComparisonSettings,
    PlanSettings,
    ReferenceCache,
    TrueLabels,
    compare,
    plan_measurement,
)
from medattn_edge.evidence import ComparisonKeeper, KeptMeasurement
from medattn_edge.evidence.anonymity import CaseNames
from medattn_edge.inference.segment import segment
from medattn_edge.inference.truth import parse_label_values
from medattn_edge.labels import Meaning

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
MEASUREMENT: Final = "measurement.json"
_GPU = "cuda:0"


def look_for_foreground(planned: DeployPlan, fp32: Path, progress: Progress) -> dict[str, Any]:
    """The first scan to calibrate on in which FP32 finds something.

    Raises:
        ScanError: it finds nothing in any: every range would be that of background.
    """
    scans = planned.inputs.scans
    with OnnxRuntimeSession(Artifact.read(fp32), Options(threads=planned.recipe.threads)) as session:
        for number, scan in enumerate(scans, 1):
            volume = scan.read_for(session.spec)
            found = segment(session, volume, progress=partial(progress, "looking for foreground"))
            if found.labels.voxels.any():
                return {"scan": number}
    labels = ", ".join(Meaning.of(planned.inputs.source.loaded.spec).structures)
    raise ScanError(
        f"the network finds none of {labels} in the {len(scans)} scans to calibrate on",
        expected="at least one scan with foreground",
        hint="give a scan that has what the network looks for",
    )


def gate(
    planned: DeployPlan,
    files: Mapping[str, Path],
    folder: Path,
    progress: Progress,
    say: Say,
    runtimes: Sequence[str] = (),
) -> dict[str, Any]:
    """Hold the candidates of one graph to the checkpoint on the scans that are judged.

    Args:
        planned: the plan.
        files: name of a candidate -> its file.
        folder: of the stage: the comparison is kept there with its labels, for the report. The checkpoint's logits are
            kept in the cache of the work folder that it is in: the checkpoint is run once for all stages.
        progress: called with the scan, windows done and in total.
        say: called with what people should know of how scans were read.
        runtimes: of .onnx files; empty for all that `compare` usually looks at.

    Returns:
        `rows`: what `compare` says of each candidate in each runtime, with numbers in the place of scans' names;
        `left_out`: runtime -> why it was not run.

    Raises:
        ScanError: there is nothing to judge of a label.
        MedattnError: as `compare` raises.
    """
    recipe, inputs = planned.recipe, planned.inputs
    engines = any(Path(path).suffix in (".engine", ".rtx") for path in files.values())
    truth = TrueLabels(
        inputs.labels, parse_label_values(recipe.label_values), recipe.min_true_dice_share, recipe.max_true_dice_share
    )
    keeper = ComparisonKeeper(folder)
    found = compare(
        inputs.source.path,
        list(files.values()),
        inputs.judged,
        labels=truth,
        thresholds=Thresholds(min_dice=recipe.min_dice),
        runtimes=runtimes,
        settings=ComparisonSettings(
            device=_GPU if engines else "cpu",
            threads=recipe.threads,
            source=inputs.source.options,
            judge_labels=recipe.judge_labels,
            cache=_cache(planned, folder),
        ),
        progress=progress,
        observer=keeper,
    )
    keeper.finish(found, CaseNames.of_files(inputs.judged, inputs.labels), inputs.labels)
    for note in found.notes:
        say(note)
    rows = [_plain_row(planned, row) for row in found.to_json()["candidates"]]
    return {"rows": rows, "left_out": dict(found.left_out)}


def _cache(planned: DeployPlan, folder: Path) -> ReferenceCache:
    recipe, options = planned.recipe, planned.inputs.source.options
    files = {name: digest for name, digest in planned.hashes.items() if "scan" not in name}
    said = [recipe.network, recipe.weights, list(recipe.settings), str(options)]
    return ReferenceCache(WorkFolder(folder.parent).cache, key_of({"files": files, "said": said}))


def _plain_row(planned: DeployPlan, row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {str(scan.path): number for number, scan in enumerate(planned.inputs.judged, 1)}
    cases = []
    for case in row["cases"]:
        rest = {name: value for name, value in case.items() if name not in ("scan", "name")}
        cases.append({"judged_scan": numbers[case["scan"]], **rest})
    return {
        "candidate": Path(row["artifact"]).name,
        "runtime": row["backend"],
        "verdict": row["verdict"],
        "failures": [planned.inputs.without_names(reason) for reason in row["failures"]],
        "thresholds": row["thresholds"],
        "cases": cases,
    }


def measure(
    planned: DeployPlan,
    files: Mapping[str, Path],
    plans: Sequence[CandidatePlan],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Time candidates in turn with the checkpoint, each held to its gate on patches first.

    Args:
        planned: the plan.
        files: name of a candidate -> its file.
        plans: of these candidates.
        folder: of the stage: the measurement is kept there with every sample, for the report.
        progress: called with what is going on, done, and of how many.

    Returns:
        `rows`: what `bench` says of the checkpoint and of each candidate in each runtime; `environment`; `left_out`.
        Without a GPU no engine is timed, and nothing that would be compiled to one: `reason` says so.
    """
    recipe, inputs = planned.recipe, planned.inputs
    on_gpu = recipe.target != "cpu"
    timed = [one for one in plans if one.is_engine] if on_gpu else list(plans)
    if not timed:
        why = "no engine was run on this host" if on_gpu else "no candidate holds its gate"
        return _kept(planned, KeptMeasurement(reason=why), folder)
    named = [files[one.name] for one in timed]
    chosen = PlanSettings(
        runtimes=("onnxruntime",) if any(path.suffix == ".onnx" for path in named) else (),
        device=_GPU if on_gpu else "cpu",
        patches=recipe.measured_patches,
        reduced_floors={} if recipe.min_dice is None else {"min_dice": recipe.min_dice},
        source=inputs.source.options,
    )
    settings = BenchSettings(recipe.duration_s, 1.0, recipe.threads, recipe.deadline_ms, batch=recipe.first_batch)
    try:
        plan = plan_measurement(named, inputs.source.path, inputs.judged, chosen=chosen, settings=settings)
        kept = KeptMeasurement.of(plan.run(progress))
    except HostError as error:
        if not on_gpu:
            raise
        kept = KeptMeasurement(reason=error.found)
    return _kept(planned, kept, folder)


def _kept(planned: DeployPlan, measurement: KeptMeasurement, folder: Path) -> dict[str, Any]:
    """Write it into the folder of the stage, and tell it without the samples."""
    inputs = planned.inputs
    document = CaseNames.of_files(inputs.judged, inputs.labels).cleaned(measurement.to_json())
    (folder / MEASUREMENT).write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
    rows = []
    for row in measurement.rows:
        failures = [inputs.without_names(one) for one in row["failures"]]
        rows.append({**{key: value for key, value in row.items() if key != "samples_ms"}, "failures": failures})
    rest = {name: document[name] for name in ("environment", "left_out", "reason")}
    return {"rows": rows, **rest}
