"""The colours of labels: the same in every file and picture, today and after the next change.

A PNG of labels is known again by its palette, so that another colour would turn old files into pictures. The numbers
are written out: to change one is a decision.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from medattn_edge.io.colours import heat_colours, label_colour

FIRST = [(0, 0, 0), (255, 196, 0), (0, 190, 255), (255, 92, 120), (90, 220, 120), (190, 130, 255), (255, 140, 40),
         (60, 225, 210), (245, 110, 220), (190, 215, 60), (130, 160, 255)]  # fmt: skip
HEAT = [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
        (249, 201, 50), (252, 255, 164)]  # fmt: skip


def test_the_first_labels_have_their_own_colours_and_the_background_is_black() -> None:
    assert [label_colour(value) for value in range(len(FIRST))] == FIRST


def test_the_colours_of_all_256_values_are_those_of_the_files_that_there_are() -> None:
    palette = bytes(channel for value in range(256) for channel in label_colour(value))
    assert hashlib.sha256(palette).hexdigest() == "a79e062f886103d64602cb6cbf199310a9e3f77edb0790d9b55b84f7fbf25a76"
    assert len({label_colour(value) for value in range(60)}) == 60


@pytest.mark.parametrize("place", range(9))
def test_heat_goes_through_its_nine_colours(place: int) -> None:
    assert heat_colours(np.array([place / 8]))[0].tolist() == list(HEAT[place])


def test_heat_is_linear_between_two_of_them() -> None:
    between = heat_colours(np.array([[1 / 32]]))
    assert between.shape == (1, 1, 3)
    assert between[0, 0].tolist() == [7.75, 3.0, 21.0]
