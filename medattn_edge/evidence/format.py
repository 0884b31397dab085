"""Figures as people read them: never rounded to what they are not, and a dash where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

NONE: Final = "–"
IDENTICAL: Final = 300.0  # see agreement.IDENTICAL_DB


def number(value: float | None, form: str = ".3g") -> str:
    """By a format; a dash for None."""
    return NONE if value is None else format(value, form)


def share(value: float | None, digits: int = 5) -> str:
    """A Dice, or a share, cut and not rounded: 0.999996 is not 1."""
    if value is None:
        return NONE
    scale = 10**digits
    return f"{int(value * scale + 1e-9) / scale:.{digits}f}"


def percent(value: float | None, form: str = ".1f") -> str:
    """A fraction in percent."""
    return NONE if value is None else f"{100 * value:{form}} %"


def signed(value: float | None, form: str = ".3g") -> str:
    """With its sign, also where it is above 0."""
    if value is None:
        return NONE
    return "0" if value == 0 else f"{value:+{form}}".replace("-", "−")


def decibel(value: float | None) -> str:
    """SQNR; identical logits by name."""
    if value is None:
        return "not finite"
    return "identical" if value >= IDENTICAL else f"{value:.1f} dB"


def milliseconds(value: float | None) -> str:
    """Three digits, as many as a measurement of this kind has."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def count(value: int | None) -> str:
    """Thousands apart."""
    return NONE if value is None else f"{value:,}"


def sizes(values: Iterable[Any]) -> str:
    """96 x 96 x 96."""
    return " × ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


def short(digest: str) -> str:
    """The start of a SHA-256, for the eye; the whole one stands beside it."""
    return digest[:12]


def listed(values: Mapping[str, Any]) -> str:
    """name value, name value."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def worst(values: Iterable[float | None], *, largest: bool = False) -> float | None:
    """The smallest of those that are there, or the largest."""
    found = [one for one in values if one is not None]
    return (max(found) if largest else min(found)) if found else None
