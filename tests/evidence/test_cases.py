"""Cases of every kind: pictures without millimetres, regions that overlap, scans that a runtime did not finish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import LogitsDistance, of_labels
from medattn_edge.evaluation.seen_scan import SeenScan
from medattn_edge.evidence.absences import absences
from medattn_edge.evidence.anonymity import CaseNames
from medattn_edge.evidence.cases import Cases
from medattn_edge.evidence.surfaces import surface_figures
from medattn_edge.io import Scan
from medattn_edge.labels import Meaning
from medattn_edge.volume import Volume
from tests.support.evidence import evidence
from tests.support.sessions import make_volume

REGIONS = Meaning(("whole", "core"), overlapping=True)
RUN = (Path("folder/net.onnx"), "onnxruntime")


def regions(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The core inside the whole; a candidate whose core is a row shorter."""
    reference = np.zeros(shape, np.uint8)
    reference[:, 4:20, 4:20] |= 1
    reference[:, 8:14, 8:14] |= 2
    candidate = reference.copy()
    candidate[:, 13, 8:14] &= 1
    return reference, candidate


def seen(volume: Volume, runs: dict[tuple[Path, str], np.ndarray], index: int = 0) -> SeenScan:
    reference, _ = regions(volume.shape)
    labels = {run: volume.with_voxels(voxels) for run, voxels in runs.items()}
    scan = Scan(f"Doe{index}.nii.gz")
    return SeenScan(index, scan, scan.name, volume, REGIONS, volume.with_voxels(reference), None, labels)


def row(volume: Volume, run: tuple[Path, str], cases: int = 1) -> dict[str, Any]:
    """What a comparison says of it."""
    reference, candidate = regions(volume.shape)
    agreement = of_labels(reference, candidate, REGIONS, LogitsDistance()).to_json()
    case = {**agreement, "not_judged": {}, "verdict": "pass", "failures": []}
    return {"artifact": str(run[0]), "backend": run[1], "cases": [case] * cases}


@pytest.mark.parametrize("calibrated", [True, False])
def test_regions_that_overlap_have_figures_of_their_own_in_their_own_unit(calibrated: bool) -> None:
    scan = np.random.default_rng(0).random((3, 1, 24, 24))
    volume = make_volume((255 * scan).astype(np.uint8), (1.0, 2.0, 2.0), calibrated=calibrated)
    reference, candidate = regions(volume.shape)
    cases = Cases(CaseNames(identify=False), 1)
    cases(seen(volume, {RUN: candidate}))
    (case,) = cases.figures([row(volume, RUN)])
    assert (case.name, case.unit) == ("case 1", "mm" if calibrated else "pixel")
    whole, core = case.runs[0].labels
    assert (whole.label, whole.dice, whole.to_reference.hd95) == ("whole", 1.0, 0.0)
    assert core.to_reference == surface_figures((candidate & 2) > 0, (reference & 2) > 0, volume.spacing,
                                                calibrated=calibrated)  # fmt: skip
    assert core.reference_volume == pytest.approx(36 * (0.004 if calibrated else 1))
    assert core.candidate_volume == pytest.approx(30 * (0.004 if calibrated else 1))
    assert (core.to_reference.surface_dice_2_mm is None) is not calibrated
    (overlay,) = cases.overlays()
    assert (overlay.flips, overlay.artifact, overlay.backend) == (6, "net.onnx", "onnxruntime")
    missing = {one.what for one in absences(evidence(cases=(case,)), {}, "", labelled=True)}
    assert ("Millimetres and millilitres of case 1" in missing) is not calibrated


def test_a_runtime_that_did_not_finish_has_the_cases_that_it_finished_and_is_named_among_what_is_missing() -> None:
    volume = make_volume(np.random.default_rng(0).random((2, 24, 24)).astype(np.float32))
    reference, candidate = regions(volume.shape)
    crashed = (RUN[0], "openvino")
    cases = Cases(CaseNames(identify=False), 0)
    cases(seen(volume, {RUN: candidate, crashed: reference}))
    cases(seen(volume, {RUN: candidate}, 1))
    never = {**row(volume, (RUN[0], "third")), "cases": []}
    first, second = cases.figures([row(volume, RUN, 2), row(volume, crashed), never])
    assert [run.backend for run in first.runs] == ["onnxruntime", "openvino"]
    assert [run.backend for run in second.runs] == ["onnxruntime"]
    assert cases.overlays() == ()
    runs = tuple(
        {"artifact": "net.onnx", "backend": name, "failures": [f"{name} crashed"]} for name in ("openvino", "third")
    )
    found = absences(evidence(cases=(first, second), runs=runs), {"cuda": "no GPU"}, "", labelled=True)
    reasons = {one.what: one.reason for one in found}
    assert reasons["Figures of net.onnx in third"] == "third crashed"
    assert "Figures of net.onnx in openvino" not in reasons
    assert reasons["Agreement in cuda"] == "no GPU"


def test_the_worst_slices_of_an_artifact_are_chosen_over_all_cases_and_runtimes() -> None:
    volume = make_volume(np.random.default_rng(0).random((4, 24, 24)).astype(np.float32), (3.0, 1.0, 1.0))
    reference, _ = regions(volume.shape)

    def with_flips(*counts: int) -> np.ndarray:
        labels = reference.copy()
        for place, count in enumerate(counts):
            labels[place, 0, :count] = 1
        return labels

    other = (RUN[0], "openvino")
    cases = Cases(CaseNames(identify=False), 2)
    cases(seen(volume, {RUN: with_flips(1, 0, 0, 2), other: with_flips(5, 0, 0, 0)}))
    cases(seen(volume, {RUN: with_flips(0, 9, 0, 1), other: with_flips(0, 1, 0, 0)}, 1))
    found = [(one.flips, one.case, one.backend) for one in cases.overlays()]
    assert found == [(9, "case 2", "onnxruntime"), (5, "case 1", "openvino")]
