"""Agreement: known distances have their known figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from medattn_edge.agreement import (
    IDENTICAL_DB,
    Agreement,
    LogitsDistance,
    Thresholds,
    boundary,
    dice_per_label,
    of_labels,
    true_dice,
)
from medattn_edge.errors import ShapeError
from medattn_edge.labels import Meaning

MEANING = Meaning(("background", "kidney", "tumour"))


def distance(reference: object, candidate: object) -> LogitsDistance:
    found = LogitsDistance()
    found.add(np.asarray(reference, np.float32), np.asarray(candidate, np.float32))
    return found


def perfect(**other: object) -> Agreement:
    values = {"max_abs": 0.0, "sqnr_db": IDENTICAL_DB, "label_match": 1.0, "dice": {"kidney": 1.0}}
    return Agreement(**{**values, "volume_change_percent": {"kidney": 0.0}, "boundary_flips": 0, "flips": 0, **other})


def test_a_tenth_of_the_amplitude_is_twenty_db() -> None:
    found = distance([10.0, -10.0], [11.0, -11.0])
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs == 1.0


def test_the_running_distance_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 8, 5)).astype(np.float32)
    running = LogitsDistance()
    for row in range(8):
        running.add(first[:, row], second[:, row])
    whole = distance(first, second)
    assert running.sqnr_db == pytest.approx(whole.sqnr_db)
    assert (running.max_abs, running.count) == (whole.max_abs, 120)


def test_identical_logits_have_the_finite_figure_for_it() -> None:
    assert distance([1.0, 2.0], [1.0, 2.0]).sqnr_db == IDENTICAL_DB
    assert distance([0.0], [0.0]).sqnr_db == IDENTICAL_DB


@pytest.mark.parametrize(("reference", "candidate"), [([0.0], [1.0]), ([0.0], [3e38]), ([1e-30], [1e30])])
def test_a_reference_of_almost_nothing_has_a_very_low_finite_figure(reference: object, candidate: object) -> None:
    found = distance(reference, candidate).sqnr_db
    assert math.isfinite(found)
    assert found < -100


@pytest.mark.parametrize(
    ("reference", "candidate"), [([1.0], [np.nan]), ([1.0], [np.inf]), ([np.inf], [np.inf]), ([np.nan], [np.nan])]
)
def test_logits_that_are_not_finite_fail_every_gate(reference: object, candidate: object) -> None:
    found = distance(reference, candidate)
    found.add(np.ones(1, np.float32), np.ones(1, np.float32))  # a good slab afterwards heals nothing
    assert not found.finite
    assert found.sqnr_db == -math.inf
    assert found.max_abs == math.inf
    same = np.zeros((1, 2, 2), np.uint8)
    agreement = of_labels(same, same, MEANING, found)
    assert Thresholds().failures(agreement) == ["the candidate's logits are not finite"]
    assert len(Thresholds(min_sqnr_db=20, max_abs=1).failures(agreement)) == 3


def test_logits_and_labels_of_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="one checkpoint"):
        distance([1.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match="one scan"):
        of_labels(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)), MEANING, LogitsDistance())


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    first, second = np.array([0, 1, 1, 1, 2]), np.array([1, 1, 1, 0, 0])
    assert dice_per_label(first, second, MEANING) == {"kidney": pytest.approx(4 / 6), "tumour": 0.0}
    assert dice_per_label(first * 0, first * 0, MEANING) == {}  # of nothing there is no Dice, least of all 1


def test_a_label_that_neither_has_is_named_and_has_no_figure() -> None:
    first, second = np.array([[0, 1, 1]], np.uint8), np.array([[1, 1, 0]], np.uint8)
    found = of_labels(first, second, MEANING, LogitsDistance())
    assert (dict(found.dice), found.absent) == ({"kidney": 0.5}, ("tumour",))
    assert found.to_json()["absent"] == ["tumour"]
    assert found.limited_to(["tumour"]).dice == {}


def test_true_dice_is_of_what_the_true_labels_have() -> None:
    truth, labels = np.array([[0, 1, 1]], np.uint8), np.array([[2, 1, 0]], np.uint8)
    assert true_dice(truth, labels, MEANING) == {"kidney": pytest.approx(2 / 3)}
    assert true_dice(truth, labels, MEANING, ("tumour",)) == {}


def test_flips_at_a_boundary_are_told_from_those_inside() -> None:
    reference = np.zeros((1, 7, 7), np.uint8)
    reference[:, 1:6, 1:6] = 1
    candidate = reference.copy()
    candidate[0, 1, 3] = 0  # on the organ's edge
    candidate[0, 0, 3] = 1  # just outside
    candidate[0, 3, 3] = 2  # a hole in the middle
    found = of_labels(reference, candidate, MEANING, LogitsDistance())
    assert (found.flips, found.boundary_flips) == (3, 2)
    assert found.label_match == pytest.approx(46 / 49)
    assert found.volume_change_percent == {"kidney": pytest.approx(-4.0), "tumour": math.inf}
    assert found.dice == {"kidney": pytest.approx(46 / 49), "tumour": 0.0}


def test_the_boundary_is_both_sides_of_every_change() -> None:
    np.testing.assert_array_equal(boundary(np.array([0, 0, 1, 1, 1])), [False, True, True, False, False])
    assert not boundary(np.ones((1, 3, 3))).any()


@pytest.mark.parametrize(
    ("thresholds", "agreement", "said"),
    [
        (
            Thresholds(min_dice=0.99),
            perfect(dice={"kidney": 0.9}),
            "Dice with the reference of kidney is 0.9, below 0.99",
        ),
        (Thresholds(min_sqnr_db=40), perfect(sqnr_db=30.0), "SQNR in dB is 30, below 40"),
        (Thresholds(min_label_match=0.999), perfect(label_match=0.5), "label match is 0.5, below 0.999"),
        (Thresholds(max_abs=0.1), perfect(max_abs=0.2), "largest difference of two logits is 0.2, above 0.1"),
        (
            Thresholds(max_volume_change_percent=1),
            perfect(volume_change_percent={"kidney": -2.0}),
            "volume change in % of kidney is 2, above 1",
        ),
    ],
)
def test_a_gate_says_what_it_missed(thresholds: Thresholds, agreement: Agreement, said: str) -> None:
    assert thresholds.failures(agreement) == [said]
    assert thresholds.failures(perfect()) == []


def test_figures_at_their_threshold_hold() -> None:
    exact = Thresholds(min_dice=1.0, min_sqnr_db=IDENTICAL_DB, min_label_match=1.0, max_abs=0.0)
    assert exact.failures(perfect()) == []


def test_a_figure_or_a_threshold_that_is_not_a_number_fails() -> None:
    nan = math.nan
    assert len(Thresholds(min_dice=0.5).failures(perfect(dice={"kidney": nan}))) == 1
    assert len(Thresholds(max_abs=0.5).failures(perfect(max_abs=nan))) == 1
    assert len(Thresholds(nan, nan, nan, nan, nan).failures(perfect())) == 5


def test_json_holds_null_where_there_is_no_figure() -> None:
    values = perfect(sqnr_db=-math.inf, volume_change_percent={"kidney": math.inf, "tumour": 1.0}).to_json()
    assert values["sqnr_db"] is None
    assert values["volume_change_percent"] == {"kidney": None, "tumour": 1.0}
    json.dumps(values, allow_nan=False)
    assert Thresholds(min_dice=0.9).to_json() == {"min_dice": 0.9}
