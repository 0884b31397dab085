"""Plots as inline SVG: drawn by Matplotlib, coloured by the page's style sheet, the same bytes for the same figures."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH: Final = 4.5  # inches: as wide as a telephone, so that text stays legible there
_MOST_LETTERS: Final = 48
_MOST_DOTS: Final = 90  # of one row: quantiles stand for more
# Colours that the page replaces by its own, so that a plot follows light, dark and print.
_COLOURS: Final = {
    "ink": "#010101",
    "quiet": "#020202",
    "grid": "#030303",
    "series": "#040404",
    "mark": "#050505",
    "limit": "#060606",
}
_RC: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": _COLOURS["grid"],
    "axes.labelcolor": _COLOURS["quiet"],
    "axes.linewidth": 0.8,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["quiet"],
    "ytick.color": _COLOURS["quiet"],
    "grid.color": _COLOURS["grid"],
    "grid.linewidth": 0.7,
}


def latency_plot(rows: Sequence[Mapping[str, Any]], deadline_ms: float | None, name: str) -> str:
    """Every run of every row as a dot, the median as a bar, p99 as a tick; "" when no row has samples.

    Args:
        rows: with `artifact`, `backend`, `samples_ms`, `p50_ms` and `p99_ms`.
        deadline_ms: drawn as a line; None for none.
        name: of the plot among those of its page.
    """
    timed = [row for row in rows if row["samples_ms"]]
    if not timed:
        return ""
    from matplotlib import rc_context

    with rc_context(_RC):
        figure, axes = _axes(0.55 + 0.46 * len(timed))
        for place, row in enumerate(timed):
            dots = _few(np.sort(np.asarray(row["samples_ms"], dtype=float)))
            spread = 0.13 * ((np.arange(len(dots)) * 0.618034) % 1 - 0.5)  # the same at every drawing
            axes.plot(dots, place + spread, "o", ms=2.4, mec="none", mfc=_COLOURS["series"], alpha=0.55)
            axes.plot([row["p50_ms"]] * 2, [place - 0.2, place + 0.2], color=_COLOURS["ink"], lw=2)
            axes.plot([row["p99_ms"]] * 2, [place - 0.13, place + 0.13], color=_COLOURS["mark"], lw=1.6)
            label = axes.text(0, place - 0.3, _shortened(f"{row['artifact']} in {row['backend']}"), va="bottom")
            label.set(transform=axes.get_yaxis_transform(), in_layout=False, fontsize=9.5)
        if deadline_ms is not None:
            axes.axvline(deadline_ms, color=_COLOURS["limit"], lw=1.4, ls=(0, (4, 2)))
        axes.set_ylim(len(timed) - 0.55, -0.75)
        axes.set_yticks([])
        axes.set_xscale("log")
        shown = [one for row in timed for one in row["samples_ms"]]
        _plain_ticks(axes, shown if deadline_ms is None else [*shown, deadline_ms])
        axes.set_xlabel("ms of one run")
        axes.grid(visible=True, axis="x")
        return _svg(figure, name, "Latency of every run in milliseconds")


def volume_plot(row: Mapping[str, Any], name: str) -> str:
    """Differences of volumes over their means, with the bias and the limits of agreement.

    Args:
        row: a `VolumeAgreement` as JSON values.
        name: of the plot among those of its page.
    """
    from matplotlib import rc_context

    reference, candidate = np.asarray(row["reference"]), np.asarray(row["candidate"])
    with rc_context(_RC):
        figure, axes = _axes(2.35)
        low, high = row["limits"]
        axes.axhspan(low, high, color=_COLOURS["series"], alpha=0.13, lw=0)
        axes.axhline(0, color=_COLOURS["grid"], lw=1)
        axes.axhline(row["bias"], color=_COLOURS["ink"], lw=1.4)
        for one in (low, high):
            axes.axhline(one, color=_COLOURS["limit"], lw=1.1, ls=(0, (4, 2)))
        axes.plot((reference + candidate) / 2, candidate - reference, "o", ms=5, mec="none", mfc=_COLOURS["series"])
        axes.margins(0.12, 0.25)
        axes.set_xlabel(f"mean of both, {row['unit']}")
        axes.set_ylabel(f"difference, {row['unit']}")
        return _svg(figure, name, f"Bland-Altman plot of the volume of {row['label']}")


def _axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=3)
    axes.set_axisbelow(True)
    return figure, axes


def _shortened(text: str) -> str:
    """A name that fits above its row, with its start and its end; the table below has all of it."""
    half = _MOST_LETTERS // 2
    return text if len(text) <= _MOST_LETTERS else f"{text[:half]}…{text[-half:]}"


def _few(samples: Any) -> Any:
    """Some hundred quantiles of sorted samples, the fastest and the slowest among them."""
    if len(samples) <= _MOST_DOTS:
        return samples
    return samples[np.linspace(0, len(samples) - 1, _MOST_DOTS).round().astype(int)]


def _plain_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with numbers that people read: 1, 2, 5, 10."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) * 0.9, max(values) * 1.1
    steps = [factor * 10.0**power for power in range(-4, 8) for factor in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high]
    if len(ticks) < 2:
        ticks = [float(f"{one:.3g}") for one in np.linspace(low, high, 4)]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an element of a page, with names of its own and the page's colours and font."""
    from html import escape

    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with io.StringIO() as file, rc_context({"svg.hashsalt": name}):
        figure.set_canvas(FigureCanvasSVG(figure))
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, value in _COLOURS.items():
        text = text.replace(value, f"var(--{colour})")
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--font)", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" class="plot">', text, count=1)
    return text.replace('class="plot">', f'class="plot"><title>{escape(title)}</title>', 1).strip()
