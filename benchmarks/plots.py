"""Results as pictures: ratios as bars, and curves of time and memory."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cases import OURS, REFERENCE

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import LogFormatter

from medattn_edge.gates import TRUE_LABELS

_OURS, _PEERS, _EAGER = "#1f6f8b", "#c9a35b", "#888888"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # behind a text: the line at 1 does not cross it
_DPI = 110
_COLUMNS = 2  # of panels: readable at the width of a page
_LINE = 0.038  # of a panel's height: a line of small text
_CURVE_POINTS = 4
_KEPT = tuple(TRUE_LABELS.limits[name] for name in ("min_true_dice_share", "max_true_dice_share"))


def draw(document: Mapping[str, Any], path: Path, metadata: Mapping[str, str]) -> None:
    """Draw a result of the suite or of the curves."""
    figure = _curves(document) if "curve" in document else _bars(document)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None, **metadata})
    pyplot.close(figure)


def _bars(document: Mapping[str, Any]) -> Any:
    rows = document["rows"]
    figure, axes = pyplot.subplots(figsize=(9.5, 1.6 + 0.36 * len(rows)), layout="constrained")
    ours = {form.name for form in OURS}
    most = max((row["ratio_spread"][1] for row in rows if row["ratio_spread"]), default=1.0)
    for place, row in enumerate(rows):
        ratio = row["ratio_to_reference"]
        if ratio is None:
            reason = f"FAIL: {(row.get('failures') or ['out of tolerance'])[0]}"
            if row.get("ratio_declined"):
                reason = f"declined: {row['ratio_declined']}"
            axes.text(0.01 * most, place, reason[:86], va="center", fontsize=8, color="#a02020", bbox=_PAPER)
            continue
        colour = _OURS if row["artifact"] in ours else _EAGER if row["artifact"] == REFERENCE.name else _PEERS
        low, high = row["ratio_spread"]
        error = [[max(0.0, ratio - low)], [max(0.0, high - ratio)]]
        axes.barh(place, ratio, color=colour, xerr=error, error_kw={"elinewidth": 1, "capsize": 3})
        sqnr = row["agreement"]["sqnr_db"]
        label = f"{ratio:.2f}x" + ("" if sqnr is None else f", {sqnr:.0f} dB")
        axes.text(high + 0.015 * most, place, label, va="center", fontsize=8, bbox=_PAPER)
    axes.set_yticks(range(len(rows)), [f"{row['artifact']} ({row['backend']})" for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # a row without a bar has its place too
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlim(0, most * 1.22)
    axes.set_xlabel("times faster than eager PyTorch: median of paired ratios, quartiles; SQNR against eager")
    environment, case = document["environment"], document["case"]["name"]
    patch = "x".join(map(str, rows[0]["patch"]))
    axes.set_title(f"{case}, patch {patch}\n{_cpu(environment)}{_threads(environment)}", fontsize=10)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in (_OURS, _PEERS)]
    axes.legend(handles, ["medattn-edge", "peers"], loc="upper right", fontsize=8)
    return figure


def draw_kept(documents: Mapping[str, Mapping[str, Any]], path: Path, metadata: Mapping[str, str]) -> None:
    """Speed against what is kept of the true Dice: a panel for each trained network, a point for each row that agrees.

    What fails its gate has no speed: it is named below its panel.
    """
    figure = kept_figure(documents)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None, **metadata})
    pyplot.close(figure)


def kept_figure(documents: Mapping[str, Mapping[str, Any]]) -> Any:
    """The figure of `draw_kept`."""
    columns = min(len(documents), _COLUMNS)
    lines = -(-len(documents) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(6.2 * columns, 5.6 * lines), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(documents) :]:
        axes.set_axis_off()
    for axes, (name, document) in zip(panels.flat, documents.items(), strict=False):
        _kept_panel(axes, document)
        axes.set_title(f"{name}\n{_cpu(document['environment'])}{_threads(document['environment'])}", fontsize=9)
    for line in panels:
        line[0].set_ylabel("times faster than eager PyTorch")
    handles = [
        pyplot.Line2D([], [], marker=mark, linestyle="", color=one) for mark, one in (("o", _OURS), ("s", _PEERS))
    ]
    figure.legend(handles, ["medattn-edge", "peers"], loc="outside upper left", ncols=2, fontsize=8)
    return figure


def _kept_panel(axes: Any, document: Mapping[str, Any]) -> None:
    ours, points = {form.name for form in OURS}, []
    for row in document["rows"]:
        share = (row["agreement"] or {}).get("true_dice_share")
        if row["ratio_to_reference"] is None or share is None:
            continue
        worst, ratio = max(share, key=lambda one: abs(one - 1.0)), row["ratio_to_reference"]
        mine, eager = row["artifact"] in ours, row["artifact"] == REFERENCE.name
        colour = _OURS if mine else _EAGER if eager else _PEERS
        axes.plot(worst, ratio, "o" if mine else "s", color=colour, markersize=7 if mine else 6)
        points.append((worst, ratio, row["artifact"]))
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.axvspan(*_KEPT, color="#e8f1ea", zorder=0)
    axes.set_xlim(0.9985, 1.0115)
    axes.grid(True, which="both", linewidth=0.3)
    axes.set_xlabel("share of eager's true Dice, the label that moved most")
    _label_beside(axes, points)
    if failed := [row["artifact"] for row in document["rows"] if row["verdict"] == "fail"]:
        text = textwrap.fill(f"fail their gate: {', '.join(failed)}", 70)
        axes.text(0, -0.15, text, transform=axes.transAxes, fontsize=6.5, va="top", color="#a02020")


def _label_beside(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Names in a column right of the panel, in the order of their points and a line's height apart, with leaders.

    Beside the points they would cover each other: everything in FP32 keeps all of the Dice and is about as fast.
    """
    low, high = (math.log(one) for one in axes.get_ylim())
    ordered = sorted(points, key=lambda point: -point[1])
    wanted = [(math.log(ratio) - low) / (high - low) for _, ratio, _ in ordered]
    for (worst, ratio, name), place in zip(ordered, spread(wanted, _LINE), strict=True):
        axes.annotate(
            name,
            (worst, ratio),
            (1.03, place),
            textcoords="axes fraction",
            fontsize=6.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999", "shrinkA": 0, "shrinkB": 4},
        )


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Places from the top (1) down, at least a step apart, as near as they can be to the wanted ones, from 0 to 1."""
    places = list(wanted)
    for index in range(1, len(places)):  # down, where the one above is too near
        places[index] = min(places[index], places[index - 1] - step)
    floor = 0.0
    for index in reversed(range(len(places))):  # and up again, where the panel ends
        places[index] = max(places[index], floor)
        floor = places[index] + step
    return places


class _PlainNumbers(LogFormatter):
    """The numbers that LogFormatter shows, as people write them: 0.6, where it writes 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        shown = super().__call__(x, pos)
        return np.format_float_positional(x, precision=4, fractional=False, trim="-") if shown else ""


def _plain_numbers(axes: Any) -> None:
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(_PlainNumbers(labelOnlyBase=False, minor_thresholds=(1.5, 0.4)))


def _curves(document: Mapping[str, Any]) -> Any:
    curve, rows = document["curve"], document["rows"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
    ticks = list(dict.fromkeys(row["x"] for row in rows))
    line = "-" if is_curve(ticks) else ""
    for name in dict.fromkeys(row["artifact"] for row in rows):
        own = [row for row in rows if row["artifact"] == name and row["p50_ms"] is not None]
        places = [ticks.index(row["x"]) for row in own]
        for axes, field in ((left, "p50_ms"), (right, "peak_rss_mb")):
            figures = [row[field] for row in own]
            axes.plot(places, figures, marker="o", markersize=5, linestyle=line, linewidth=1.2, label=name)
    failed = [f"{row['artifact']} at {row['x']}" for row in rows if row["verdict"] == "fail"]
    for axes, unit in ((left, "median time of a run, ms"), (right, "peak resident memory of the process, MB")):
        axes.set_xticks(range(len(ticks)), [str(one) for one in ticks])
        axes.set_yscale("log")
        _plain_numbers(axes)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_xlabel(curve["x"])
        axes.set_ylabel(unit)
        axes.grid(True, which="both", linewidth=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    note = f"\nout of tolerance, not drawn: {', '.join(failed)}" if failed else ""
    threads = "" if curve["x"] == "threads" else _threads(document["environment"])
    figure.suptitle(f"{curve['title']}\n{_cpu(document['environment'])}{threads}{note}", fontsize=10)
    return figure


def is_curve(ticks: Sequence[str]) -> bool:
    """Whether points may be joined: numbers, and enough of them to see a bend; between two backbones lies nothing."""
    return len(ticks) >= _CURVE_POINTS and all(str(tick)[:1].isdigit() for tick in ticks)


def _cpu(environment: Mapping[str, Any]) -> str:
    """Its name, and what it computes INT8 and BF16 with: the name alone says nothing of it."""
    known = environment.get("instruction_sets") or environment.get("isa") or ()  # as older results have it
    wide = [name for name in ("amx_int8", "avx512_vnni", "avx_vnni", "avx512_bf16") if name in known]
    return " with ".join([str(environment.get("cpu") or "CPU"), *([", ".join(wide)] if wide else [])])


def _threads(environment: Mapping[str, Any]) -> str:
    return f", {environment.get('threads', '?')} threads"
