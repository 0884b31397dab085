"""The pictures of the results: no name covers another, only a curve is joined, the CPU's instruction sets are said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import curves
import plots
import pytest
import report
from matplotlib import pyplot
from matplotlib.text import Text

FOUND = report.documents(report.RESULTS)
CURVES = [name for name, document in FOUND.items() if "curve" in document]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def boxes(figure: Any) -> list[Any]:
    """Of every text that is drawn, in pixels; without the leader that an annotation has."""
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    return [Text.get_window_extent(text) for text in texts if text.get_text()]


def test_no_name_covers_another_where_speed_stands_against_what_is_kept() -> None:
    known = report.trained_of(FOUND)
    figure = plots.kept_figure(known)
    found = boxes(figure)
    assert len(found) > 30
    assert not [pair for pair in itertools.combinations(found, 2) if pair[0].overlaps(pair[1])]
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in found)
    drawn = [text.get_text() for axes in figure.axes for text in axes.texts]
    rows = [row for one in known.values() for row in one["rows"] if row["p50_ms"] and row["agreement"]]
    assert len(rows) <= len(drawn) <= len(rows) + len(known)  # every point has its name, and each panel what fails


@pytest.mark.parametrize("wanted", [[0.9, 0.5, 0.1], [0.5] * 12, [0.0] * 9, [1.0, 1.0, 0.99, 0.02, 0.01, 0.0], []])
def test_places_are_a_step_apart_in_their_order_and_inside(wanted: list[float]) -> None:
    places = plots.spread(wanted, 0.05)
    assert all(upper - lower >= 0.05 - 1e-9 for upper, lower in itertools.pairwise(places))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    if wanted == [0.9, 0.5, 0.1]:
        assert places == wanted


@pytest.mark.parametrize(
    ("ticks", "joined"),
    [
        (["64x64", "128x128", "256x256", "512x512"], True),
        (["1", "2"], False),
        (["2", "16", "64"], False),
        (["resnet18", "resnet34", "resnet50", "resnext50_32x4d"], False),
    ],
)
def test_a_line_needs_numbers_and_enough_of_them(ticks: list[str], joined: bool) -> None:
    assert plots.is_curve(ticks) == joined


def test_a_log_axis_has_plain_numbers_from_very_small_to_very_large() -> None:
    for low, high, wanted in ((0.3, 7.0, "0.6"), (0.0002, 0.04, "0.001"), (20_000.0, 3e6, "1000000")):
        _, axes = pyplot.subplots()
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        plots._plain_numbers(axes)
        axes.figure.canvas.draw()
        shown = [tick.get_text() for which in (False, True) for tick in axes.get_yticklabels(minor=which)]
        assert wanted in shown, shown
        assert not [one for one in shown if "e" in one or "$" in one]


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_says_what_it_was_measured_on_and_joins_what_is_one(name: str) -> None:
    document = FOUND[name]
    figure = plots._curves(document)
    environment = document["environment"]
    known = environment.get("instruction_sets") or environment["isa"]
    assert any(one in known for one in ("amx_int8", "avx512_vnni", "avx_vnni"))
    title = figure.get_suptitle()
    assert all(one in title for one in ("amx_int8", "avx512_vnni", "avx_vnni") if one in known)
    ticks = list(dict.fromkeys(row["x"] for row in document["rows"]))
    styles = {line.get_linestyle() for axes in figure.axes for line in axes.lines}
    assert styles == {"-" if plots.is_curve(ticks) else "None"}


def test_every_curve_that_is_measured_next_has_points_enough_to_be_one() -> None:
    for curve in curves.CURVES:
        if curve.x not in ("threads", "backbone"):  # as many as the host has cores, and as there are
            assert plots.is_curve([point.x for point in curve.points]), curve.name
    assert curves.thread_counts(1) == (1,)
    assert curves.thread_counts(6) == (1, 2, 3, 4, 6)
    assert curves.thread_counts(16) == (1, 2, 3, 4, 6, 8, 12, 16)
