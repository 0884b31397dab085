"""The tables of a cohort: volumes.csv, failures.csv and left_out.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from medattn_edge.cohort.case import Failure

VOLUMES, FAILURES, LEFT_OUT = "volumes.csv", "failures.csv", "left_out.csv"
_MEASURES: Final = ("voxels", "ml", "mean", "standard_deviation", "components")
_VOLUME_COLUMNS: Final = ("case", "label", *_MEASURES)
_FAILURE_COLUMNS: Final = ("case", "scan", "code", "message", "hint")


def volumes_csv(rows: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """One line for every label of every case: (name, the labels of its record); empty cells where nothing is known."""
    lines = [
        [case, label["label"], *(_text(label[name]) for name in _MEASURES)] for case, labels in rows for label in labels
    ]
    return _csv(_VOLUME_COLUMNS, lines)


def failures_csv(failures: Sequence[Failure]) -> str:
    """One line for every case that was not segmented."""
    lines = [[one.case, one.scan, one.code, one.message, one.hint] for one in failures]
    return _csv(_FAILURE_COLUMNS, lines)


def _csv(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return out.getvalue()


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def is_table(path: Path) -> bool:
    """Whether a file is such a table, or is not there."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.readline().strip()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return head == ",".join(_VOLUME_COLUMNS if path.name == VOLUMES else _FAILURE_COLUMNS)
