"""compare: does a candidate still say what the reference says, in every runtime that may compute it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.errors import UsageError

from . import console
from .comparison_run import Entry, Task, Truth, entries, run
from .comparison_text import tell
from .truth import parse_values

if TYPE_CHECKING:
    from medattn_edge.evaluation.disagreement import Ruling

Option = typer.Option


def command(  # noqa: PLR0913
    reference: Annotated[Path, typer.Argument(help="The checkpoint (eager FP32), or an artifact.")],
    files: Annotated[list[Path], typer.Argument(metavar="CANDIDATE ... SCAN ...", help="Artifacts, then scans.")],
    runtime: Annotated[
        list[str] | None,
        Option(
            "--runtime",
            metavar="NAME",
            help="Of .onnx candidates; repeat it, or all. By default all for int8 and fp16, the usual one for fp32.",
        ),
    ] = None,
    max_gap_db: Annotated[
        float, Option("--max-gap-db", min=0, help="SQNR that a runtime may lose to the graph as written.")
    ] = 6.0,
    time_limit: Annotated[float, Option("--time-limit", min=1, help="Of opening, and of one run, in s.")] = 600.0,
    labels: Annotated[list[Path] | None, Option("--labels", help="True labels, one file per scan, in order.")] = None,
    label_value: Annotated[
        list[str] | None, Option("--label-value", metavar="NAME=VALUE", help="A label's value in --labels; repeat it.")
    ] = None,
    min_dice: Annotated[float | None, Option("--min-dice", help="Dice with the reference, every label.")] = 0.999,
    min_sqnr_db: Annotated[float | None, Option("--min-sqnr-db", help="Of the logits.")] = None,
    min_label_match: Annotated[float | None, Option("--min-label-match", help="Share of equal voxels.")] = None,
    max_volume_change: Annotated[float | None, Option("--max-volume-change", help="In %, every label.")] = None,
    min_dice_ratio: Annotated[
        float | None, Option("--min-dice-ratio", help="True Dice over the reference's, every label; needs --labels.")
    ] = None,
    atol: Annotated[float | None, Option("--atol", help="Largest difference of two logits.")] = None,
    device: Annotated[str, Option("--device", help="Of the candidates: cpu or cuda:INDEX.")] = "cpu",
    threads: Annotated[
        int, Option("--threads", min=0, help="Of the CPU; 0 is one for each core that this process may use.")
    ] = 0,
    overlap: Annotated[float, Option("--overlap", help="Of neighbouring windows.")] = 0.5,
    batch: Annotated[int, Option("--batch", min=1, help="Windows per run.")] = 4,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare candidates with the reference on scans, each in a process of its own.

    Exit code 1 when a threshold is not reached, or when a runtime crashes on a graph or computes another one: it is
    named, and must not be deployed with that file.
    """
    from medattn_edge.agreement import Thresholds
    from medattn_edge.evaluation.disagreement import Outcome, judge
    from medattn_edge.host import hardware
    from medattn_edge.host.cores import usable_cores
    from medattn_edge.inference import Settings

    candidates, scans = _split(files)
    if labels and len(labels) != len(scans):
        raise UsageError(
            f"{len(labels)} label files for {len(scans)} scans",
            expected="one each, in order",
            hint="--labels A.nii.gz --labels B.nii.gz",
        )
    if min_dice_ratio is not None and not labels:
        raise UsageError(
            "--min-dice-ratio without --labels", expected="true labels to compare with", hint="--labels FILE"
        )
    gate = Thresholds(min_dice, min_sqnr_db, min_label_match, atol, max_volume_change)
    truth = Truth(labels or [], parse_values(label_value or []), min_dice_ratio)
    task = Task(reference, scans, gate, truth, Settings(overlap, batch), threads or usable_cores(), time_limit)
    groups, left_out = entries(candidates, runtime or [], device)
    rulings = []
    for group in groups:
        run(group, task, left_out)
        outcomes = [Outcome(one.name, tuple(one.agreements), one.failure, one.runtime.as_written) for one in group]
        rulings.append(judge(outcomes, max_gap_db))
    document = _document(task, candidates, list(zip(groups, rulings, strict=True)), max_gap_db)
    document |= {"left_out": left_out, "instruction_sets": list(hardware.cpu().instruction_sets)}
    if json:
        console.print_json(document)
    else:
        tell(document)
    if document["verdict"] == "fail":
        raise typer.Exit(1)


def _document(
    task: Task, paths: list[Path], ruled: list[tuple[list[Entry], Ruling]], max_gap_db: float
) -> dict[str, Any]:
    """The JSON document: rows in the order in which the candidates were given."""
    rows, runtimes = [], []
    for group, ruling in ruled:
        for one, row in zip(group, ruling.rows, strict=True):
            failures = [row.reason] if row.refused else []
            passed = not failures and all(case["verdict"] == "pass" for case in one.cases)
            rows.append(
                {
                    "artifact": str(one.path),
                    "backend": one.runtime.name,
                    "verdict": "pass" if passed else "fail",
                    "failures": failures,
                    "cases": one.cases,
                }
            )
        told = ruling.to_json()
        told["rows"] = [
            {**row, "backend": one.runtime.name, "artifact": str(one.path)}
            for one, row in zip(group, told["rows"], strict=True)
        ]
        runtimes.append({"artifact": str(group[0].path), "max_gap_db": max_gap_db, **told})
    rows.sort(key=lambda row: paths.index(Path(row["artifact"])))
    ratio = task.truth.ratio
    return {
        "reference": str(task.reference),
        "thresholds": task.gate.to_json() | ({} if ratio is None else {"min_dice_ratio": ratio}),
        "verdict": "pass" if all(row["verdict"] == "pass" for row in rows) else "fail",
        "candidates": rows,
        "runtimes": runtimes,
    }


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Candidates are what a backend opens; the rest are scans."""
    from medattn_edge.backends import backends

    suffixes = {suffix for backend in backends().values() for suffix in backend.suffixes}
    candidates = [path for path in files if path.suffix.lower() in suffixes]
    scans = [path for path in files if path.suffix.lower() not in suffixes]
    if not candidates or not scans or files != [*candidates, *scans]:
        raise UsageError(
            f"{len(candidates)} candidate(s) and {len(scans)} scan(s) in this order",
            expected="at least one candidate, then at least one scan",
            hint="medattn-edge compare CHECKPOINT NET.onnx SCAN.nii.gz",
        )
    return candidates, scans
