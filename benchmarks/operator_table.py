"""The tables of `operators.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markdown_table import markdown_table

PREFIX = "operators-"
_SHOWN = 0.02  # of the time: what takes less is summed up in one line


def sections(results: Path) -> str:
    """Of results/README.md, each with its files side by side; empty where nothing was counted."""
    parts = []
    for path in sorted(results.glob(f"{PREFIX}*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        name, cpu = path.stem.removeprefix(PREFIX), document["environment"]["cpu"]
        sets = ", ".join(document["environment"]["instruction_sets"])
        about = (
            f"Milliseconds of one run on {document['environment']['threads']} threads of {cpu} ({sets}), median of "
            f"{document['runs']}, counted by OpenVINO; counting takes time too, so read the shares."
        )
        parts.append(f"\n## Where the time of {name} goes\n\n{about}\n\n{table(document)}\n")
    return "".join(parts)


def table(document: dict[str, Any]) -> str:
    """An operator a line, a file a column; in the order of the first file's times."""
    files = document["files"]
    times = {
        name: {f"{row['operator']} ({row['primitive']})": row for row in one["operators"]}
        for name, one in files.items()
    }
    kinds = dict.fromkeys(kind for rows in times.values() for kind in rows)
    shown = [kind for kind in kinds if any(rows[kind]["share"] >= _SHOWN for rows in times.values() if kind in rows)]
    lines = [(kind, *(_cell(rows.get(kind)) for rows in times.values())) for kind in shown]
    rest = [sum(row["ms"] for kind, row in rows.items() if kind not in shown) for rows in times.values()]
    lines += [("the rest", *(f"{ms:.1f}" for ms in rest)), ("all", *(f"{one['ms']:.1f}" for one in files.values()))]
    return markdown_table(("operator (primitive)", *files), lines)


def _cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['ms']:.1f} ({row['share']:.0%})"
