"""Panels, captions, scale bar and legend on one dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medattn_edge.atomic import check_folder
from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.io.colours import RGB, colour_of, heat_colours
from medattn_edge.volume import Array

_PAGE, _BRIGHT, _DIM = (16, 18, 22), (236, 238, 242), (154, 160, 170)
_MARGIN, _GAP, _LINE, _TEXT = 20, 14, 30, 16
_NARROWEST = 420


def check_picture(path: Path, option: str) -> None:
    """Say before the work that a picture cannot be written.

    Raises:
        UsageError: for another suffix than .png.
        OutputError: for a folder that is not there.
        MissingDependency: without Pillow.
    """
    if path.suffix.lower() != ".png":
        hint = f"{option} {quoted(path.with_suffix('.png').name)}"
        raise UsageError(f"the picture {path.name}", expected="a .png", hint=hint)
    check_folder(path)
    try:
        import PIL  # noqa: F401 - asked for here, so that nobody waits for it in vain
    except ImportError as error:
        raise MissingDependency.of_extra("pillow", "image") from error


@dataclass(frozen=True)
class Panel:
    """One cut.

    Attributes:
        pixels: uint8 (rows, columns, 3).
        edges: letters for left, right, top and bottom, or "".
        caption: above it.
    """

    pixels: Array
    edges: str
    caption: str


@dataclass(frozen=True)
class PanelRow:
    """Panels side by side.

    Attributes:
        panels: from the left.
        low: the text at the lower end of the heat scale below them.
        high: the text at the upper end; without it there is no such scale.
    """

    panels: Sequence[Panel]
    low: str = ""
    high: str = ""

    @property
    def width(self) -> int:
        """Pixels, without the page's margins."""
        return sum(len(panel.pixels[0]) for panel in self.panels) + _GAP * (len(self.panels) - 1)

    @property
    def height(self) -> int:
        """Pixels of the tallest panel."""
        return max(len(panel.pixels) for panel in self.panels)


class LegendEntry(NamedTuple):
    """One label below the panels.

    Attributes:
        value: of the label, which has its colour; 0 for a text without one.
        text: its name and amount.
        present: whether it has a voxel: a filled square; an empty one without.
    """

    value: int
    text: str
    present: bool = True


def compose(
    rows: Sequence[PanelRow], legend: Sequence[LegendEntry], pixels_per_mm: float, colours: Sequence[RGB] = ()
) -> Any:
    """Draw a page.

    Args:
        rows: from the top.
        legend: what the colours are of.
        pixels_per_mm: 0 when there are no millimetres.
        colours: colours[value] of a label, as the panels were drawn with.

    Returns:
        A Pillow RGB picture.
    """
    from PIL import Image, ImageDraw

    inside = max(_NARROWEST, *(row.width for row in rows))
    lines = _wrapped(legend, inside)
    below = [_LINE * (1 + bool(row.high)) + row.height + _GAP for row in rows]
    page = Image.new("RGB", (inside + 2 * _MARGIN, sum(below) + _LINE * len(lines) + 2 * _MARGIN), _PAGE)
    draw = ImageDraw.Draw(page)
    top = _MARGIN
    for row, height in zip(rows, below, strict=True):
        _draw_row(page, draw, row, top, pixels_per_mm)
        top += height
    for line in lines:
        _draw_legend(draw, line, top, colours)
        top += _LINE
    return page


def fitted(text: str, width: int) -> str:
    """A caption that fits above a panel so many pixels wide: shortened at its end, with three dots."""
    kept = text
    while kept and float(_font().getlength(kept if kept == text else f"{kept}...")) > width:
        kept = kept[:-1]
    return text if kept == text else f"{kept}..."


def _draw_row(page: Any, draw: Any, row: PanelRow, top: int, pixels_per_mm: float) -> None:
    """Captions, panels, and the heat scale if the row has one."""
    from PIL import Image

    left = _MARGIN + max(0, _NARROWEST - row.width) // 2
    start, bottom = left, top + _LINE + row.height
    for panel in row.panels:
        height, width = panel.pixels.shape[:2]
        _write(draw, (left, top + _LINE / 2), panel.caption, "lm", _DIM)
        draw.rectangle((left, top + _LINE, left + width - 1, bottom - 1), fill=(0, 0, 0))
        corner = (left, top + _LINE + (row.height - height) // 2)
        page.paste(Image.fromarray(panel.pixels), corner)
        _draw_edges(draw, panel.edges, (left, top + _LINE, left + width, bottom))
        left += width + _GAP
    if pixels_per_mm:
        _draw_scale_bar(draw, (start + 14, bottom - 16), row.panels[0].pixels.shape[1], pixels_per_mm)
    if row.high:
        _draw_heat_scale(page, draw, row, (start, bottom + _LINE // 2 + 2))


def _draw_edges(draw: Any, edges: str, box: tuple[int, int, int, int]) -> None:
    """R, L, A, P, H or F at the middle of each edge."""
    left, top, right, bottom = box
    across, down = (left + right) / 2, (top + bottom) / 2
    places = [(left + 7, down, "lm"), (right - 7, down, "rm"), (across, top + 6, "mt"), (across, bottom - 6, "mb")]
    for letter, (x, y, anchor) in zip(edges, places, strict=False):
        _write(draw, (x, y), letter, anchor, _BRIGHT)


def _draw_scale_bar(draw: Any, start: tuple[int, int], width: int, pixels_per_mm: float) -> None:
    """50 mm; 10, 5 or 1 mm where 50 would take more than half of the panel."""
    length = next((mm for mm in (50, 10, 5, 1) if mm * pixels_per_mm <= width / 2), None)
    if length is None:
        return
    x, y = start
    end = x + length * pixels_per_mm
    draw.line((x, y, end, y), fill=_BRIGHT, width=2)
    for tick in (x, end):
        draw.line((tick, y - 4, tick, y + 4), fill=_BRIGHT, width=2)
    _write(draw, (x, y - 8), f"{length} mm", "lb", _BRIGHT)


def _draw_heat_scale(page: Any, draw: Any, row: PanelRow, start: tuple[int, int]) -> None:
    from PIL import Image

    x, y = start
    _write(draw, start, row.low, "lm", _DIM)
    x += round(_font().getlength(row.low)) + 10
    scale = np.repeat(heat_colours(np.linspace(0, 1, 160))[None], 12, axis=0)
    page.paste(Image.fromarray(scale.astype(np.uint8)), (x, y - 6))
    _write(draw, (x + 170, y), row.high, "lm", _DIM)


def _draw_legend(draw: Any, line: Sequence[LegendEntry], top: int, colours: Sequence[RGB]) -> None:
    """Coloured squares and their texts, from the left."""
    left, middle = float(_MARGIN), top + _LINE / 2
    for value, text, present in line:
        if value:
            colour = colour_of(colours, value)
            draw.rectangle(
                (left, middle - 7, left + 14, middle + 7), fill=colour if present else None, outline=colour, width=2
            )
        _write(draw, (left + 24, middle), text, "lm", _BRIGHT)
        left += _entry_width(text)


def _wrapped(legend: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    """The legend in lines that fit; says so when there is no label."""
    lines: list[list[LegendEntry]] = [[]]
    for entry in legend or [LegendEntry(0, "no label on this scan")]:
        if lines[-1] and sum(_entry_width(one.text) for one in [*lines[-1], entry]) > width + 28:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _entry_width(text: str) -> float:
    return 24 + float(_font().getlength(text)) + 28


def _write(draw: Any, place: tuple[float, float], text: str, anchor: str, colour: tuple[int, int, int]) -> None:
    """Text with a dark rim, legible on bone and on air."""
    draw.text(place, text, fill=colour, font=_font(), anchor=anchor, stroke_width=2, stroke_fill=_PAGE)


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=_TEXT)
