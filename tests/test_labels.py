"""What a voxel means: a number of labels that exclude each other, a bit for each region of those that overlap."""

from __future__ import annotations

import numpy as np
import pytest

from medattn_edge.agreement import LogitsDistance, dice_per_label, of_labels
from medattn_edge.labels import Meaning, labels_of, probabilities_of
from tests.support.sessions import make_spec

REGIONS = ("whole_tumor", "tumor_core", "enhancing")
OVERLAPPING = Meaning(REGIONS, overlapping=True)
EXCLUSIVE = Meaning(("background", *REGIONS))


def random_logits(count: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "kind"), [(1, np.uint8), (3, np.uint8), (8, np.uint8), (9, np.uint16), (17, np.uint32), (32, np.uint32)]
)
def test_a_voxel_of_a_sigmoid_network_has_a_bit_for_each_logit_above_zero(count: int, kind: type) -> None:
    logits = random_logits(count)
    logits[:, 0, 0, 0] = 0  # not above
    labels = labels_of(logits, "sigmoid")
    assert labels.dtype == kind
    bits = labels[None] >> np.arange(count, dtype=np.uint32)[:, None, None, None] & 1
    np.testing.assert_array_equal(bits, logits > 0)
    meaning = Meaning(tuple(f"r{k}" for k in range(count)), overlapping=True)
    assert meaning.label_type is kind
    np.testing.assert_array_equal(meaning.maps(labels), logits > 0)
    assert meaning.counts(labels) == {f"r{k}": int((logits[k] > 0).sum()) for k in range(count)}


def test_more_regions_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="33 regions"):
        labels_of(random_logits(33, (1,)), "sigmoid")


def test_a_region_has_the_sigmoid_of_its_logit_and_nothing_overflows() -> None:
    logits = np.array([[-200.0, -1.0, 0.0], [3.0, 200.0, 1e30]], np.float32)
    with np.errstate(over="raise"):
        found = probabilities_of(logits, "sigmoid")
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.astype(np.float64).clip(-700, 700))), atol=1e-7)
    assert found.dtype == np.float32
    assert probabilities_of(logits[:1], "sigmoid").shape == (1, 3)


def test_the_spec_says_what_its_labels_mean() -> None:
    assert Meaning.of(make_spec((8, 8), 3)) == Meaning(("label_0", "label_1", "label_2"))
    spec = make_spec((8, 8), 3, activation="sigmoid")
    assert Meaning.of(spec).structures == spec.labels
    assert Meaning.of(make_spec((8, 8), 3)).structures == ("label_1", "label_2")


@pytest.mark.parametrize("meaning", [OVERLAPPING, EXCLUSIVE], ids=["overlapping", "exclusive"])
def test_what_is_put_is_seen_counted_and_removed(meaning: Meaning) -> None:
    labels = np.zeros((2, 3, 4), meaning.label_type)
    first, second = np.zeros((2, 2, 3, 4), bool)
    first[0], second[:, 1] = True, True
    meaning.put(labels, "whole_tumor", first)
    meaning.put(labels, "enhancing", second)
    assert meaning.seen(labels) == {"whole_tumor", "enhancing"}
    left = first if meaning.overlapping else first & ~second
    np.testing.assert_array_equal(meaning.mask(labels, "whole_tumor"), left)
    assert meaning.counts(labels) == {"whole_tumor": int(left.sum()), "tumor_core": 0, "enhancing": 8}
    meaning.remove(labels, "enhancing", second)
    np.testing.assert_array_equal(meaning.mask(labels, "whole_tumor"), left)
    assert meaning.seen(labels) == {"whole_tumor"}


def test_a_label_map_has_later_regions_over_earlier_ones() -> None:
    labels = np.array([0, 1, 3, 7, 2, 6], np.uint8)
    assert OVERLAPPING.label_map(labels, REGIONS).tolist() == [0, 1, 2, 3, 2, 3]
    assert OVERLAPPING.label_map(labels, REGIONS[::-1]).tolist() == [0, 3, 3, 3, 2, 2]


def test_dice_and_volumes_are_those_of_each_region() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 8, (2, 6, 7, 8)).astype(np.uint8)
    found = of_labels(first, second, OVERLAPPING, LogitsDistance())
    for bit, name in enumerate(REGIONS):
        a, b = first >> bit & 1, second >> bit & 1
        assert found.dice[name] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        change = 100 * (int(b.sum()) - int(a.sum())) / int(a.sum())
        assert found.volume_change_percent[name] == pytest.approx(change)
    assert found.flips == (first != second).sum()
    assert dice_per_label(first * 0, second * 0, OVERLAPPING) == {}  # of nothing there is no Dice


def test_a_flip_inside_one_region_is_none_of_another_regions_boundary() -> None:
    reference = np.zeros((1, 9, 9), np.uint8)
    reference[0, 1:8, 1:8] |= 1
    reference[0, 1:8, 1:5] |= 2  # its boundary runs through the middle of the first
    candidate = reference.copy()
    candidate[0, 3, 4] ^= 1  # at the boundary of the second region, but in the middle of the first
    candidate[0, 4, 4] ^= 2  # at its own boundary
    candidate[0, 5, 4] ^= 3  # both: the first has none there
    candidate[0, 1, 4] ^= 3  # both have one there
    found = of_labels(reference, candidate, OVERLAPPING, LogitsDistance())
    assert (found.flips, found.boundary_flips) == (4, 2)
