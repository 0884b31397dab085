"""Several volumes in one series, and which slice belongs to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.volume import Array

SAME_POSITION = 1e-2  # mm between two slices
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Volumes:
    """The slices of a series by volume.

    Attributes:
        groups: the slices of each volume, in the order of the attributes' values.
        attributes: the keywords that tell them apart, with their values where these are a few numbers; empty for a
            single volume.
    """

    groups: tuple[tuple[ImagePlane, ...], ...]
    attributes: tuple[str, ...]

    def chosen(self, number: int) -> tuple[ImagePlane, ...]:
        """The slices of a volume.

        Args:
            number: from 1; 0 for the only one.

        Raises:
            RefusedSeries: when there is no such volume, or more than the only one.
        """
        count = len(self.groups)
        if number > count:
            raise RefusedSeries("no_such_volume", f"volume {number} of {count}")
        if not number and count > 1:
            slices = sorted({len(group) for group in self.groups})
            sizes = f"{slices[0]} slices each" if len(slices) == 1 else f"{slices[0]} to {slices[-1]} slices"
            raise RefusedSeries(
                "several_volumes",
                f"{count} volumes of {sizes}, which differ in {' and '.join(self.attributes)}",
                hint=f"--volume N takes one, 1 to {count} in that order; or send one of them",
            )
        return self.groups[max(number, 1) - 1]


def volumes_of(planes: Sequence[ImagePlane]) -> Volumes:
    """Which slices belong together.

    Raises:
        RefusedSeries: when most positions hold several slices, but not equally many.
    """
    values: dict[str, set[str]] = {}
    for plane in planes:
        for name, value in plane.kinds:
            values.setdefault(name, set()).add(value)
    names = [name for name, different in values.items() if len(different) > 1]
    shown = [f"{name}{_numbers(values[name])}" for name in names]
    by_kind: dict[tuple[str, ...], list[ImagePlane]] = {}
    for plane in planes:
        of_plane = dict(plane.kinds)
        by_kind.setdefault(tuple(of_plane.get(name, "") for name in names), []).append(plane)
    groups: list[tuple[ImagePlane, ...]] = []
    for key in sorted(by_kind, key=lambda key: [_sortable(value) for value in key]):
        parts, name = _split(by_kind[key])
        groups += parts
        shown += [name] if name else []
    return Volumes(tuple(groups), tuple(dict.fromkeys(shown)))


def _split(planes: list[ImagePlane]) -> tuple[list[tuple[ImagePlane, ...]], str]:
    """Slices of one kind by what tells those at one position apart, and what that is; "" when nothing has to."""
    whole = [tuple(planes)]
    places = _places(planes)
    sizes = sorted({len(place) for place in places})
    objects = {(plane.sop_instance_uid, plane.frame) for plane in planes}
    # The same object twice is a copy, not another volume: `geometry` refuses it as one.
    if sizes == [1] or len(objects) < len(planes) or sum(len(place) > 1 for place in places) * 2 <= len(places):
        return whole, ""
    if len(sizes) > 1:
        detail = f"positions have {sizes[0]} to {sizes[-1]} slices each, so that a volume is not whole"
        raise RefusedSeries("several_volumes", detail, hint="send whole volumes, or one of them")
    for name, _ in planes[0].orders:
        ranked = [sorted(place, key=lambda plane: _sortable(dict(plane.orders).get(name, ""))) for place in places]
        if all(_all_different(name, place) for place in ranked):
            return list(zip(*ranked, strict=True)), name
    return whole, ""


def _places(planes: Sequence[ImagePlane]) -> list[list[ImagePlane]]:
    """Slices by where they lie along the normal of the first; each by itself where they point elsewhere."""
    first = planes[0]
    normal: Array = np.cross(first.right, first.down)
    if any(np.abs(np.subtract(plane.right + plane.down, first.right + first.down)).max() > 1e-3 for plane in planes):
        return [[plane] for plane in planes]
    ordered = sorted(planes, key=lambda plane: float(np.dot(plane.position, normal)))
    places: list[list[ImagePlane]] = []
    for plane in ordered:
        near = places and np.dot(np.subtract(plane.position, places[-1][0].position), normal) < SAME_POSITION
        if near:
            places[-1].append(plane)
        else:
            places.append([plane])
    return places


def _all_different(name: str, place: Sequence[ImagePlane]) -> bool:
    values = [dict(plane.orders).get(name, "") for plane in place]
    return "" not in values and len(set(values)) == len(values)


def _numbers(values: set[str]) -> str:
    """Up to six numbers in brackets; no text, which may hold anything."""
    ordered = sorted(map(_sortable, values))
    few = len(ordered) <= _MOST_SHOWN and all(np.isfinite(number) for number, _ in ordered)
    return f" ({', '.join(f'{number:.5g}' for number, _ in ordered)})" if few else ""


def _sortable(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return np.inf, value
