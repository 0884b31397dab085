"""The page of an explanation: one file with its pictures, without scripts, that uses no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from medattn_edge.agreement import IDENTICAL_DB
from medattn_edge.evaluation.attention.figures import Figure
from medattn_edge.evaluation.attention.records import Explanation
from medattn_edge.io.colours import heat_colours
from medattn_edge.io.organs import label_colours

if TYPE_CHECKING:
    from jinja2 import Environment


def page_of(explanation: Explanation, reading: str, figures: Sequence[Figure]) -> str:
    """The page as HTML.

    Args:
        explanation: what it is of.
        reading: what lies where in a picture.
        figures: of the labels, the maps and the channel attentions, as `figures_of` gives them.
    """
    import numpy as np

    meaning, volume = explanation.reference.segmentation.meaning, explanation.volume
    stops = ", ".join("#" + "".join(f"{round(c):02x}" for c in one) for one in heat_colours(np.linspace(0, 1, 9)))
    colours = label_colours(["", *meaning.structures], explanation.spec.codes, on_grey=True)[1:]
    legend = [("#" + bytes(one).hex(), name) for one, name in zip(colours, meaning.structures, strict=True)]
    return (
        _environment()
        .get_template("explain.html")
        .render(
            explanation=explanation,
            reading=reading,
            labels=figures[0],
            figures=figures[1:],
            rows=(*explanation.maps, *explanation.matrices),
            legend=legend,
            heat=stops,
            grid=f"{_by(volume.shape, 'd')} voxels of {_by(volume.spacing, '.2f')} mm",
            nearest=_furthest(explanation),
            reference=_where(explanation.reference.facts),
            deployed=None if explanation.artifact is None else _where(explanation.artifact.facts),
        )
        + "\n"
    )


def _by(sizes: Sequence[float], form: str) -> str:
    return " x ".join(format(one, form) for one in sizes)


def _furthest(explanation: Explanation) -> Any:
    """The map that the deployed file is furthest from; None without one."""
    rows = [one for one in (*explanation.maps, *explanation.matrices) if one.sqnr_db is not None]
    return min(rows, key=lambda one: one.sqnr_db or 0.0) if rows else None


def _where(facts: Any) -> str:
    """What ran where, from a session's facts."""
    shown = ("precision", "backend", "device", "threads", "onnxruntime", "openvino", "tensorrt", "torch")
    return ", ".join(f"{key} {facts[key]}" for key in shown if key in facts)


def decibels(value: float | None) -> str:
    """An SQNR for people."""
    if value is None:
        return "-"
    if value >= IDENTICAL_DB:
        return "identical"
    return f"{value:.1f} dB" if value > -IDENTICAL_DB else "not finite"


def figure(value: float | None) -> str:
    """A number for people: three digits."""
    return "-" if value is None else f"{value:.3g}"


def correlated(value: float | None) -> str:
    """A correlation for people: as many nines as it has."""
    if value is None:
        return "-"
    return f"{value:.6f}" if value < 0.999999 else f"1 - {1 - value:.1e}" if value < 1 else "1"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("medattn_edge.evaluation.attention")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {one.__name__: one for one in (decibels, figure, correlated)}
    return environment
