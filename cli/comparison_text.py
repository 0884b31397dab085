"""What compare tells a person: every graph's runtimes side by side, and who is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import console
from .label_audit_text import note_label_audits

_FIGURES = {
    "SQNR dB": ("sqnr_db", ".1f"),
    "largest difference": ("max_abs", ".2g"),
    "label match": ("label_match", ".6f"),
    "flips": ("flips", "d"),
    "on a boundary": ("boundary_flips", "d"),
}
_PER_LABEL = {
    "Dice with the reference": "dice",
    "volume change %": "volume_change_percent",
    "true Dice, reference": "reference_dice",
    "true Dice, candidate": "candidate_dice",
    "share of the reference's true Dice": "true_dice_share",
}


def tell(document: dict[str, Any]) -> None:
    """Print a document of compare, as its --json would have been."""
    for note in document["notes"]:
        console.note(note)
    note_label_audits(document["label_audits"])
    for graph in document["runtimes"]:
        paths = list(dict.fromkeys(row["artifact"] for row in graph["rows"]))
        rows = [row for row in document["candidates"] if row["artifact"] in paths]
        scans = list(dict.fromkeys(case["scan"] for row in rows for case in row["cases"]))
        for scan in scans:
            _tell_scan(", ".join(paths), scan, rows)
        for row in rows:
            for failure in row["failures"]:
                console.say(f"  FAIL: {row['artifact']} in {row['backend']}: {failure}")
        if graph["note"]:
            console.note(f"{paths[0]}: {graph['note']}", level=1 if len(graph["rows"]) > 1 else 2)
        for row in graph["rows"]:
            if row["reason"] and row["verdict"] == "pass":
                console.note(f"{row['artifact']} in {row['backend']}: {row['reason']}")
    _tell_left_out(document["left_out"])
    gates = _gates(document["candidates"])
    for gate, names in gates.items() if len(gates) > 1 else ():
        console.say(f"gate of {', '.join(names)}: {gate}")
    limits = next(iter(gates)) if len(gates) == 1 else "each file by its own gate"
    console.say(f"verdict against {document['reference']}: {document['verdict'].upper()} ({limits})")
    for graph in document["runtimes"]:
        if graph["refused"]:
            console.say(f"refused for deployment of {graph['artifact']}: {', '.join(graph['refused'])}")
            console.say(f"  next: {graph['hint']}")


def _gates(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What was held, and by whose word -> the files that it was held for."""
    from medattn_edge.evaluation.held_gate import held_text

    found: dict[str, list[str]] = {}
    for row in rows:
        names = found.setdefault(held_text(row["thresholds"], row["gate"]), [])
        if (name := Path(row["artifact"]).name) not in names:
            names.append(name)
    return found


def _tell_left_out(left_out: dict[str, str]) -> None:
    for why in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name, reason in left_out.items() if reason == why)
        console.note(f"not compared: {names} ({why})")


def _tell_scan(title: str, scan: str, rows: list[dict[str, Any]]) -> None:
    """One scan: a column for each candidate and runtime, a line for each figure."""
    columns = [(row, case) for row in rows for case in row["cases"] if case["scan"] == scan]
    console.say(f"{title} on {columns[0][1]['name']}")
    several = len({row["artifact"] for row, _ in columns}) > 1
    lines = list[tuple[str, ...]]()
    for name, (key, form) in _FIGURES.items():
        lines.append((name, *(_number(case[key], form) for _, case in columns)))
    for name, key in _PER_LABEL.items():
        if key not in columns[0][1]:
            continue
        for label in dict.fromkeys(label for _, case in columns for label in case[key] if label not in case["absent"]):
            lines.append((f"{name}, {label}", *(_figure(case[key], label) for _, case in columns)))
    lines.append(("verdict", *(row["verdict"].upper() for row, _ in columns)))
    console.show_side_by_side(("", *(_heading(row, several) for row, _ in columns)), lines)
    for label, why in columns[0][1]["not_judged"].items():
        console.say(f"  not judged: {label}, {why}")
    for row, case in columns:
        for failure in case["failures"]:
            console.say(f"  FAIL: {row['artifact']} in {row['backend']}: {failure}")


def _heading(row: dict[str, Any], several: bool) -> str:
    return f"{row['backend']}\n{Path(row['artifact']).name}" if several else str(row["backend"])


def _figure(figures: dict[str, float | None], label: str) -> str:
    return _number(figures[label], ".6f") if label in figures else "-"


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
