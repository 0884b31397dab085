"""Where everything stands on a page: panels, their letters, the scale bar, the heat scale and the legend, to the pixel.

Texts are compared by the box that they are drawn in, which Pillow says of the font it has.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medattn_edge.io.colours import heat_colours, label_colour
from medattn_edge.io.page import LegendEntry, Panel, PanelRow, compose

PAGE, BRIGHT, DIM = (16, 18, 22), (236, 238, 242), (154, 160, 170)
BLANK, GREEN = "", (0, 200, 0)
FONT = ImageFont.load_default(size=16)
Box = tuple[int, int, int, int]


def panel(rows: int, columns: int, edges: str = BLANK, caption: str = BLANK) -> Panel:
    return Panel(np.full((rows, columns, 3), GREEN, np.uint8), edges, caption)


def page_of(rows: list[PanelRow], legend: list[tuple[int, str]] | None = None, scale: float = 0.0) -> np.ndarray:
    return np.asarray(compose(rows, [LegendEntry(*one) for one in legend or [(0, " ")]], scale)).astype(int)


def box(mask: np.ndarray) -> Box:
    """Left, top, right, bottom of what is set; the last two are behind it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def coloured(page: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray((page == colour).all(axis=-1))


def changed(one: np.ndarray, other: np.ndarray) -> Box:
    """The box of the pixels that differ."""
    return box((one != other).any(axis=-1))


def text_box(place: tuple[float, float], text: str, anchor: str, colour: tuple[int, int, int], page: np.ndarray) -> Box:
    """Where a text with its dark rim changes a page."""
    picture = Image.fromarray(page.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.text(place, text, fill=colour, font=FONT, anchor=anchor, stroke_width=2, stroke_fill=PAGE)
    return changed(np.asarray(picture).astype(int), page)


def test_panels_stand_side_by_side_below_their_captions_in_the_middle_of_their_row() -> None:
    page = page_of([PanelRow([panel(100, 300), panel(60, 200)])])
    # Margins of 20 all around, 30 for captions, 14 below the row and 30 for the line of the legend.
    assert page.shape == (20 + 30 + 100 + 14 + 30 + 20, 20 + 300 + 14 + 200 + 20, 3)
    panels = coloured(page, GREEN)
    assert box(panels[:, :330]) == (20, 50, 320, 150)
    left, top, right, bottom = box(panels[:, 330:])
    assert (left + 330, top, right + 330, bottom) == (334, 70, 534, 130)  # the lower one in the middle of the row
    black = coloured(page, (0, 0, 0))
    assert box(black) == (334, 50, 534, 150)  # and black above and below it
    assert black.sum() == 200 * 40
    assert coloured(page, PAGE).sum() == page.shape[0] * page.shape[1] - 300 * 100 - 200 * 100


@pytest.mark.parametrize(("columns", "left"), [(419, 20), (418, 21), (100, 180), (420, 20), (421, 20)])
def test_a_narrow_row_is_centred_on_a_page_for_a_legend(columns: int, left: int) -> None:
    page = page_of([PanelRow([panel(40, columns)])])
    assert page.shape[1] == max(columns, 420) + 40
    assert box(coloured(page, GREEN)) == (left, 50, left + columns, 90)


def test_rows_stand_below_each_other_with_room_for_a_heat_scale() -> None:
    rows = [PanelRow([panel(50, 430)], "low", "high"), PanelRow([panel(70, 430)])]
    page = page_of(rows)
    assert page.shape[0] == 20 + (60 + 50 + 14) + (30 + 70 + 14) + 30 + 20
    panels = coloured(page, GREEN)
    assert box(panels[:150]) == (20, 50, 450, 100)
    assert box(panels[150:]) == (20, 174 - 150, 450, 244 - 150)


def test_captions_and_letters_of_edges_stand_at_their_places() -> None:
    blank = page_of([PanelRow([panel(100, 430)])])
    captioned = page_of([PanelRow([panel(100, 430, caption="axial   F 12 mm")])])
    assert changed(captioned, blank) == text_box((20, 35), "axial   F 12 mm", "lm", DIM, blank)
    assert coloured(captioned, DIM).any()
    places = {"R": ((27, 100), "lm"), "L": ((443, 100), "rm"), "A": ((235, 56), "mt"), "P": ((235, 144), "mb")}
    for number, (letter, (place, anchor)) in enumerate(places.items()):
        edges = " " * number + letter  # a blank draws nothing
        page = page_of([PanelRow([panel(100, 430, edges=edges)])])
        assert changed(page, blank) == text_box(place, letter, anchor, BRIGHT, blank), letter
        assert coloured(page, BRIGHT).any()


@pytest.mark.parametrize(
    ("scale", "length"),
    [(4.3, 50), (4.31, 10), (21.5, 10), (21.6, 5), (43.0, 5), (43.1, 1), (215.0, 1), (215.5, None), (0.0, None)],
)
def test_the_scale_bar_is_the_longest_that_takes_half_of_the_first_panel(scale: float, length: int | None) -> None:
    rows = [PanelRow([panel(100, 430), panel(100, 50)])]
    blank, page = page_of(rows), page_of(rows, scale=scale)
    if length is None:
        assert np.array_equal(page, blank)
        return
    expected = Image.fromarray(blank.astype(np.uint8))
    draw = ImageDraw.Draw(expected)
    end = 34 + length * scale
    draw.line((34, 134, end, 134), fill=BRIGHT, width=2)
    for tick in (34, end):
        draw.line((tick, 130, tick, 138), fill=BRIGHT, width=2)
    bar = np.asarray(expected).astype(int)
    assert np.array_equal(page[129:], bar[129:])
    assert text_box((34, 126), f"{length} mm", "lb", BRIGHT, blank) == changed(page[:129], blank[:129])


def test_the_heat_scale_runs_from_low_to_high_between_its_two_texts() -> None:
    page = page_of([PanelRow([panel(100, 430)], "gate   0.10", "0.90")])
    start = 20 + round(FONT.getlength("gate   0.10")) + 10
    middle = 50 + 100 + 15 + 2
    colours = heat_colours(np.linspace(0, 1, 160)).astype(np.uint8).astype(int)
    assert np.array_equal(page[middle - 6 : middle + 6, start : start + 160], np.tile(colours, (12, 1, 1)))
    assert coloured(page[middle - 7], PAGE)[start : start + 160].all()
    assert coloured(page[middle + 6], PAGE)[start : start + 160].all()
    blank = np.full_like(page, PAGE)
    low = page[:, : start - 2]
    assert box(~coloured(low[155:180], PAGE)) == drawn((20, middle), "gate   0.10", blank, 155)
    high = page.copy()
    high[:, : start + 160] = PAGE
    assert box(~coloured(high[155:180], PAGE)) == drawn((start + 170, middle), "0.90", blank, 155)


def drawn(place: tuple[float, float], text: str, blank: np.ndarray, top: int) -> Box:
    """The box of a dim text in the rows of a page from `top` on."""
    left, first, right, bottom = text_box(place, text, "lm", DIM, blank)
    return left, first - top, right, bottom - top


def test_a_label_has_a_square_of_its_colour_and_its_text_beside_it() -> None:
    page = page_of([PanelRow([panel(40, 430)])], [(1, "liver   10.0 ml"), (5, "spleen")])
    middle, left = 104 + 15, 20.0
    for value, text in ((1, "liver   10.0 ml"), (5, "spleen")):
        place = round(left)
        square = box(coloured(page, label_colour(value)))
        assert square == (place, middle - 7, place + 15, middle + 8)
        others = page.copy()
        others[:, : place + 18] = others[:, place + 30 + round(FONT.getlength(text)) :] = PAGE
        others[:104] = PAGE
        assert box(~coloured(others, PAGE)) == text_box(
            (left + 24, middle), text, "lm", BRIGHT, np.full_like(page, PAGE)
        )
        left += 24 + FONT.getlength(text) + 28
    without = page_of([PanelRow([panel(40, 430)])], [(0, "nothing")])
    assert not coloured(without, (0, 0, 0)).any()


def test_a_page_without_labels_says_so() -> None:
    said = np.asarray(compose([PanelRow([panel(40, 430)])], [], 0.0))
    assert np.array_equal(said, page_of([PanelRow([panel(40, 430)])], [(0, "no label on this scan")]))


@pytest.mark.parametrize(("less", "lines"), [(0, 1), (1, 2)])
def test_a_legend_wraps_where_its_last_text_would_leave_the_page(less: int, lines: int) -> None:
    """The room behind the last text may lie in the margin."""
    texts = ["structure of some length", "another structure of some length"]
    needed = sum(24 + FONT.getlength(text) + 28 for text in texts) - 28
    width = int(np.ceil(needed)) - less
    assert width > 420
    page = page_of([PanelRow([panel(40, width)])], list(enumerate(texts, 1)))
    assert page.shape[0] == 20 + 30 + 40 + 14 + 30 * lines + 20
    for number in range(lines):
        assert coloured(page[104 + 30 * number : 134 + 30 * number], label_colour(number + 1)).any()


def test_the_square_of_a_label_without_a_voxel_is_empty() -> None:
    there, absent = (
        np.asarray(compose([PanelRow([panel(40, 430)])], [LegendEntry(2, "liver   0 ml", present)], 0.0)).astype(int)
        for present in (True, False)
    )
    squares = [coloured(page, label_colour(2)) for page in (there, absent)]
    assert box(squares[0]) == box(squares[1])
    assert (squares[0].sum(), squares[1].sum()) == (15 * 15, 15 * 15 - 11 * 11)
