"""The judge: the gate on held-out windows, with true labels and without."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medattn_edge.backends.session import Session
from medattn_edge.errors import ScanError, UsageError
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.labels import Meaning
from medattn_edge.precision.judge import Judge
from medattn_edge.precision.windows import ScanSource, TiledScan, Windows
from medattn_edge.volume import Volume
from tests.precision.scans import LPS, SPEC, brighter_than, every_window

RAMP = np.tile(np.linspace(0, 1, 1600, dtype=np.float32).reshape(1, 40, 40), (3, 1, 1))


@pytest.fixture(scope="module")
def windows() -> Windows:
    return every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS)))


def with_truth(level: float) -> Windows:
    labels = Volume((level < RAMP).astype(np.uint8), LPS)
    return every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: labels))


def test_the_same_answer_holds_any_gate(windows: Windows) -> None:
    verdict = Judge(brighter_than(0.5), windows, 1.0).judge(brighter_than(0.5))
    assert verdict.holds
    assert verdict.dice == 1
    assert verdict.agreement.sqnr_db == 300


def test_another_answer_fails_with_its_figures(windows: Windows) -> None:
    verdict = Judge(brighter_than(0.5), windows, 0.999).judge(brighter_than(0.6))
    assert not verdict.holds
    assert 0.85 < verdict.dice < 0.92
    assert "Dice of organ" in verdict.failures[0]
    assert json.loads(json.dumps(verdict.to_json()))["dice"]["organ"] == pytest.approx(verdict.dice)


def test_true_labels_make_the_gate_a_share_of_the_references_own_dice(windows: Windows) -> None:
    judge = Judge(brighter_than(0.5), with_truth(0.6), 0.999)
    better, worse = judge.judge(brighter_than(0.55)), judge.judge(brighter_than(0.45))
    assert better.holds
    assert better.dice > 1
    assert better.agreement.dice["organ"] < 0.96
    assert not worse.holds
    assert worse.dice == pytest.approx(worse.candidate_dice["organ"] / worse.reference_dice["organ"])
    assert "below 0.999 of the reference's" in worse.failures[0]


def test_true_labels_in_another_place_are_no_gate_that_anything_holds() -> None:
    elsewhere = Volume((RAMP < 0.3).astype(np.uint8), LPS)
    windows = every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: elsewhere))
    judged = JudgedLabels(Meaning.of(SPEC))
    judged.add_truth(LabelAudit.of("a.nrrd", elsewhere, {"organ": [1]}))
    with pytest.raises(ScanError, match=r"true Dice is below 0.1 \(organ 0.0000\)(.|\n)*looked for as organ=1") as told:
        Judge(brighter_than(0.5), windows, 0.999, judged)
    assert "a.nrrd has the values 1 (1,440 voxels, 1.4 ml: organ)" in told.value.found


def test_a_few_windows_without_anything_to_judge_prove_nothing(windows: Windows) -> None:
    judge = Judge(brighter_than(0.95), windows, 0.999)
    empty = [index for index in range(len(windows)) if not (windows[index] > 0.95).any()]
    assert judge.judge(brighter_than(0.95), (empty[0],)).dice == 0.0


@pytest.mark.parametrize("truth", [False, True])
def test_logits_that_are_not_finite_fail(windows: Windows, truth: bool) -> None:
    judge = Judge(brighter_than(0.5), with_truth(0.5) if truth else windows, 0.0)
    verdict = judge.judge(brighter_than(float("nan")))
    assert not verdict.holds
    assert verdict.to_json()["sqnr_db"] is None


def test_windows_with_nothing_to_find_are_refused_and_a_missing_label_is_told(windows: Windows) -> None:
    with pytest.raises(UsageError, match=r"finds none of organ in the 48 held-out windows(.|\n)*--held-out"):
        Judge(brighter_than(2.0), windows, 0.999)
    assert Judge(brighter_than(0.5), windows, 0.999).unseen == ()


def test_some_windows_are_enough_for_a_quick_look(windows: Windows) -> None:
    judge = Judge(brighter_than(0.5), windows, 0.999)
    assert judge.judge(brighter_than(0.6), (0,)).agreement.flips < judge.judge(brighter_than(0.6)).agreement.flips


def test_a_fixed_batch_is_judged_alike(windows: Windows) -> None:
    judge = Judge(brighter_than(0.5, batch=2), windows, 0.999)
    assert judge.judge(brighter_than(0.6, batch=3)) == Judge(brighter_than(0.5), windows, 0.999).judge(
        brighter_than(0.6)
    )


REGIONS = replace(SPEC, labels=("bright", "brighter"), outputs=2, activation="sigmoid")


class TwoThresholds(Session):
    """Two regions, one inside the other."""

    def __init__(self, *levels: float) -> None:
        super().__init__(REGIONS)
        self.levels = levels

    def _run(self, patches: np.ndarray) -> np.ndarray:
        return np.concatenate([patches - np.float32(level) for level in self.levels], axis=1)


def test_regions_that_overlap_are_judged_each_by_itself(windows: Windows) -> None:
    judge = Judge(TwoThresholds(0.5, 0.8), windows, 0.999)
    assert judge.unseen == ()
    assert judge.judge(TwoThresholds(0.5, 0.8)).holds
    verdict = judge.judge(TwoThresholds(0.5, 0.9))
    assert verdict.agreement.dice["bright"] == 1
    assert verdict.agreement.dice["brighter"] == pytest.approx(2 * 0.1 / 0.3, abs=0.02)
    assert [failure.split(" is ")[0] for failure in verdict.failures] == ["Dice of brighter"]
    with pytest.raises(ScanError, match=r"none of brighter in the 48(.|\n)*--judge-labels bright, to judge nothing"):
        Judge(TwoThresholds(0.5, 2.0), windows, 0.999)
    named = Judge(TwoThresholds(0.5, 2.0), windows, 0.999, JudgedLabels(Meaning.of(REGIONS), ["bright"]))
    assert (named.judged, named.unseen) == (("bright",), ("brighter",))
    assert named.judge(TwoThresholds(0.5, 0.8)).holds  # of brighter nothing was asked
    with pytest.raises(UsageError, match="none of bright, brighter"):
        Judge(TwoThresholds(2.0, 2.0), windows, 0.999)


def test_true_regions_are_judged_each_by_itself() -> None:
    bits = Volume((RAMP > 0.5).astype(np.uint8) | (RAMP > 0.8).astype(np.uint8) << 1, LPS)
    scan = TiledScan(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: bits), REGIONS)
    judge = Judge(TwoThresholds(0.5, 0.8), Windows(scan.cut(scan.tiling.windows)), 0.999)
    verdict = judge.judge(TwoThresholds(0.6, 0.8))
    assert verdict.reference_dice == {"bright": 1.0, "brighter": 1.0}
    assert verdict.candidate_dice["brighter"] == 1
    assert verdict.candidate_dice["bright"] == pytest.approx(2 * 0.4 / 0.9, abs=0.05)  # windows overlap
