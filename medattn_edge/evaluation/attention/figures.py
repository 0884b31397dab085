"""Figures of an explanation: which slices are shown of which map, and their pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medattn_edge.evaluation.attention.agreement import MapAgreement
from medattn_edge.evaluation.attention.records import Explanation, Side
from medattn_edge.evaluation.attention.slices import Slices, matrix_difference, matrix_pixels, side_by_side_pixels
from medattn_edge.inference.outputs import shown_labels
from medattn_edge.volume import Array

_REFERENCE, _DEPLOYED, _DIFFERENCE = "reference", "deployed", "difference"


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels and what they show.

    Attributes:
        pixels: uint8 (rows, columns, 3).
        caption: below it.
        title: of all that it shows, for who cannot see it.
    """

    pixels: Array
    caption: str
    title: str

    @property
    def png(self) -> bytes:
        """As a file."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, format="PNG", optimize=True)
        return file.getvalue()

    @property
    def uri(self) -> str:
        """For a page that carries its pictures itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True, eq=False)
class FigureRow:
    """Pictures of one slice.

    Attributes:
        caption: which slice, and why that one.
        pictures: from the left.
    """

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, eq=False)
class Figure:
    """All that is shown of one map, of the channel attention of one scale, or of the labels.

    Attributes:
        name: of the map.
        agreement: of it; None of the labels.
        rows: one for each slice.
        limit: the difference at full colour; 0 where there is none.
    """

    name: str
    agreement: MapAgreement | None
    rows: tuple[FigureRow, ...]
    limit: float = 0.0

    @property
    def pixels(self) -> Array:
        """All pictures in one."""
        return side_by_side_pixels([[picture.pixels for picture in row.pictures] for row in self.rows])

    @property
    def png(self) -> bytes:
        """The same as a file."""
        return Picture(self.pixels, "", self.name).png


def figures_of(explanation: Explanation) -> tuple[str, list[Figure]]:
    """What lies where in a picture, and the figures: the labels, every map, every channel attention."""
    slices = Slices(explanation.volume, explanation.spec)
    shown = _Shown(explanation, slices)
    figures = [shown.labels(), *shown.maps(), *_matrices(explanation)]
    return f"{slices.view.name} slices; {slices.view.reading}", figures


class _Shown:
    def __init__(self, explanation: Explanation, slices: Slices) -> None:
        self._explanation, self._slices = explanation, slices
        self._first = _labels(explanation.reference)
        self._second = None if explanation.artifact is None else _labels(explanation.artifact)
        foreground = slices.sums(self._first != 0)
        found = bool(foreground.any())
        self._busiest = int(foreground.argmax()) if found else slices.count // 2
        self._why_busiest = "most foreground" if found else "the middle: no foreground"

    def labels(self) -> Figure:
        """The scan, and both sides' labels on it."""
        rows = []
        differs = None if self._second is None else self._slices.sums(self._first != self._second)
        for index, why in self._chosen(differs, "most voxels with another label"):
            pictures = [
                Picture(self._slices.grey(index), "scan", f"scan, {self._slices.caption(index)}"),
                Picture(self._slices.labelled(index, self._first), _REFERENCE, "labels of the reference"),
            ]
            if self._second is not None:
                pictures.append(
                    Picture(self._slices.labelled(index, self._second), _DEPLOYED, "labels of the deployed file")
                )
            rows.append(FigureRow(f"{self._slices.caption(index)}: {why}", tuple(pictures)))
        return Figure("labels", None, tuple(rows))

    def maps(self) -> Iterator[Figure]:
        """Every map: the reference's, the deployed and their difference."""
        explanation = self._explanation
        first = explanation.reference.segmentation.attention
        second = None if explanation.artifact is None else explanation.artifact.segmentation.attention
        assert first is not None
        for number, agreement in enumerate(explanation.maps):
            ours, theirs = first.voxels[number], None if second is None else second.voxels[number]
            limit = agreement.max_abs or 0.0
            if not np.isfinite(limit):
                limit = agreement.high - agreement.low
            differs = None if theirs is None else self._slices.sums(theirs - ours)
            rows = [
                FigureRow(
                    f"{self._slices.caption(index)}: {why}",
                    tuple(self._of_map(index, agreement, ours, theirs, limit)),
                )
                for index, why in self._chosen(differs, "most disagreement")
            ]
            yield Figure(agreement.name, agreement, tuple(rows), limit)

    def _of_map(
        self, index: int, agreement: MapAgreement, ours: Array, theirs: Array | None, limit: float
    ) -> Iterator[Picture]:
        name, low, high = agreement.name, agreement.low, agreement.high
        yield Picture(self._slices.heat(index, ours, low, high, self._first), _REFERENCE, f"{name} of the reference")
        if theirs is not None and self._second is not None:
            deployed = self._slices.heat(index, theirs, low, high, self._second)
            yield Picture(deployed, _DEPLOYED, f"{name} of the deployed file")
            yield Picture(self._slices.difference(index, ours, theirs, limit), _DIFFERENCE, f"difference of {name}")

    def _chosen(self, differs: Array | None, why: str) -> list[tuple[int, str]]:
        """The slice with the most foreground and, where two sides differ, the one where they differ most."""
        if differs is None or not differs.any():
            return [(self._busiest, self._why_busiest)]
        worst = int(np.nan_to_num(differs, nan=np.inf).argmax())
        if worst == self._busiest:
            return [(worst, f"{self._why_busiest}, and {why}")]
        return [(self._busiest, self._why_busiest), (worst, why)]


def _matrices(explanation: Explanation) -> Iterator[Figure]:
    """Channel attention, the mean over the windows that were kept."""
    deployed = explanation.artifact
    for number, agreement in enumerate(explanation.matrices):
        ours = explanation.reference.matrices[:, number].mean(axis=0)
        pictures = [Picture(matrix_pixels(ours, 0.0, float(ours.max())), _REFERENCE, agreement.name)]
        limit = 0.0
        if deployed is not None and agreement.max_abs is not None:
            theirs = deployed.matrices[:, number].mean(axis=0)
            limit = float(np.abs(theirs - ours).max())
            pictures += [
                Picture(matrix_pixels(theirs, 0.0, float(ours.max())), _DEPLOYED, f"{agreement.name}, deployed"),
                Picture(matrix_difference(ours, theirs, limit), _DIFFERENCE, f"difference of {agreement.name}"),
            ]
        count = len(explanation.reference.matrices)
        row = FigureRow(f"row i: what channel i is mixed with; mean of {count} windows", tuple(pictures))
        yield Figure(agreement.name, agreement, (row,), limit)


def _labels(side: Side) -> Array:
    return shown_labels(side.segmentation)[0].voxels
