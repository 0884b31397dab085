"""How the status page writes times, series and tables."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from medattn_edge.scanner.store.snapshot import VersionSeen


@dataclass(frozen=True)
class Column:
    """number: set to the right. rest: left out on a narrow screen."""

    head: str
    number: bool = False
    rest: bool = False

    @property
    def kind(self) -> str:
        """The attribute of its cells."""
        words = [word for word, on in (("number", self.number), ("rest", self.rest)) if on]
        return f' class="{" ".join(words)}"' if words else ""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the row. Cells are HTML. Wider than the screen it scrolls, by keyboard too."""
    head = "".join(f'<th scope="col"{one.kind}>{one.head}</th>' for one in columns)
    body = "".join(f"<tr>{''.join(map(_cell, columns, row, range(len(columns))))}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(column: Column, text: str, index: int) -> str:
    return f"<td{column.kind}>{text}</td>" if index else f'<th scope="row"{column.kind}>{text}</th>'


def section(name: str, title: str, content: str) -> str:
    """A part of the page under a heading of its own."""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{content}</section>'


def quiet(text: str) -> str:
    """A remark."""
    return f'<p class="quiet">{text}</p>'


def short(one: VersionSeen) -> str:
    """A series, as far as a person tells them apart: the start of its key, and its version."""
    return f'<span class="key"><code>{one.key[:8]}</code> <span class="quiet">v{one.version}</span></span>'


def counted(count: int, one: str, many: str) -> str:
    """1 series, 2 series."""
    return f"{count:,} {one if count == 1 else many}"


def ago(one: VersionSeen, now: float) -> str:
    """How long the last object is here."""
    when = one.times.get("last_received")
    return "-" if when is None else f"{seconds(max(0.0, now - when))} ago"


def until(when: float, now: float) -> str:
    """How long it is until something is tried."""
    return "now" if when <= now else f"in {seconds(when - now)}"


def modality(one: VersionSeen) -> str:
    """CT, MR; a dash where there is none."""
    return escape(one.modality) or "-"


def seconds(value: float) -> str:
    """A time that a person can compare at a glance."""
    if math.isnan(value):
        return "-"
    for unit, length, until in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if value < until:
            return f"{value:.1f} s" if unit == "s" and value < 10 else f"{value / length:.0f} {unit}"
    return f"{value / 86_400:.0f} d"


def clock(when: float) -> str:
    """The time of this machine, with its zone."""
    local = time.localtime(when)
    machine, person = (time.strftime(form, local) for form in ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S %Z"))
    return f'<time datetime="{machine}">{person}</time>'
