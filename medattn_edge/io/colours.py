"""One colour per label value, colours as CIELab has them, and one colour map for heat.

Files of labels without names have these colours; where labels have names, `organs.label_colours` starts from them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from medattn_edge.volume import Array

RGB = tuple[int, int, int]

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


# sRGB of linear light to XYZ, D65 (IEC 61966-2-1), and the white of that.
_XYZ = np.array(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
_WHITE = _XYZ.sum(axis=1)


def label_colour(value: int) -> RGB:
    """Red, green, blue (0..255) of a label value; the background, 0, is black."""
    if value == 0:
        return 0, 0, 0
    if value <= len(_FIRST):
        return _FIRST[value - 1]
    # Steps of the golden ratio never come back to a hue that was used before.
    red, green, blue = colorsys.hsv_to_rgb(value * 0.618034 % 1.0, 0.55 + 0.15 * (value % 3), 1.0 - 0.12 * (value % 4))
    return round(255 * red), round(255 * green), round(255 * blue)


def colour_of(colours: Sequence[RGB], value: int) -> RGB:
    """colours[value]; for a value behind the last of them, and where there are none, `label_colour`."""
    return colours[value] if value < len(colours) else label_colour(value)


def lab_of(colour: RGB) -> Array:
    """CIELab (CIE 1976, D65) of red, green, blue (0..255): L* from 0 to 100, a*, b*; every grey has a* = b* = 0."""
    channels = np.asarray(colour, np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    ratio = _XYZ @ linear / _WHITE
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def rgb_of(lab: Array) -> RGB:
    """The colour of a screen (sRGB, 0..255) for CIELab; what it cannot show is clipped."""
    y = (lab[0] + 16) / 116
    roots = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    ratio = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    linear = np.clip(np.linalg.solve(_XYZ, ratio * _WHITE), 0, 1)
    channels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(255 * float(channel)) for channel in channels)
    return red, green, blue


def heat_colours(values: Array) -> Array:
    """Red, green, blue (..., 3) in 0..255 of values (...) in 0..1."""
    return np.stack([np.interp(values, np.linspace(0, 1, len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)
