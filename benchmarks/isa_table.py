"""The table of `instruction_sets.py`: what a buyer of a CPU gets, beside what it is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cells
from markdown_table import markdown_table

BEGIN, END = "<!-- instruction sets: begin -->", "<!-- instruction sets: end -->"
PREFIX = "instruction-sets-"
Document = dict[str, Any]
_HEAD = ("instruction sets", "as in", "threads", "row", "p50 ms", "times eager", "SQNR dB", "labels equal", "verdict")


def documents(results: Path) -> dict[str, Document]:
    """Name of the case -> its result, of every result in a folder."""
    paths = sorted(results.glob(f"{PREFIX}*.json"))
    return {path.stem.removeprefix(PREFIX): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def sections(results: Path) -> str:
    """Of results/README.md, each with all its rows; empty where nothing was measured."""
    return "".join(
        f"\n## {name} under the instruction sets of other CPUs\n\n{_about(document)}\n\n{table(document)}\n"
        for name, document in documents(results).items()
    )


def summary(results: Path) -> str:
    """For docs/benchmarks.md: of every cap the fastest row that agrees, for each number of threads."""
    parts = []
    for name, document in documents(results).items():
        told = document["instruction_sets"]
        lines = [
            (cap, like, *(_best(document, cap, count) for count in told["threads"]))
            for cap, like in told["caps"].items()
        ]
        head = (name, "as in", *(f"{count} threads" if count > 1 else "1 thread" for count in told["threads"]))
        parts.append(f"{markdown_table(head, lines)}\n\n{_about(document)}")
    return "\n\n".join(parts)


def table(document: Document) -> str:
    """All rows in Markdown, then what was not measured."""
    likes = document["instruction_sets"]["caps"]
    lines = [(row["cap"], likes[row["cap"]], row["threads"], *_cells(row)) for row in document["rows"]]
    missing = [f"{place}: not measured: {why}" for place, why in document["absent"].items()]
    return "\n\n".join([markdown_table(_HEAD, lines), *missing])


def _about(document: Document) -> str:
    cpu = document["environment"].get("cpu", "nothing was measured")
    return (
        f"Measured on one host ({cpu}) with instruction sets taken away, which makes no other CPU of it: clocks, "
        "caches and memory are its own. Times eager is the paired ratio to the eager network under the same cap, on "
        "as many threads."
    )


def _cells(row: Document) -> tuple[str, ...]:
    agreement = row["agreement"] or {}
    return (
        row["artifact"],
        cells.number(row["p50_ms"], ".1f"),
        cells.ratio(row, "ratio_to_reference", "ratio_spread"),
        cells.sqnr(row),
        cells.number(agreement.get("label_match"), ".4%"),
        cells.verdict(row),
    )


def _best(document: Document, cap: str, threads: int) -> str:
    """The fastest row that agrees at one point, or why there is none."""
    rows = [row for row in document["rows"] if (row["cap"], row["threads"]) == (cap, threads)]
    able = [row for row in rows if row["ratio_to_reference"] is not None and row["verdict"] != "fail"]
    able = [row for row in able if row["artifact"] != "eager"]  # what the others are told in multiples of
    if not able:
        absent = document["absent"]
        why = absent.get(cap) or absent.get(f"{cap} on {threads} threads")
        declined = any(row.get("ratio_declined") for row in rows)
        return f"not measured: {why}" if why else "declined: the host was busy" if declined else "no row agrees"
    best = max(able, key=lambda row: row["ratio_to_reference"])
    sqnr = (best["agreement"] or {}).get("sqnr_db")
    close = "identical" if sqnr is None else f"{sqnr:.1f} dB"
    return f"{best['ratio_to_reference']:.2f} ({best['artifact']}, {close}; {best['p50_ms']:.1f} ms)"
