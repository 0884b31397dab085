"""The judge: the gate on held-out windows, with true labels and without."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.backends.session import Session
from medattn_edge.errors import ScanError, UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.gates import INT8, TRUE_LABELS
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.labels import Meaning
from medattn_edge.precision.judge import Judge
from medattn_edge.precision.windows import ScanSource, TiledScan, Windows
from medattn_edge.volume import Volume
from tests.precision.scans import LPS, SPEC, brighter_than, every_window

CLOSE, EXACT, BOTH = INT8.thresholds, Thresholds(min_dice=1.0), TRUE_LABELS.thresholds
RAMP = np.tile(np.linspace(0, 1, 1600, dtype=np.float32).reshape(1, 40, 40), (3, 1, 1))


@pytest.fixture(scope="module")
def windows() -> Windows:
    return every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS)))


def with_truth(level: float) -> Windows:
    labels = Volume((level < RAMP).astype(np.uint8), LPS)
    return every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: labels))


def test_the_same_answer_holds_any_gate(windows: Windows) -> None:
    verdict = Judge(brighter_than(0.5), windows, EXACT).judge(brighter_than(0.5))
    assert verdict.holds
    assert verdict.dice == 1
    assert verdict.agreement.sqnr_db == 300


def test_another_answer_fails_with_its_figures(windows: Windows) -> None:
    verdict = Judge(brighter_than(0.5), windows, CLOSE).judge(brighter_than(0.6))
    assert not verdict.holds
    assert 0.85 < verdict.dice < 0.92
    assert "Dice with the reference of organ" in verdict.failures[0]
    assert json.loads(json.dumps(verdict.to_json()))["dice"]["organ"] == pytest.approx(verdict.dice)


def test_with_true_labels_both_thresholds_are_held() -> None:
    judge = Judge(brighter_than(0.5), with_truth(0.6), BOTH)
    better, worse = judge.judge(brighter_than(0.55)), judge.judge(brighter_than(0.45))
    low, high = better.true_dice_share or (0, 0)
    assert low == high > 1.01
    assert [failure.split(" is ")[0].split(" (")[0] for failure in better.failures] == [
        "Dice with the reference of organ",
        "share of the reference's true Dice of organ",
    ], "a true Dice that rose is another answer too"
    assert "below 0.99" in better.failures[0]
    assert "above 1.01" in better.failures[1]
    assert worse.true_dice_share is not None
    assert worse.true_dice_share[0] < 0.95
    assert [failure.rpartition(", ")[2] for failure in worse.failures] == ["below 0.99", "below 0.999"]


def test_either_threshold_alone_fails_a_candidate() -> None:
    """True labels at 0.5: a boundary on either side of them has the same true Dice, and other voxels."""
    judge = Judge(
        brighter_than(0.45), with_truth(0.5), replace(BOTH, min_true_dice_share=0.98, max_true_dice_share=1.02)
    )
    moved = judge.judge(brighter_than(0.545))
    assert [failure.split(" of ")[0] for failure in moved.failures] == ["Dice with the reference"]
    near = Judge(brighter_than(0.5), with_truth(0.5), BOTH).judge(brighter_than(0.503))
    assert near.dice > 0.99
    assert [failure.split(" of ")[0] for failure in near.failures] == ["share"]


def test_of_those_that_fail_the_nearest_to_the_gate_ranks_first() -> None:
    """By how much the worst figure is beyond its limit, whichever it is; a true Dice that rises is no merit."""
    judge = Judge(brighter_than(0.5), with_truth(0.6), BOTH)
    small, large = judge.judge(brighter_than(0.49)), judge.judge(brighter_than(0.58))
    assert (large.true_dice_share or (0,))[0] > 1 > (small.true_dice_share or (2,))[0]
    assert not small.holds
    assert not large.holds
    assert small.rank > large.rank > judge.judge(brighter_than(float("nan"))).rank
    assert judge.judge(brighter_than(0.5)).shortfall == 0


def test_the_file_carries_what_was_asked_where_it_was_judged(windows: Windows) -> None:
    values = {"organ": [3, 4]}
    assert Judge(brighter_than(0.5), windows, CLOSE).file_gate(values) == FileGate(0.999, labels=("organ",))
    asked = Judge(brighter_than(0.5), with_truth(0.5), BOTH).file_gate(values)
    assert asked == FileGate(**TRUE_LABELS.limits, labels=("organ",), label_values={"organ": (3, 4)})
    some = Judge(TwoThresholds(0.5, 2.0), windows, CLOSE, JudgedLabels(Meaning.of(REGIONS), ["bright"])).file_gate({})
    assert some is not None
    assert some.labels == ("bright",), "of brighter nothing was asked"


def test_true_labels_in_another_place_are_no_gate_that_anything_holds() -> None:
    elsewhere = Volume((RAMP < 0.3).astype(np.uint8), LPS)
    windows = every_window(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: elsewhere))
    judged = JudgedLabels(Meaning.of(SPEC))
    judged.add_truth(LabelAudit.of("a.nrrd", elsewhere, {"organ": [1]}))
    with pytest.raises(ScanError, match=r"true Dice is below 0.1 \(organ 0.0000\)(.|\n)*looked for as organ=1") as told:
        Judge(brighter_than(0.5), windows, BOTH, judged)
    assert "a.nrrd has the values 1 (1,440 voxels, 1.4 ml: organ)" in told.value.found


def test_a_few_windows_without_anything_to_judge_prove_nothing(windows: Windows) -> None:
    judge = Judge(brighter_than(0.95), windows, CLOSE)
    empty = [index for index in range(len(windows)) if not (windows[index] > 0.95).any()]
    assert judge.judge(brighter_than(0.95), (empty[0],)).dice == 0.0


@pytest.mark.parametrize("truth", [False, True])
def test_logits_that_are_not_finite_fail(windows: Windows, truth: bool) -> None:
    judge = Judge(brighter_than(0.5), with_truth(0.5) if truth else windows, Thresholds(min_dice=0.0))
    verdict = judge.judge(brighter_than(float("nan")))
    assert not verdict.holds
    assert verdict.to_json()["sqnr_db"] is None


def test_windows_with_nothing_to_find_are_refused_and_a_missing_label_is_told(windows: Windows) -> None:
    with pytest.raises(UsageError, match=r"finds none of organ in the 48 held-out windows(.|\n)*--held-out"):
        Judge(brighter_than(2.0), windows, CLOSE)
    assert Judge(brighter_than(0.5), windows, CLOSE).unseen == ()


def test_some_windows_are_enough_for_a_quick_look(windows: Windows) -> None:
    judge = Judge(brighter_than(0.5), windows, CLOSE)
    assert judge.judge(brighter_than(0.6), (0,)).agreement.flips < judge.judge(brighter_than(0.6)).agreement.flips


def test_a_fixed_batch_is_judged_alike(windows: Windows) -> None:
    judge = Judge(brighter_than(0.5, batch=2), windows, CLOSE)
    assert judge.judge(brighter_than(0.6, batch=3)) == Judge(brighter_than(0.5), windows, CLOSE).judge(
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
    judge = Judge(TwoThresholds(0.5, 0.8), windows, CLOSE)
    assert judge.unseen == ()
    assert judge.judge(TwoThresholds(0.5, 0.8)).holds
    verdict = judge.judge(TwoThresholds(0.5, 0.9))
    assert verdict.agreement.dice["bright"] == 1
    assert verdict.agreement.dice["brighter"] == pytest.approx(2 * 0.1 / 0.3, abs=0.02)
    assert [failure.split(" is ")[0] for failure in verdict.failures] == ["Dice with the reference of brighter"]
    with pytest.raises(ScanError, match=r"none of brighter in the 48(.|\n)*--judge-labels bright, to judge nothing"):
        Judge(TwoThresholds(0.5, 2.0), windows, CLOSE)
    named = Judge(TwoThresholds(0.5, 2.0), windows, CLOSE, JudgedLabels(Meaning.of(REGIONS), ["bright"]))
    assert (named.judged, named.unseen) == (("bright",), ("brighter",))
    assert named.judge(TwoThresholds(0.5, 0.8)).holds  # of brighter nothing was asked
    with pytest.raises(UsageError, match="none of bright, brighter"):
        Judge(TwoThresholds(2.0, 2.0), windows, CLOSE)


def test_true_regions_are_judged_each_by_itself() -> None:
    bits = Volume((RAMP > 0.5).astype(np.uint8) | (RAMP > 0.8).astype(np.uint8) << 1, LPS)
    scan = TiledScan(ScanSource("ramp", lambda: Volume(RAMP, LPS), lambda _: bits), REGIONS)
    judge = Judge(TwoThresholds(0.5, 0.8), Windows(scan.cut(scan.tiling.windows)), BOTH)
    verdict = judge.judge(TwoThresholds(0.6, 0.8))
    assert verdict.agreement.reference_dice == {"bright": 1.0, "brighter": 1.0}
    after = verdict.agreement.candidate_dice
    assert after is not None
    assert after["brighter"] == 1
    assert after["bright"] == pytest.approx(2 * 0.4 / 0.9, abs=0.05)  # windows overlap
