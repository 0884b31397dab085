"""Cases: what is kept of every scan while it is compared, and the figures that a comparison does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medattn_edge.evaluation.seen_scan import SeenScan
from medattn_edge.evidence.anonymity import CaseNames, voxels_sha256
from medattn_edge.evidence.pictures import Cut, worst_cuts
from medattn_edge.evidence.records import Case, CaseRun, Overlay, StructureFigures, SurfaceFigures
from medattn_edge.evidence.surfaces import surface_figures
from medattn_edge.volume import Volume

Run = tuple[Path, str]  # the file, the runtime
Surfaces = Mapping[str, SurfaceFigures]


class Cases:
    """The observer of a comparison.

    Args:
        names: what scans are called.
        pictures: worst slices of each artifact to keep.
    """

    def __init__(self, names: CaseNames, pictures: int) -> None:
        self._names, self._pictures = names, pictures
        self._cases: dict[int, Case] = {}
        self._measured: dict[tuple[int, Run], _Measured] = {}
        self._cuts: dict[Path, list[tuple[Cut, str, str]]] = {}
        self._of_reference: dict[int, Surfaces | None] = {}

    def __call__(self, seen: SeenScan) -> None:
        """Keep what a report needs of one scan of one graph's runs."""
        if seen.index not in self._cases:
            self._cases[seen.index] = _case(seen, self._names.of(seen))
            self._of_reference[seen.index] = _to_truth(seen, seen.reference)
        known: list[tuple[Volume, _Measured]] = []
        for run, labels in seen.candidates.items():
            # Runtimes of one graph mostly give the same labels, whose surfaces are then measured once.
            same = next((figures for other, figures in known if (other.voxels == labels.voxels).all()), None)
            figures = same or _Measured(seen, labels, self._of_reference[seen.index])
            known.append((labels, figures))
            self._measured[seen.index, run] = figures
            self._keep_cuts(seen, run, labels)

    def _keep_cuts(self, seen: SeenScan, run: Run, labels: Volume) -> None:
        """The worst slices of an artifact so far, those of one scan in the runtime that is worst on it."""
        cuts = worst_cuts(seen.volume, seen.meaning, seen.reference, labels, self._pictures, seen.intensity, seen.codes)
        case = self._names.of(seen)
        kept = [(cut, case, run[1]) for cut in cuts]
        before = self._cuts.get(run[0], [])
        here = [one for one in before if one[1] == case]
        if sum(cut.flips for cut, *_ in here) >= sum(cut.flips for cut in cuts) and here:
            return
        others = [one for one in before if one[1] != case]
        ranked = sorted([*others, *kept], key=lambda one: -one[0].flips)
        self._cuts[run[0]] = ranked[: self._pictures]

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Case, ...]:
        """The cases with the figures of a comparison's rows, whose cases are in the order of the scans."""
        cases = []
        for index, case in sorted(self._cases.items()):
            runs = []
            for row in rows:
                figures = self._measured.get((index, (Path(row["artifact"]), row["backend"])))
                if figures is not None:
                    runs.append(self._run(row, row["cases"][index], figures))
            cases.append(replace(case, runs=tuple(runs)))
        return tuple(cases)

    def _run(self, row: Mapping[str, Any], case: Mapping[str, Any], figures: _Measured) -> CaseRun:
        flips, near = int(case["flips"]), int(case["boundary_flips"])
        return CaseRun(
            artifact=Path(row["artifact"]).name,
            backend=row["backend"],
            verdict=case["verdict"],
            failures=tuple(self._names.cleaned(case["failures"])),
            sqnr_db=case["sqnr_db"],
            max_abs=case["max_abs"],
            label_match=case["label_match"],
            flips=flips,
            boundary_flips=near,
            boundary_share=near / flips if flips else None,
            labels=tuple(replace(one, not_judged=self._names.cleaned(one.not_judged)) for one in figures.labels(case)),
        )

    def overlays(self) -> tuple[Overlay, ...]:
        """The worst slices of every artifact, drawn."""
        return tuple(
            Overlay(case, path.name, backend, cut.plane, cut.flips, *cut.drawn())
            for path, cuts in self._cuts.items()
            for cut, case, backend in cuts
        )


class _Measured:
    """Volumes and surfaces of one candidate's labels of one scan."""

    def __init__(self, seen: SeenScan, labels: Volume, of_reference: Surfaces | None) -> None:
        self._scale = seen.volume.voxel_ml if seen.volume.calibrated else 1.0
        self._before = seen.meaning.counts(seen.reference.voxels)
        self._after = seen.meaning.counts(labels.voxels)
        self._names = seen.meaning.structures
        self._to_reference = _surfaces(seen, labels, seen.reference)
        self._to_truth = _to_truth(seen, labels)
        self._of_reference = of_reference

    def labels(self, case: Mapping[str, Any]) -> tuple[StructureFigures, ...]:
        """The figures of every structure, those of a comparison's case among them."""
        return tuple(self._structure(name, case) for name in self._names)

    def _structure(self, name: str, case: Mapping[str, Any]) -> StructureFigures:
        def of(key: str) -> float | None:
            value: float | None = (case.get(key) or {}).get(name)
            return value

        return StructureFigures(
            label=name,
            not_judged=str(case["not_judged"].get(name, "")),
            dice=of("dice"),
            reference_dice=of("reference_dice"),
            candidate_dice=of("candidate_dice"),
            true_dice_share=of("true_dice_share"),
            reference_volume=self._before[name] * self._scale,
            candidate_volume=self._after[name] * self._scale,
            volume_change_percent=of("volume_change_percent"),
            to_reference=self._to_reference[name],
            to_truth=None if self._to_truth is None else self._to_truth[name],
            reference_to_truth=None if self._of_reference is None else self._of_reference[name],
        )


def _case(seen: SeenScan, name: str) -> Case:
    volume = seen.volume
    unit = "mm" if volume.calibrated else "pixel"
    return Case(name, voxels_sha256(volume), volume.shape, volume.spacing, unit)


def _to_truth(seen: SeenScan, labels: Volume) -> Surfaces | None:
    return None if seen.true_labels is None else _surfaces(seen, labels, seen.true_labels)


def _surfaces(seen: SeenScan, labels: Volume, other: Volume) -> Surfaces:
    volume, meaning = seen.volume, seen.meaning
    return {
        name: surface_figures(
            meaning.mask(labels.voxels, name),
            meaning.mask(other.voxels, name),
            volume.spacing,
            calibrated=volume.calibrated,
        )
        for name in meaning.structures
    }
