"""One colour per label value, the same in every file and picture, and one colour map for heat."""

from __future__ import annotations

import colorsys

import numpy as np

from medattn_edge.volume import Array

# Told apart on grey anatomy, by eye and with the common colour deficiencies: neighbours differ in lightness too.
_FIRST = (
    (255, 196, 0),
    (0, 190, 255),
    (255, 92, 120),
    (90, 220, 120),
    (190, 130, 255),
    (255, 140, 40),
    (60, 225, 210),
    (245, 110, 220),
    (190, 215, 60),
    (130, 160, 255),
)

# Nine points of a perceptually uniform map, from black through purple and orange to pale yellow.
_HEAT = np.array(
    (
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ),
    dtype=np.float64,
)


def label_colour(value: int) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of a label value; the background, 0, is black."""
    if value == 0:
        return 0, 0, 0
    if value <= len(_FIRST):
        return _FIRST[value - 1]
    # Steps of the golden ratio never come back to a hue that was used before.
    red, green, blue = colorsys.hsv_to_rgb(value * 0.618034 % 1.0, 0.55 + 0.15 * (value % 3), 1.0 - 0.12 * (value % 4))
    return round(255 * red), round(255 * green), round(255 * blue)


def heat_colours(values: Array) -> Array:
    """Red, green, blue (..., 3) in 0..255 of values (...) in 0..1."""
    return np.stack([np.interp(values, np.linspace(0, 1, len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)
