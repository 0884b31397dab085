"""Evidence stage: the report of the chosen file, on the scans that it was judged on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from medattn_edge.agreement import Thresholds
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.judging import MEASUREMENT
from medattn_edge.deploy.plan import DeployPlan
from medattn_edge.errors import MissingDependency
from medattn_edge.evaluation import ComparisonSettings
from medattn_edge.evidence import (
    KeptComparison,
    KeptMeasurement,
    RejectedCandidate,
    ReportSettings,
    check_packages,
    gather,
    write_report,
)
from medattn_edge.inference.truth import parse_label_values

Progress = Callable[[str, int, int], None]


class StageFolders(NamedTuple):
    """Where the stages have what a report is made of: the gate of the chosen file, the timing; and its own.

    `judged` is the name that the file was judged under, where that is another.
    """

    gate: Path
    measure: Path
    report: Path
    judged: str = ""


def check_report(planned: DeployPlan) -> None:
    """Raise MissingDependency now, and not after an hour, where a report is asked and cannot be drawn."""
    if not planned.recipe.report:
        return
    try:
        check_packages()
    except MissingDependency as error:
        raise MissingDependency(error.found, expected=error.expected, hint=f"{error.hint}; or --no-report") from error


def write_evidence(
    planned: DeployPlan,
    chosen: tuple[CandidatePlan, Path],
    lost: Sequence[RejectedCandidate],
    folders: StageFolders,
    progress: Progress,
) -> list[Path]:
    """Gather the evidence of the chosen file, and write report.html and report.json.

    Its answer and its times are those that it was chosen by, as its stages kept them: nothing is run twice.

    Args:
        planned: the plan.
        chosen: what it is, and the file.
        lost: candidates and windows that are in the report with their reasons.
        folders: of the stages.
        progress: called with what is going on, done, and of how many.

    Returns:
        The two files.

    Raises:
        MedattnError: as `gather` raises.
    """
    recipe, inputs = planned.recipe, planned.inputs
    plan, path = chosen
    measured = json.loads((folders.measure / MEASUREMENT).read_text(encoding="utf-8"))
    evidence = gather(
        inputs.source.path,
        [path],
        inputs.judged,
        labels=inputs.labels,
        label_values=parse_label_values(recipe.label_values),
        thresholds=Thresholds(
            min_dice=recipe.min_dice,
            min_true_dice_share=recipe.min_true_dice_share,
            max_true_dice_share=recipe.max_true_dice_share,
        ),
        deadline_ms=recipe.deadline_ms,
        candidates=lost,
        compared=KeptComparison.read(folders.gate).under(folders.judged or path.name, path.name, plan.runtimes),
        measured=KeptMeasurement.from_json(measured),
        settings=ReportSettings(
            runtimes=("onnxruntime",) if path.suffix == ".onnx" else (),
            attention=True,
            layers=plan.precision != "fp32",  # FP32 has no noise of its own to look for
            comparison=ComparisonSettings(
                device="cpu" if recipe.target == "cpu" else "cuda:0",
                threads=recipe.threads,
                source=inputs.source.options,
                judge_labels=recipe.judge_labels,
            ),
        ),
        progress=progress,
    )
    return list(write_report(evidence, folders.report))
