"""The ways from a scan to labels that a search for an owner's own tries: where axes run, intensities, activations."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from medattn_edge.spec import Intensity, ModelSpec, plane_of, with_plane
from medattn_edge.spec.model import MOST_REGIONS

# What people train with, usual things first. A window is tried on a scan that has values on both sides of it.
INTENSITIES: Final = (
    "none",
    "zscore",
    "zscore:nonzero",
    "minmax",
    "window:-1000:400",  # lungs
    "window:-175:250",  # soft tissue, as MONAI's tutorials of many organs have it
    "window:-57:164",  # spleen, as MONAI's tutorial has it
    "window:-160:240",
    "clip:-1000:400,map:-1000:400:-1:1",
    "percentile:0.5:99.5,zscore",
    "percentile:0.5:99.5,zscore:nonzero",
    "percentile:1:99,minmax",
    "percentile:0.5:99.5,minmax",
    "map:0:255:0:1",
    "minmax:slice",
    "zscore:slice",
)
SEARCHED: Final = ("orientation", "axes", "intensity", "activation")
_MOST_ORDERED: Final = 4  # regions whose every order in a label map is tried


@dataclass(frozen=True)
class Layout:
    """Where the axes of the network's tensor run to."""

    orientation: str
    axes: str


@dataclass(frozen=True)
class Reading:
    """What logits mean.

    Attributes:
        activation: softmax or sigmoid.
        order: of a sigmoid network whose regions are in one label map: label n is output order[n - 1], later over
            earlier; empty where there is a map for every output.
    """

    activation: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """The way from a scan to labels, beside the network."""

    layout: Layout
    intensity: Intensity
    reading: Reading

    def spec(self, spec: ModelSpec) -> ModelSpec:
        """A spec with it; regions without names are numbered."""
        sigmoid = self.reading.activation == "sigmoid"
        named = sigmoid == spec.overlapping
        labels = spec.labels if named else tuple(f"region_{number}" for number in range(1, spec.outputs + 1))
        return replace(
            spec,
            orientation=self.layout.orientation,
            axes=self.layout.axes,
            intensity=self.intensity,
            activation=self.reading.activation,
            labels=labels,
            region_order=tuple(labels[output] for output in self.reading.order),
        )

    def __str__(self) -> str:
        words = [f"--orientation {self.layout.orientation}", f"--axes {self.layout.axes}"]
        words += [f"--intensity '{self.intensity}'", f"--activation {self.reading.activation}"]
        order = ",".join(str(output) for output in self.reading.order)
        return " ".join(words) + (f" (outputs {order} in one label map)" if order else "")


def layouts(spec: ModelSpec, free: Collection[str]) -> list[Layout]:
    """Every layout that gives the network another input, the spec's own first.

    Orientation and axes together say where the tensor's axes run, so of two writings of one tensor one is tried: 48 for
    a 3-D network, and 24 for a 2-D one, which does not see in which direction its slices follow each other.

    Args:
        spec: the layout that is tried first, and what stays as it is.
        free: which of `orientation` and `axes` may change.
    """
    flat = spec.dims == 2
    all_axes = ["".join(order) for order in itertools.permutations("HW" if flat else "DHW")]
    codes, axes = [spec.orientation], [spec.axes]
    if "orientation" in free:
        letters = list(itertools.product("LR", "PA", "SI"))
        codes = ["".join(order) for code in letters for order in itertools.permutations(code)]
        if flat:
            codes = [code for code in codes if code[2] in "LPS"]
        if "axes" in free:
            codes = sorted({with_plane(code, plane_of(code)) if flat else "".join(_sorted(code)) for code in codes})
    if "axes" in free:
        axes = all_axes
    own = Layout(spec.orientation, spec.axes)
    candidates = sorted((Layout(code, order) for code in codes for order in axes), key=_rarity)
    return [own, *(one for one in candidates if tensor(one) != tensor(own))]


def tensor(layout: Layout) -> tuple[str, ...]:
    """Where each axis of the tensor runs to; of a 2-D network also along which axis the slices lie."""
    towards = dict(zip("WHD", layout.orientation, strict=True))
    seen = tuple(towards[axis] for axis in layout.axes)
    return seen if len(seen) == 3 else (*seen, plane_of(layout.orientation))


def intensities(spec: ModelSpec, free: Collection[str]) -> list[Intensity]:
    """The spec's own intensity and, where it may change, those that people train with."""
    if "intensity" not in free:
        return [spec.intensity]
    return list(dict.fromkeys([spec.intensity, *map(Intensity.parse, INTENSITIES)]))


def readings(spec: ModelSpec, free: Collection[str], maps: int, highest: int) -> list[Reading]:
    """What the logits may mean, so that the result can be what came of them.

    Args:
        spec: the activation that is tried first.
        free: whether `activation` and `region_order` may change.
        maps: maps in the result, 0 for one label map.
        highest: the largest label in a label map.
    """
    kinds = [spec.activation]
    if "activation" in free and spec.outputs > 1:
        kinds += [kind for kind in ("softmax", "sigmoid") if kind != spec.activation]
    return [reading for kind in kinds for reading in _of_kind(kind, spec, free, maps, highest)]


def _of_kind(kind: str, spec: ModelSpec, free: Collection[str], maps: int, highest: int) -> Iterator[Reading]:
    if kind == "softmax":
        if maps in (0, max(2, spec.outputs)) and highest < max(2, spec.outputs):
            yield Reading(kind)
    elif spec.outputs > MOST_REGIONS:
        return  # no voxel of ours holds so many regions
    elif maps == spec.outputs:
        yield Reading(kind)
    elif maps == 0 and highest <= spec.outputs:
        own = tuple(map(spec.labels.index, spec.region_order)) if spec.overlapping else ()
        if own or "region_order" not in free or spec.outputs > _MOST_ORDERED:
            yield Reading(kind, own or tuple(range(spec.outputs)))
        else:
            yield from (Reading(kind, order) for order in itertools.permutations(range(spec.outputs)))


def _sorted(code: str) -> list[str]:
    return sorted(code, key="LRPASI".index)


def _rarity(layout: Layout) -> tuple[int, str, str]:
    """What people use most comes first: LPS, RAS and LAS, in the orders DHW and WHD."""
    usual = ("LPS", "RAS", "LAS", "RPI", "RPS")
    rank = usual.index(layout.orientation) if layout.orientation in usual else len(usual)
    return rank + 2 * (layout.axes not in ("DHW", "WHD", "HW", "WH")), layout.orientation, layout.axes
