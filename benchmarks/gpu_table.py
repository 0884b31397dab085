"""The tables of `gpu.py`: what a GPU gives, beside eager on the same GPU and on the CPU of its host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cells
from markdown_table import markdown_table

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
FILE = "gpu.json"
_HEAD = (
    "case",
    "row",
    "computes in",
    "p50 ms",
    "p99 ms",
    "times eager on the GPU",
    "times eager on the CPU",
    "SQNR dB",
    "Dice with eager",
    "verdict",
)
Document = dict[str, Any]


def read(results: Path) -> Document | None:
    """The result in a folder; None where no GPU was measured."""
    path = results / FILE
    if not path.is_file():
        return None
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def section(results: Path) -> str:
    """Of results/README.md, with all rows and the reasons of those that are not there; empty without a result."""
    document = read(results)
    return "" if document is None else f"\n## On a GPU\n\n{table(document)}\n\n{_absences(document)}\n"


def summary(results: Path) -> str:
    """For docs/benchmarks.md; empty without a result."""
    document = read(results)
    return "" if document is None else table(document)


def table(document: Document) -> str:
    """All rows but eager's on the CPU, to which all are compared, then what they were measured on."""
    lines = [
        (name, *_cells(row))
        for name, case in document["cases"].items()
        for row in case["rows"]
        if row["device"] != "cpu"
    ]
    return f"{markdown_table(_HEAD, lines)}\n\n{_about(document)}"


def _about(document: Document) -> str:
    gpus = ", ".join(
        f"{gpu['name']} ({gpu['compute_capability']}, driver {gpu['driver']}, CUDA {gpu['cuda']})"
        for gpu in document["gpus"]
    )
    environment = next(iter(document["cases"].values()))["environment"]
    versions = environment["versions"]
    known = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime-gpu") if name in versions)
    return (
        f"Measured on {gpus}; {known}; its host: {environment['cpu']}, {environment['threads']} threads. Medians of "
        "paired ratios of one interleaved run; a time on the GPU is that between CUDA events where the runtime has "
        "them, from before the copy of a patch to the GPU until after the copy of its answer back."
    )


def _absences(document: Document) -> str:
    told = dict(document["absent"])
    for name, case in document["cases"].items():
        told |= {f"{name}, {row}": why for row, why in case["absent"].items()}
    return "\n\n".join(f"{row}: not measured: {why}" for row, why in told.items())


def _cells(row: Document) -> tuple[str, ...]:
    agreement = row["agreement"] or {}
    return (
        row["artifact"],
        row["precision"],
        *(cells.number(row[key], ".2f") for key in ("p50_ms", "p99_ms")),
        cells.ratio(row, "ratio_to_eager_cuda", "ratio_to_eager_cuda_spread"),
        cells.ratio(row, "ratio_to_reference", "ratio_spread"),
        cells.sqnr(row),
        cells.number(agreement.get("min_dice"), ".5f"),
        cells.verdict(row),
    )
