"""Slices at one place or at two, in one volume or in several: each limit itself, and the next value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")


from medattn_edge.io.dicom.geometry import grid_of  # noqa: E402
from medattn_edge.io.dicom.reasons import RefusedSeries  # noqa: E402
from medattn_edge.io.dicom.volumes import volumes_of  # noqa: E402
from tests.support.data_sets import reason_of  # noqa: E402
from tests.support.image_planes import planes  # noqa: E402

GRID = np.diag((4.0, 1.5, 1.25, 1.0))[[2, 1, 0, 3]]


def test_directions_may_differ_by_exactly_a_thousandth() -> None:
    for name, changed in (("right", (1.0, 1e-3, 0.0)), ("down", (0.0, 1.0, 1e-3))):
        slices = planes(GRID, [0, 1, 2])
        slices[2] = replace(slices[2], **{name: changed})  # type: ignore[arg-type]
        assert len(grid_of(slices).planes) == 3
        slices[2] = replace(slices[2], **{name: tuple(1.001 * value for value in changed)})  # type: ignore[arg-type]
        assert reason_of(lambda slices=slices: grid_of(slices)) == "mixed_orientation"


def test_slices_exactly_a_hundredth_of_a_millimetre_apart_are_two() -> None:
    thin = GRID @ np.diag((0.25, 1, 1, 1))
    assert len(grid_of(planes(thin, [0, 0.01])).planes) == 2
    assert reason_of(lambda: grid_of(planes(thin, [0, 0.0099]))) == "duplicate_position"


def at(heights: list[float], **orders: list[int]) -> list[Any]:
    """Slices at heights, with values of attributes that may tell volumes apart."""
    own = [tuple((name, str(values[place])) for name, values in orders.items()) for place in range(len(heights))]
    return [replace(one, orders=pairs) for one, pairs in zip(planes(GRID, heights), own, strict=True)]


@pytest.mark.parametrize(("doubled", "volumes"), [(2, 0), (3, 2), (4, 2)])
def test_more_than_half_of_the_positions_make_several_volumes_and_fewer_are_copies(doubled: int, volumes: int) -> None:
    heights = [0.0, 1, 2, 3, *[0.0, 1, 2, 3][:doubled]]
    slices = at(heights, TriggerTime=[1] * 4 + [2] * doubled)
    if doubled == 3:
        assert reason_of(lambda: volumes_of(slices)) == "several_volumes"
        return
    assert len(volumes_of(slices).groups) == (volumes or 1)
    assert reason_of(lambda: grid_of(slices)) == ("several_volumes" if volumes else "duplicate_position")


def test_volumes_are_in_the_order_of_their_numbers_and_each_is_whole() -> None:
    slices = at([0.0, 1, 2] * 3, TriggerTime=[1] * 9, AcquisitionNumber=[10] * 3 + [9] * 3 + [11] * 3)
    found = volumes_of(slices)
    assert found.attributes == ("AcquisitionNumber",)
    for number, first in ((1, 3), (2, 0), (3, 6)):
        assert {plane.path.name for plane in found.chosen(number)} == {str(first + place) for place in range(3)}
        assert len(grid_of(slices, number).planes) == 3
    assert reason_of(lambda: found.chosen(4)) == "no_such_volume"
    assert reason_of(lambda: found.chosen(0)) == "several_volumes"


@pytest.mark.parametrize(("count", "named"), [(6, True), (7, False)])
def test_up_to_six_values_are_named(count: int, named: bool) -> None:
    slices = [
        replace(one, kinds=(("EchoTime", str(number // 2 + 1)),))
        for number, one in enumerate(planes(GRID, [0.0, 1] * count))
    ]
    numbers = f" ({', '.join(str(number) for number in range(1, count + 1))})" if named else ""
    with pytest.raises(RefusedSeries) as caught:
        grid_of(slices)
    assert caught.value.detail == f"{count} volumes of 2 slices each, which differ in EchoTime{numbers}"


def test_values_that_are_no_numbers_are_not_repeated() -> None:
    slices = [
        replace(one, kinds=(("ImageType", name),)) for one, name in zip(planes(GRID, [0, 1, 0]), "aab", strict=True)
    ]
    with pytest.raises(RefusedSeries) as caught:
        grid_of(slices)
    assert caught.value.detail == "2 volumes of 1 to 2 slices, which differ in ImageType"
