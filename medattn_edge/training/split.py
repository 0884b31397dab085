"""Split: which slices are for learning and which are held out to judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.training.cases import Case

WHOLE_CASES = 5  # with this many scans whole ones are held out: another patient is the better judge
GAP = 1  # slices dropped on both sides of a held-out block: neighbours look too much alike
_MIN_BLOCKS = 3


@dataclass(frozen=True)
class Part:
    """One case's slices, counted along D as the network's orientation has it; a slice in neither list is dropped.

    In LPS, as in every orientation that ends with S, that is from the feet up.

    Attributes:
        training: Slices to learn from.
        held_out: Slices to judge with.
    """

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def split_cases(cases: Sequence[Case], holdout: float, blocks: int, orientation: str = "LPS") -> tuple[Part, ...]:
    """One part per case; the same arguments give the same parts.

    With WHOLE_CASES scans or more, or with several of too few slices to cut, whole cases are held out. Otherwise each
    scan is cut into `blocks` blocks of neighbouring slices, of which the fraction `holdout`, evenly spread and at least
    one, is held out; GAP slices around each are dropped.

    Args:
        cases: The scans with their labels.
        holdout: The fraction to hold out, at most 0.5.
        blocks: Per scan.
        orientation: The network's: slices are those along its D.

    Raises:
        UsageError: The fraction or the number of blocks cannot be.
        ScanError: A label is missing in what is left for learning or in what is held out: its Dice would say nothing.
    """
    if not 0 < holdout <= 0.5 or blocks < _MIN_BLOCKS:
        raise UsageError(
            f"a fraction of {holdout:g} of {blocks} blocks to hold out",
            expected=f"0 < fraction <= 0.5, and at least {_MIN_BLOCKS} blocks",
            hint="--holdout 0.2 --blocks 10",
        )
    depths = [case.labels.oriented(orientation).shape[0] for case in cases]
    if len(cases) >= WHOLE_CASES or (len(cases) > 1 and min(depths) < _MIN_BLOCKS):
        held = evenly(len(cases), holdout)
        slices = [tuple(range(depth)) for depth in depths]
        parts = tuple(Part((), all_) if i in held else Part(all_, ()) for i, all_ in enumerate(slices))
    elif min(depths) < _MIN_BLOCKS:
        raise ScanError(
            f"one scan of {min(depths)} slice(s)",
            expected=f"at least {_MIN_BLOCKS} slices, or several scans, so that something can be held out",
            hint="medattn-edge train SCAN LABELS SCAN LABELS ...",
        )
    else:
        parts = tuple(cut(depth, holdout, blocks) for depth in depths)
    _check_labels(cases, parts, orientation)
    return parts


def cut(depth: int, holdout: float, blocks: int) -> Part:
    """The blocks of one scan of `depth` slices."""
    chunks = np.array_split(np.arange(depth), min(blocks, depth))
    held = {int(index) for block in evenly(len(chunks), holdout) for index in chunks[block]}
    near = {index + step for index in held for step in range(-GAP, GAP + 1)}
    return Part(tuple(index for index in range(depth) if index not in near), tuple(sorted(held)))


def evenly(count: int, fraction: float) -> list[int]:
    """At least one index out of `count`, evenly spread and away from the ends."""
    chosen = max(1, round(fraction * count))
    return [int((number + 0.5) * count / chosen) for number in range(chosen)]


def describe(cases: Sequence[Case], parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The split as JSON values, slices as ranges such as `0-6,13-23`."""
    return [
        {"scan": case.name, "training_slices": ranges(part.training), "held_out_slices": ranges(part.held_out)}
        for case, part in zip(cases, parts, strict=True)
    ]


def ranges(slices: Sequence[int]) -> str:
    """Ascending indices as `first-last` ranges, both ends included; empty for none."""
    runs = stretches(slices)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def stretches(slices: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of every stretch of neighbours in ascending indices."""
    runs: list[tuple[int, int]] = []
    for index in slices:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs


def _check_labels(cases: Sequence[Case], parts: Sequence[Part], orientation: str) -> None:
    for purpose in ("training", "held_out"):
        seen: set[int] = set()
        wanted: set[int] = set()
        for case, part in zip(cases, parts, strict=True):
            voxels = case.labels.oriented(orientation).voxels
            seen |= set(np.unique(voxels[list(getattr(part, purpose))]).tolist())
            wanted |= set(np.unique(voxels).tolist())
        if wanted <= {0}:
            raise ScanError(
                "no voxel of any scan has a label",
                expected="something to learn",
                hint="--label INDEX=NAME:VALUE with the values that the labels files have",
            )
        if wanted - seen:
            raise ScanError(
                f"label {min(wanted - seen)} is in no slice {'for training' if purpose == 'training' else 'held out'}",
                expected="every label in both parts of the split",
                hint="other blocks, for example --blocks 20, or another --holdout",
            )
