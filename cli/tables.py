"""Tables that fit: no name is broken or cut, however narrow the terminal.

Rich takes the room for a table from its widest columns, words or no words, and breaks or cuts what then does not fit.
Here every column has room for its longest word, and for short lines as they are where that fits; what is left goes
to the columns that have more to say. Where there is no room for the words, a row becomes a few lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from .visible import visible

_HASH = re.compile(r"[0-9a-f]{40,}")
_SHORT_LINES = (24, 16, 12, 8, 0)  # columns: a number with its unit, the name of a figure; the widest that fits
_PART_OF_HASH = 32  # characters of a hash that stay together: it is compared by machine, and copied whole either way


def fitted(table: Table, console: Console) -> RenderableType:
    """The table with columns for its longest words, or its rows as lines where the console is too narrow for them."""
    if not table.columns:
        return table
    if _fit(table, console):
        return table
    table.padding = (0, 0, 0, 0)  # a line between the columns is enough before a table is none any more
    if _fit(table, console):
        return table
    lines = (part for line in _stacked(table) for part in wrapped(line, console.width))
    return Text("\n".join(lines))


def side_by_side(heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> list[Table]:
    """One table, or several below each other with as many of the columns as fit, each with the first one.

    Args:
        heads: of the columns.
        rows: their cells.
        console: that has to have room for them.
    """
    rest = len(heads) - 1
    for count in range(rest, 0, -1):
        groups = [range(first, min(first + count, rest + 1)) for first in range(1, rest + 1, count)]
        tables = [_of_columns([0, *group], heads, rows) for group in groups]
        if count == 1 or all(_fit(one, console) for one in tables):
            break
    return [_of_columns([0, *group], heads, rows) for group in groups]


def _of_columns(chosen: Sequence[int], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*(heads[index] for index in chosen))
    for row in rows:
        table.add_row(*(row[index] for index in chosen))
    return table


def _fit(table: Table, console: Console) -> bool:
    """Give the columns widths with room for their longest words; False where there is none."""
    wanted = [max(map(cell_len, _lines(column)), default=0) for column in table.columns]
    unbounded = console.options.update(max_width=sum(wanted) + 100 * len(wanted))
    room = console.width - (Measurement.get(console, unbounded, table).maximum - sum(wanted))
    if sum(wanted) <= room:
        return True
    for whole in _SHORT_LINES:
        needed = [max(_together(column, whole), default=0) for column in table.columns]
        if sum(needed) <= room:
            for column, width in zip(table.columns, _shared(needed, wanted, room), strict=True):
                column.width, column.overflow, column.no_wrap = width, "fold", False
            return True
    return False


def title_above(table: Table, console: Console) -> list[str]:
    """The title of a fitted table as lines to print above it, without which the table is left; none where it fits.

    Rich breaks a title that is longer than the table is wide, anywhere.
    """
    title = _text(table.title or "")
    room = Measurement.get(console, console.options, table).maximum
    if max(map(cell_len, title.splitlines()), default=0) <= room:
        return []
    table.title = None
    return [part for line in title.splitlines() for part in wrapped(line, console.width)]


def wrapped(line: str, width: int) -> list[str]:
    """A line as lines of at most that width, broken between words; a word that is longer has one to itself.

    Those after the first are indented deeper than it: they do not look like lines of their own.
    """
    start = line[: len(line) - len(line.lstrip())]
    found, here = list[str](), start
    for word in line.split():
        ahead = f"{here} {word}" if here.strip() else f"{here}{word}"
        if here.strip() and cell_len(ahead) > width:
            found.append(here)
            ahead = f"{start}    {word}"
        here = ahead
    return [*found, here]


def _shared(needed: list[int], wanted: list[int], room: int) -> list[int]:
    """Widths that sum up to the room at most: what is needed, and a share of the rest by what more is wanted."""
    spare, more = room - sum(needed), sum(wanted) - sum(needed)
    return [least + spare * (most - least) // more for least, most in zip(needed, wanted, strict=True)]


def _together(column: Column, whole: int) -> Iterator[int]:
    """The widths of what must stay together: words, and lines that are no longer than `whole`."""
    for line in _lines(column):
        if cell_len(line) <= whole:
            yield cell_len(line)
        yield from map(_width, line.split())


def _cells(column: Column) -> Iterator[str]:
    for cell in (column.header, *column.cells, column.footer):
        yield _text(cell)


def _text(cell: Any) -> str:
    return visible(cell.plain if isinstance(cell, Text) else str(cell))


def _lines(column: Column) -> Iterable[str]:
    return (line for cell in _cells(column) for line in cell.splitlines())


def _width(word: str) -> int:
    return min(cell_len(word), _PART_OF_HASH) if _HASH.fullmatch(word) else cell_len(word)


def _stacked(table: Table) -> Iterator[str]:
    """Each row as lines: its first cell, then `head: cell` of every other that says something."""
    if table.title:
        yield _text(table.title)
    heads = [" ".join(_text(column.header).split()) for column in table.columns] if table.show_header else None
    for first, *rest in zip(*(column.cells for column in table.columns), strict=True):
        name = _in_a_line(first)
        if heads is None:
            yield f"{name}: {'; '.join(map(_in_a_line, rest))}"
            continue
        yield f"{heads[0]} {name}" if heads[0] and name else heads[0] or name
        for head, cell in zip(heads[1:], rest, strict=True):
            if said := _in_a_line(cell):
                yield f"  {head}: {said}" if head else f"  {said}"
    if table.show_footer and any(map(_text, (column.footer for column in table.columns))):
        yield " ".join(filter(None, (_text(column.footer) for column in table.columns)))


def _in_a_line(cell: Any) -> str:
    """The lines of a cell in one, with commas but after a colon."""
    return ", ".join(_text(cell).splitlines()).replace(":, ", ": ")
