"""Logits -> labels and probabilities: the one place that says what a network's output means."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def label_type(count: int) -> type[np.uint8 | np.uint16]:
    """The smallest type that holds `count` labels."""
    return np.uint8 if count <= 256 else np.uint16


def labels_of(logits: Floats) -> Array:
    """Labels (...) of logits (K, ...): the first of the largest; a single logit is label 1 where it is above 0."""
    if logits.shape[0] == 1:
        single: Array = (logits[0] > 0).astype(np.uint8)
        return single
    labels: Array = np.zeros(logits.shape[1:], label_type(logits.shape[0]))
    best, better = logits[0].copy(), np.empty(labels.shape, bool)
    # Class after class: numpy's argmax along the outermost axis is several times slower.
    for value, logit in enumerate(logits[1:], start=1):
        np.greater(logit, best, out=better)
        np.copyto(labels, value, where=better, casting="unsafe")
        np.copyto(best, logit, where=better)
    return labels


def probabilities_of(logits: Floats) -> Floats:
    """Probabilities float32 (labels, ...) of logits (K, ...): softmax, or 1 - p and p of the sigmoid when K is 1."""
    if logits.shape[0] == 1:
        small = np.exp(-np.abs(logits))  # at most 1: no overflow
        pair = np.concatenate([np.where(logits > 0, small, 1), np.where(logits > 0, 1, small)])
        return np.asarray(pair / (1 + small), np.float32)
    powers: Floats = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers
