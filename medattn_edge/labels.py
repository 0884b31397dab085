"""Logits -> labels and probabilities: the one place that says what an output, and a voxel of the labels, means.

Labels of a softmax network exclude each other: a voxel has the number of its label, 0 being the background. Regions
of a sigmoid network may overlap: a voxel is an unsigned integer whose bit k says whether it belongs to region k, so
that two voxels are equal exactly when they belong to the same regions, and 0 is in none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.spec import ModelSpec

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
LabelType = type[np.uint8] | type[np.uint16] | type[np.uint32]


@dataclass(frozen=True)
class Meaning:
    """What the values of a label array stand for.

    Attributes:
        names: of labels that exclude each other one per value, the background first; of regions that may overlap one
            per bit, no background among them.
        overlapping: whether they are regions.
    """

    names: tuple[str, ...]
    overlapping: bool = False

    @classmethod
    def of(cls, spec: ModelSpec) -> Meaning:
        """What the labels of a network mean."""
        return cls(spec.labels, spec.overlapping)

    @property
    def structures(self) -> tuple[str, ...]:
        """The names of what can be found: all but the background, or all regions."""
        return self.names if self.overlapping else self.names[1:]

    @property
    def label_type(self) -> LabelType:
        """The smallest type that holds a voxel."""
        if self.overlapping:
            return _bits_type(len(self.names))
        return _values_type(len(self.names))

    def labels_of(self, logits: Floats) -> Array:
        """Labels (...) of logits (K, ...), as the function `labels_of` makes them."""
        return labels_of(logits, "sigmoid" if self.overlapping else "softmax")

    def probabilities_of(self, logits: Floats) -> Floats:
        """Probabilities float32 (names, ...) of logits (K, ...), as the function `probabilities_of` makes them."""
        return probabilities_of(logits, "sigmoid" if self.overlapping else "softmax")

    def mask(self, labels: Array, name: str) -> Mask:
        """Where an array of labels has one of the structures."""
        place = self.names.index(name)
        found: Mask = (labels & labels.dtype.type(1 << place)) != 0 if self.overlapping else labels == place
        return found

    def masks(self, labels: Array) -> Iterator[tuple[str, Mask]]:
        """Each structure's name and where it is, in order, one at a time."""
        return ((name, self.mask(labels, name)) for name in self.structures)

    def counts(self, labels: Array) -> dict[str, int]:
        """Voxels of every structure in labels (D, ...)."""
        sums = dict.fromkeys(self.structures, 0)
        for plane in labels:  # a plane at a time: counting widens what it counts
            if self.overlapping:
                found = {name: int(np.count_nonzero(mask)) for name, mask in self.masks(plane)}
            else:
                values = np.bincount(plane.ravel(), minlength=len(self.names)).tolist()
                found = dict(zip(self.names, values, strict=False))
            sums = {name: count + found[name] for name, count in sums.items()}
        return sums

    def seen(self, labels: Array) -> set[str]:
        """The structures that have a voxel in an array of labels."""
        values = np.unique(labels)
        return {name for name, mask in self.masks(values) if mask.any()}

    def put(self, labels: Array, name: str, mask: Mask) -> None:
        """Give a structure to the voxels of a mask, in place; a label of its own replaces what was there."""
        place = self.names.index(name)
        if self.overlapping:
            np.bitwise_or(labels, labels.dtype.type(1 << place), out=labels, where=mask)
        else:
            labels[mask] = place

    def remove(self, labels: Array, name: str, mask: Mask) -> None:
        """Take a structure from the voxels of a mask, all of which have it, in place."""
        if self.overlapping:
            bits = labels.dtype.type(np.iinfo(labels.dtype).max ^ (1 << self.names.index(name)))
            np.bitwise_and(labels, bits, out=labels, where=mask)
        else:
            labels[mask] = 0

    def maps(self, labels: Array) -> npt.NDArray[np.uint8]:
        """One map (structures, ...) of 0 and 1 for each structure."""
        maps = np.empty((len(self.structures), *labels.shape), np.uint8)
        for into, (_, mask) in zip(maps, self.masks(labels), strict=True):
            into[...] = mask
        return maps

    def label_map(self, labels: Array, order: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Regions as one label map (...): n where the nth region of `order` is, later ones over earlier ones."""
        single = np.zeros(labels.shape, np.uint8)
        for value, name in enumerate(order, start=1):
            single[self.mask(labels, name)] = value
        return single


def _values_type(count: int) -> LabelType:
    return np.uint8 if count <= 256 else np.uint16


def _bits_type(count: int) -> LabelType:
    if count > 32:
        raise ValueError(f"{count} regions in a voxel, which has 32 bits at most")  # ModelSpec refuses them before
    return np.uint8 if count <= 8 else np.uint16 if count <= 16 else np.uint32


def labels_of(logits: Floats, activation: str) -> Array:
    """Labels (...) of logits (K, ...).

    Args:
        logits: of all outputs.
        activation: `softmax`: the first of the largest, a single logit being label 1 where it is above 0; `sigmoid`:
            bit k where logit k is above 0.
    """
    if activation == "sigmoid":
        return _regions(logits)
    if logits.shape[0] == 1:
        single: Array = (logits[0] > 0).astype(np.uint8)
        return single
    labels: Array = np.zeros(logits.shape[1:], _values_type(logits.shape[0]))
    best, better = logits[0].copy(), np.empty(labels.shape, bool)
    # Class after class: numpy's argmax along the outermost axis is several times slower.
    for value, logit in enumerate(logits[1:], start=1):
        np.greater(logit, best, out=better)
        np.copyto(labels, value, where=better, casting="unsafe")
        np.copyto(best, logit, where=better)
    return labels


def _regions(logits: Floats) -> Array:
    kind = _bits_type(logits.shape[0])
    labels: Array = np.zeros(logits.shape[1:], kind)
    for bit, logit in enumerate(logits):
        np.bitwise_or(labels, kind(1 << bit), out=labels, where=logit > 0)
    return labels


def probabilities_of(logits: Floats, activation: str) -> Floats:
    """Probabilities float32 (labels, ...) of logits (K, ...).

    Args:
        logits: of all outputs.
        activation: `softmax`, or 1 - p and p of the sigmoid when K is 1; `sigmoid`: of each output by itself.
    """
    if activation == "sigmoid" or logits.shape[0] == 1:
        small = np.exp(-np.abs(logits))  # at most 1: no overflow
        parts = np.where(logits > 0, 1, small)
        if activation != "sigmoid":
            parts = np.concatenate([np.where(logits > 0, small, 1), parts])
        return np.asarray(parts / (1 + small), np.float32)
    powers: Floats = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers
