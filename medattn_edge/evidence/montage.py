"""Montage: one picture of a comparison, the worst slices of every candidate beside the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.evaluation.seen_scan import SeenScan
from medattn_edge.evidence.pictures import ONLY_CANDIDATE, ONLY_REFERENCE, OTHER_LABEL, Cut, worst_cuts
from medattn_edge.io.page import LegendEntry, Panel, PanelRow, compose, fitted
from medattn_edge.volume import Array

SLICES: Final = 3  # of every candidate in every runtime
_KINDS: Final = (
    ("only the reference", ONLY_REFERENCE),
    ("only the candidate", ONLY_CANDIDATE),
    ("another label", OTHER_LABEL),
)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A slice of one candidate in one runtime.

    Attributes:
        candidate: the file's name and the runtime.
        scan: its number among those compared, from 1: names of files may name people.
        cut: the slice.
    """

    candidate: str
    scan: int
    cut: Cut


class Montage:
    """An observer of `evaluation.compare` that keeps the slices with the most voxels of another label.

    Args:
        slices: of every candidate in every runtime at most, over all scans.
    """

    def __init__(self, slices: int = SLICES) -> None:
        self._slices = slices
        self._kept: dict[tuple[Path, str], list[_Kept]] = {}

    def __call__(self, seen: SeenScan) -> None:
        """Keep what the scan adds to the worst slices so far."""
        for run, labels in seen.candidates.items():
            cuts = worst_cuts(
                seen.volume, seen.meaning, seen.reference, labels, self._slices, seen.intensity, seen.codes
            )
            name = f"{run[0].name} in {run[1]}"
            mine = [*self._kept.get(run, ()), *(_Kept(name, seen.index + 1, cut) for cut in cuts)]
            mine.sort(key=lambda one: -one.cut.flips)  # the first of equals stays first
            # A slice without a difference is shown only where there is none with one.
            self._kept[run] = [one for one in mine[: self._slices] if one.cut.flips] or mine[:1]

    def write_montage(self, path: Path) -> int:
        """Write a PNG with a row for each slice: the reference, the candidate, and where they differ.

        Returns:
            How many slices it shows; without one, where no candidate finished a scan, nothing is written.

        Raises:
            OutputError: when the file cannot be written.
        """
        return self._write(path, [_row(one) for one in self._all()], labelled=True)

    def write_difference(self, path: Path) -> int:
        """Write a PNG of the differences only, those of one candidate side by side; returns as `write_montage`."""
        rows = [PanelRow([_difference(one) for one in kept]) for kept in self._kept.values() if kept]
        return self._write(path, rows, labelled=False)

    def _all(self) -> list[_Kept]:
        return [one for kept in self._kept.values() for one in kept]

    def _write(self, path: Path, rows: Sequence[PanelRow], *, labelled: bool) -> int:
        kept = self._all()
        if not kept:
            return 0
        names, colours = kept[0].cut.names, kept[0].cut.colours
        legend = [LegendEntry(value, name) for value, name in enumerate(names) if value and name and labelled]
        legend += [LegendEntry(len(names) + place, name) for place, (name, _) in enumerate(_KINDS)]
        page = compose(rows, legend, 0.0, [*colours, *(colour for _, colour in _KINDS)])
        with replacing(path) as temporary, temporary.open("wb") as file:
            page.save(file, format="PNG")
        return len(kept)


def _row(one: _Kept) -> PanelRow:
    reference, candidate, difference = map(_bytes, one.cut.pixels())
    return PanelRow(
        [
            _panel(reference, f"reference: scan {one.scan}, {one.cut.plane}"),
            _panel(candidate, one.candidate),
            _panel(difference, _flips(one)),
        ]
    )


def _difference(one: _Kept) -> Panel:
    caption = f"{_flips(one)}: scan {one.scan}, {one.cut.plane}, {one.candidate}"
    return _panel(_bytes(one.cut.pixels()[2]), caption)


def _flips(one: _Kept) -> str:
    count = one.cut.flips
    return f"{count:,} voxels differ" if count > 1 else "1 voxel differs" if count else "no voxel differs"


def _panel(pixels: Array, caption: str) -> Panel:
    return Panel(pixels, "", fitted(caption, pixels.shape[1]))


def _bytes(pixels: Array) -> Array:
    shown: Array = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return shown
