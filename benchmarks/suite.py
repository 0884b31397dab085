"""Measures cases: every way to run a network, ours and the peers', in one interleaved run, each beside its agreement.

    python benchmarks/suite.py attention-unet-3d self-guided [--duration 10] [-o benchmarks/results]

Writes one JSON file a case, in the shape of `medattn-edge bench --json`. Further fields: `case`; `absent`, the rows
that could not be made, and why; and in each row the paired ratios of `cases.BASELINES`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from artifacts import Files
from cases import BASELINES, CASES, FP32_ON_GPU, GPU, OURS, PEERS, REFERENCE, Case, Form
from trained import source_of

from medattn_edge.agreement import IDENTICAL_DB, LogitsDistance
from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends import backends, missing_packages
from medattn_edge.backends.runtimes import Runtime
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import MedattnError, MissingDependency
from medattn_edge.evaluation import BenchCandidate, BenchReport, BenchSettings, measure_candidates
from medattn_edge.host import hardware
from medattn_edge.models.flops import gflop

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".benchmarks" / "files"
RESULTS = HERE / "results"
ON_CPU, ON_GPU = (*OURS, *PEERS), GPU


def main(  # noqa: PLR0913 - options of a command
    names: Annotated[list[str] | None, typer.Argument(metavar="CASE...", help="By default all.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each row.")] = 10.0,
    folder: Annotated[Path, typer.Option(help="Where the files that are made are kept.")] = FOLDER,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = RESULTS,
    threads: Annotated[int, typer.Option(help="0: as many as there are cores.")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="The rows of an NVIDIA GPU.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Leave a row out; the result says so.")
    ] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Make the files that are not there yet.")] = False,
) -> None:
    """Measure cases."""
    known = {case.name: case for case in CASES}
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is no case; expected some of {', '.join(known)}")
    if gpu and not hardware.gpus():
        print("no NVIDIA GPU with a driver is here", file=sys.stderr)
        raise typer.Exit(3)
    settings = BenchSettings(duration_s=duration, threads=threads, timeout_s=1800)
    forms, left_out = ON_GPU if gpu else ON_CPU, without or []
    if strange := sorted(set(left_out) - {form.name for form in forms}):
        raise typer.BadParameter(f"{', '.join(strange)} is no row; expected some of {[form.name for form in forms]}")
    chosen = [form for form in forms if form.name not in left_out]
    for name in names or known:
        if reason := not_here(known[name]):
            _say(f"{name}: not measured: {reason}")
            continue
        if files_only:
            candidates(Files(known[name], folder), chosen)
            continue
        document = run(known[name], chosen, settings, folder)
        document["absent"] |= dict.fromkeys(left_out, "left out of this run")
        write(document, output / f"{name}{'-gpu' if gpu else ''}.json")
        print(table(document))


def run(case: Case, forms: Sequence[Form], settings: BenchSettings, folder: Path = FOLDER) -> dict[str, Any]:
    """The results of one case; the first row is the eager network on the CPU."""
    files = Files(case, folder)
    found, absent = candidates(files, forms)
    _say(f"{case.name}: measuring {len(found) + 1} rows")
    reference = _candidate(files, REFERENCE, files.checkpoint())
    _, held_out, right = files.patches
    truth = {} if right is None else {"held out": right}
    report = measure_candidates(
        reference, found, {"held out": held_out}, replace(settings, batch=case.batch), truth=truth
    )
    learnt = (
        "slices of its scan that were held out (1 subject)"
        if case.trained
        else "smooth random images: the network has learnt nothing"
    )
    weights = "trained" if case.trained else "initial" if case.initial else "deterministic"
    about: dict[str, Any] = {"name": case.name, "source": case.source, "weights": weights, "judged_on": learnt}
    about |= {"calibrated_on": case.calibration, "constant_db": _constant_db(files)}
    document = report.to_json()
    rows = [{**row, **ratios} for row, ratios in zip(document["rows"], _ratios(report), strict=True)]
    return {"case": about, **document, "rows": rows, "absent": absent}


def not_here(case: Case) -> str:
    """Why a case cannot be measured on this host; empty when it can."""
    if not case.trained:
        return ""
    try:
        source_of(case.source)
    except MedattnError as error:
        return f"{error.message}; {error.hint}"
    return ""


def _constant_db(files: Files) -> float | None:
    """The SQNR that each channel's mean would have, on one patch: below it, an SQNR says nothing of the image.

    None where the logits do not vary at all.
    """
    with EagerSession(files.loaded.network, files.loaded.spec) as session:
        logits = session.run(files.patches.held_out[:1])
    mean = logits.mean(axis=tuple(range(2, logits.ndim)), keepdims=True)
    distance = LogitsDistance()
    distance.add(logits, np.broadcast_to(mean, logits.shape))
    return None if distance.sqnr_db == IDENTICAL_DB else distance.sqnr_db


def candidates(files: Files, forms: Sequence[Form]) -> tuple[list[BenchCandidate], dict[str, str]]:
    """What can be measured, and why the rest cannot; the files are made where they are not there yet."""
    found, absent = [], {}
    for form in forms:
        try:
            _check_here(form)
            _say(f"{files.case.name}: {form.name}")
            found.append(_candidate(files, form, files.make(form.made)))
        except MedattnError as error:
            absent[form.name] = error.message
    return found, absent


def _check_here(form: Form) -> None:
    record = backends()[form.backend]
    for package in missing_packages(record):
        raise MissingDependency.of_extra(package, record.extra)
    if form.made == "torch_int8" and importlib.util.find_spec("torchao") is None:
        raise MissingDependency.of_extra("torchao", "peers")
    if "inductor" in form.runs and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise MissingDependency("torch.compile finds no C++ compiler", expected="g++", hint="apt-get install g++")


def _candidate(files: Files, form: Form, path: Path) -> BenchCandidate:
    case, is_artifact = files.case, manifest_path(path).is_file()
    spec = files.loaded.spec
    return BenchCandidate(
        name=form.name,
        path=path,
        runtime=Runtime(form.runs or form.backend, form.backend, form.device),
        network=case.network,
        precision=_default_precision() if form.precision == "default" else form.precision,
        gate=FP32_ON_GPU if form.asked == "gpu" else case.gates[form.asked],
        gflop=Artifact.read(path).manifest.gflop if is_artifact else gflop(files.loaded.network, spec),
        opener=form.opener,
        spec=None if is_artifact else spec,
    )


def _default_precision() -> str:
    """In what OpenVINO computes an FP32 graph when nobody says in what."""
    from medattn_edge.backends.openvino.library import imported

    return "bf16" if "BF16" in imported().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _ratios(report: BenchReport) -> list[dict[str, Any]]:
    """For each row, its paired ratios to the baselines, each with its quartiles; null where either has no
    speed, and where the host was busy.
    """
    baselines = {
        field: next((row.latency for row in report.rows if row.artifact == name), None)
        for field, name in BASELINES.items()
        if any(row.artifact == name for row in report.rows)
    }
    found = []
    for row in report.rows:
        fields: dict[str, Any] = {}
        for field, baseline in baselines.items():
            pair = row.latency.ratio_of(baseline) if row.latency is not None and baseline is not None else None
            fields |= {field: pair and pair.figure, f"{field}_spread": pair and pair.spread}
        found.append(fields)
    return found


def write(document: dict[str, Any], path: Path) -> None:
    """Write a result; what is not finite would be a bug."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _say(f"wrote {path}")


def table(document: dict[str, Any]) -> str:
    """A result as text."""
    from report import table_of

    return f"{table_of(document)}\n"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
