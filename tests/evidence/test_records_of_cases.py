"""Figures over cases: volumes after Bland and Altman, worst slices, names, checks, and what manifests tell."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.evidence.anonymity import CaseNames, voxels_sha256
from medattn_edge.evidence.checks import deadline_check
from medattn_edge.evidence.pictures import ONLY_CANDIDATE, ONLY_REFERENCE, OTHER_LABEL, worst_cuts
from medattn_edge.evidence.recipes import _ranking, _rejected
from medattn_edge.evidence.volumes import volume_agreements
from medattn_edge.gates import DEADLINE
from medattn_edge.labels import Meaning
from tests.support.evidence import evidence
from tests.support.sessions import make_volume

MEANING = Meaning(("background", "a", "b"))


def test_bias_and_limits_are_those_of_bland_and_altman() -> None:
    cases = []
    for number, (before, after) in enumerate(((100.0, 101.0), (200.0, 203.0), (300.0, 302.0)), 1):
        (run,) = evidence().cases[0].runs
        figures = replace(run.labels[0], reference_volume=before, candidate_volume=after)
        cases.append(replace(evidence().cases[0], name=f"case {number}", runs=(replace(run, labels=(figures,)),)))
    (found,) = volume_agreements(cases)
    assert found.bias == pytest.approx(2.0)  # of 1, 3 and 2, whose standard deviation is 1
    assert found.limits == pytest.approx((0.04, 3.96))
    assert found.bias_percent == pytest.approx((100 / 100.5 + 300 / 201.5 + 200 / 301) / 3)
    assert (found.unit, len(found.reference)) == ("ml", 3)
    assert volume_agreements(cases[:1]) == ()


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_slices_with_the_most_flips_are_drawn_with_a_colour_for_each_kind_of_flip() -> None:
    scan = make_volume(np.random.default_rng(1).random((5, 24, 24)).astype(np.float32), (5.0, 1.0, 1.0))
    before = np.zeros((5, 24, 24), np.uint8)
    before[:, 4:20, 4:20] = 1
    after = before.copy()
    after[3, 4:6, 4:8] = 0
    after[3, 0:2, 0] = 2
    after[3, 10, 10:14] = 2
    after[1, 8, 8] = 2
    cuts = worst_cuts(scan, MEANING, scan.with_voxels(before), scan.with_voxels(after), 3)
    assert [(cut.flips, cut.plane.split(",")[1].split(" at ")[0]) for cut in cuts] == [
        (14, " slice 4 of 5"),
        (1, " slice 2 of 5"),
    ]
    reference, candidate, difference = map(pixels, cuts[0].drawn())
    assert reference.shape == candidate.shape == difference.shape
    for colour in (ONLY_REFERENCE, ONLY_CANDIDATE, OTHER_LABEL):
        assert (difference == colour).all(axis=-1).sum() > 100, colour
    (same,) = worst_cuts(scan, MEANING, scan.with_voxels(before), scan.with_voxels(before), 2)
    assert same.flips == 0
    assert worst_cuts(scan, MEANING, scan.with_voxels(before), scan.with_voxels(after), 0) == []


def test_one_voxel_of_a_large_slice_is_still_seen() -> None:
    scan = make_volume(np.zeros((1, 700, 700), np.float32))
    before = np.ones((1, 700, 700), np.uint8)
    after = before.copy()
    after[0, 333, 444] = 2
    (cut,) = worst_cuts(scan, MEANING, scan.with_voxels(before), scan.with_voxels(after), 1)
    assert (pixels(cut.drawn()[2]) == OTHER_LABEL).all(axis=-1).any()


def test_names_of_scans_are_replaced_as_whole_words_and_in_every_form(tmp_path: Path) -> None:
    names = CaseNames(identify=False)
    names.add(1, [str(tmp_path / "Doe" / "ct"), "ct"], "ct")
    names.add(2, ["T1_Doe.nii.gz+T2_Doe.nii.gz"], "T1_Doe.nii.gz+T2_Doe.nii.gz")
    names.add(2, ["truth_Doe.nii.gz"], "truth_Doe.nii.gz", "the labels of ")
    texts = [
        f"{tmp_path}/Doe/ct: rejected ct, and T2_Doe.nii.gz",
        {"T1_Doe.nii.gz+T2_Doe.nii.gz": "truth_Doe.nii.gz: 5"},
    ]
    assert names.cleaned(texts) == ["case 1: rejected case 1, and case 2", {"case 2": "the labels of case 2: 5"}]
    named = CaseNames(identify=True)
    named.add(1, [str(tmp_path / "ct")], "ct")
    assert named.cleaned(f"{tmp_path}/ct") == "ct"


def test_the_hash_of_a_scan_is_of_its_voxels_and_their_place() -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    first = voxels_sha256(make_volume(voxels))
    assert first == voxels_sha256(make_volume(voxels.copy()))
    other = voxels.copy()
    other[2, 3, 4] += 1
    assert len({first, voxels_sha256(make_volume(other)), voxels_sha256(make_volume(voxels, (2.0, 1.0, 1.0)))}) == 3


def timed(backend: str, miss_rate: float, p99_ms: float | None = 40.0) -> dict[str, object]:
    return {"artifact": "net.onnx", "backend": backend, "miss_rate": miss_rate, "p99_ms": p99_ms, "rounds": 200}


def test_a_deadline_is_met_by_one_runtime_that_people_would_deploy_and_by_nothing_untimed() -> None:
    limit = DEADLINE.limits["max_miss_rate"]
    slow, fast = timed("openvino", 0.5, 90.0), timed("onnxruntime", limit)
    assert deadline_check(["net.onnx"], [slow, fast], 50).verdict == "pass"
    assert deadline_check(["net.onnx"], [slow], 50).verdict == "fail"
    assert deadline_check(["net.onnx"], [timed("onnxruntime", limit + 0.005)], 50).verdict == "fail"
    assert deadline_check(["net.onnx"], [timed("onnxruntime-unoptimised", 0.0)], 50).failures == (
        "net.onnx was not timed",
    )
    assert deadline_check(["net.onnx", "b.onnx"], [fast], 50).failures == ("b.onnx was not timed",)
    assert deadline_check(["net.onnx"], None, 50).verdict == "fail"
    assert deadline_check(["net.onnx"], [timed("onnxruntime", 0.0, None)], 50).verdict == "fail"


RECIPE = {
    "quantizer": "onnxruntime",
    "floating": [{"layers": [{"node": "n1", "module": "head"}], "sqnr_db": 30.0, "dice": 0.9}],
    "quantizers": [
        {"quantizer": "nncf", "floating": 0, "dice": 0.998, "sqnr_db": 35.0, "holds": False, "ratio_to_fp32": None},
        {"quantizer": "onnxruntime", "floating": 0, "dice": 0.99, "sqnr_db": 31.0, "holds": False},
    ],
    "ranking": [
        {"layers": [{"node": "n1", "module": "head"}], "sqnr_db": 30.0, "dice": 0.9},
        {"layers": [{"node": "n2", "module": ""}, {"node": "n3", "module": "up"}], "sqnr_db": 50.0, "dice": 1.0},
        {"layers": [{"node": "n4", "module": "x"}], "sqnr_db": None, "dice": 1.0},
    ],
}


def test_layers_and_lost_candidates_are_those_of_the_recipe() -> None:
    rows = _ranking("net.onnx", RECIPE)
    assert [(one.layer, one.precision, one.sqnr_db) for one in rows] == [
        ("head", "FP32", 30.0),
        ("n2, up", "INT8", 50.0),
    ]
    lost = _rejected("net.onnx", RECIPE)
    assert [one.name for one in lost] == ["nncf for net.onnx", "onnxruntime for net.onnx, no layer in FP32"]
    assert lost[0].figures == {"Dice with the reference": 0.998, "SQNR in dB": 35.0, "layers in FP32": 0}
    whole = {**RECIPE, "floating": []}
    assert [one.name for one in _rejected("net.onnx", whole)] == ["nncf for net.onnx"]
    held = {**whole, "quantizers": [{"quantizer": "nncf", "holds": True, "ratio_to_fp32": 1.1}]}
    assert _rejected("net.onnx", held)[0].reason == "held the gate; onnxruntime was faster and was kept"
    assert _ranking("net.onnx", {}) == _rejected("net.onnx", {}) == []
