"""Where and how logits depart from those that were expected: what they were saved as, if they can be told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.agreement import LogitsDistance
from medattn_edge.exporters.expectation import Array, Expectation

_SCALED = "the logits are scaled and shifted"
_EXPLAINED_DB = 70.0  # a transformed answer that is so near is no accident
_ROUNDED_DB = 35.0  # what BF16 leaves of the right answer; FP16 leaves 60, TF32 60 to 70
_CONCLUSIVE_DB = 80.0  # and one that is so near leaves nothing for another setting to explain
_MOST_PERMUTED = 5  # classes whose orders are all tried
_MOST_VOXELS = 16384  # of a patch, for the transformations: each works on every voxel alone


@dataclass(frozen=True)
class Departure:
    """How expected logits differ from a network's.

    Attributes:
        sqnr_db: of the expected logits as they are.
        explained_db: of the network's after the transformation that comes nearest.
        explanation: this transformation, in words; empty when it does not come near.
        place: index (n, k, *voxel) of the largest difference.
        found: the network's logit there.
        expected: the expected one there.
        label_match: share of voxels with the same label.
    """

    sqnr_db: float
    explained_db: float
    explanation: str
    place: tuple[int, ...]
    found: float
    expected: float
    label_match: float

    @property
    def best_db(self) -> float:
        """With or without an explanation."""
        return max(self.sqnr_db, self.explained_db if self.explanation else self.sqnr_db)

    @property
    def is_conclusive(self) -> bool:
        """Whether the explanation is so near that other settings need not be tried; any scale can look near."""
        return self.explained_db >= _CONCLUSIVE_DB and self.explanation not in ("", _SCALED)

    @classmethod
    def between(cls, found: Array, expected: Array) -> Departure:
        """Both (N, K, *patch)."""
        plain = _decibel(found, expected)
        explained, explanation = plain, ""
        if plain < _EXPLAINED_DB:
            few, wanted = _thinned(found).astype(np.float64), _thinned(expected)
            for words, values in _transformations(few, wanted):
                near = _decibel(values, wanted)
                if near > max(explained, _EXPLAINED_DB):
                    explained, explanation = near, words
        difference = np.abs(found.astype(np.float64) - expected)
        place = tuple(int(one) for one in np.unravel_index(int(difference.argmax()), difference.shape))
        return cls(
            plain,
            explained,
            explanation,
            place,
            float(found[place]),
            float(expected[place]),
            float((_labels(found) == _labels(expected)).mean()),
        )


def describe_departure(departure: Departure, expectation: Expectation) -> tuple[str, str]:
    """What to say of it, and what to do next."""
    voxel = ", ".join(map(str, departure.place[2:]))
    where = (
        f"class {departure.place[1]} at ({voxel}) of patch {departure.place[0]} is {departure.found:.4g}, "
        f"not {departure.expected:.4g}; {departure.label_match:.2%} of the labels are equal"
    )
    if departure.explanation:
        return f"{departure.explanation}; {where}", "save the network's own output: logits = network.eval()(image)"
    if departure.sqnr_db >= _ROUNDED_DB:
        return (
            where,
            "compute the logits in float32 without autocast or TF32, in evaluation mode, or give a setting with --set",
        )
    return where, (
        f"check that {expectation.source} is of this checkpoint and these weights (--weights), "
        "computed in evaluation mode, or give a setting with --set"
    )


def _transformations(found: npt.NDArray[np.float64], expected: Array) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """What may have been done to the network's answer (N, K, n), in words, and the result."""
    classes = found.shape[1]
    if classes > 1:
        shifted = found - found.max(1, keepdims=True)
        total = np.exp(shifted).sum(1, keepdims=True)
        yield "softmax has been applied to the logits", np.exp(shifted) / total
        yield "log-softmax has been applied to the logits", shifted - np.log(total)
    yield "sigmoid has been applied to the logits", 0.5 * (1.0 + np.tanh(0.5 * found))
    yield "the logits have the other sign", -found
    yield _SCALED, _affine(found, expected)
    for order in _orders(found, expected):
        yield f"the classes are in the order {', '.join(map(str, order))}", found[:, order]


def _affine(found: npt.NDArray[np.float64], expected: Array) -> npt.NDArray[np.float64]:
    """scale * found + shift, the nearest to what was expected."""
    centred = found - found.mean()
    scale = float((centred * (expected - expected.mean(dtype=np.float64))).sum()) / max(
        float((centred**2).sum()), 1e-30
    )
    moved: npt.NDArray[np.float64] = scale * centred + expected.mean(dtype=np.float64)
    return moved


def _orders(found: npt.NDArray[np.float64], expected: Array) -> Iterator[list[int]]:
    """Orders of the classes: all of few, the best match of many."""
    classes = found.shape[1]
    if classes <= _MOST_PERMUTED:
        yield from (list(order) for order in itertools.permutations(range(classes)) if list(order) != sorted(order))
        return
    distances = ((found[:, :, None] - expected[:, None]) ** 2).sum(axis=(0, 3))
    order = [int(mine) for mine in distances.argmin(0)]
    if len(set(order)) == classes and order != sorted(order):
        yield order


def _decibel(found: npt.NDArray[Any], expected: Array) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


def _thinned(logits: Array) -> Array:
    """At most about _MOST_VOXELS of every class, (N, K, n)."""
    flat = logits.reshape(*logits.shape[:2], -1)
    return flat[:, :, :: max(1, logits.shape[0] * flat.shape[2] // _MOST_VOXELS)]


def _labels(logits: Array) -> npt.NDArray[Any]:
    return logits.argmax(1) if logits.shape[1] > 1 else logits > 0
