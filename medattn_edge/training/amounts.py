"""Amounts: how much of each label there is to learn from and to judge with, and which one was not learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import ScanError
from medattn_edge.spec import ModelSpec
from medattn_edge.training.cases import Case
from medattn_edge.training.evaluate import Score
from medattn_edge.training.split import Part


@dataclass(frozen=True)
class LabelAmount:
    """One label of all scans together, on the scans' own grids.

    Attributes:
        index: Its value in the network's labels.
        name: As the spec lists it.
        values: Its values in the labels files; empty for cases that come from none.
        voxels: How many have it.
        millilitres: The same as a volume; None where a scan has no millimetres.
        training_voxels: Those in slices to learn from.
        held_out_voxels: Those in slices to judge with; the rest lies in the gaps between both.
        scans: How many have it.
    """

    index: int
    name: str
    values: tuple[int, ...]
    voxels: int
    millilitres: float | None
    training_voxels: int
    held_out_voxels: int
    scans: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "values": list(self.values)}


def label_amounts(cases: Sequence[Case], parts: Sequence[Part], spec: ModelSpec) -> tuple[LabelAmount, ...]:
    """One for each label but the background, in the spec's order.

    Args:
        cases: The scans with their labels.
        parts: Which slices of each are for learning and which are held out.
        spec: The names of the labels, and along which axis slices are counted.
    """
    count = len(spec.labels)
    whole, training, held_out, scans = np.zeros((4, count), np.int64)
    volume = np.zeros(count)
    for case, part in zip(cases, parts, strict=True):
        labels = case.labels.oriented(spec.orientation)
        slices = np.stack([np.bincount(one.ravel(), minlength=count)[:count] for one in labels.voxels])
        amount = slices.sum(axis=0)
        whole, scans = whole + amount, scans + (amount > 0)
        training, held_out = training + _sum(slices, part.training), held_out + _sum(slices, part.held_out)
        volume += amount * labels.voxel_ml
    calibrated = all(case.scan.calibrated for case in cases)
    rows = [case.audit.counts for case in cases if case.audit is not None]
    return tuple(
        LabelAmount(
            index=index,
            name=name,
            values=tuple(sorted({row.value for counts in rows for row in counts if name in row.labels})),
            voxels=int(whole[index]),
            millilitres=float(volume[index]) if calibrated else None,
            training_voxels=int(training[index]),
            held_out_voxels=int(held_out[index]),
            scans=int(scans[index]),
        )
        for index, name in enumerate(spec.labels)
        if index
    )


def _sum(slices: npt.NDArray[np.int64], chosen: tuple[int, ...]) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = slices[list(chosen)].sum(axis=0)
    return total


def check_learnable(present: frozenset[int], spec: ModelSpec) -> None:
    """Refuse a label that no patch will ever hold, although training slices of the scans have it.

    Args:
        present: The labels in the training slices as the network sees them: at its spacing, without the slices that
            resampling would mix with held-out ones.
        spec: What the network expects.

    Raises:
        ScanError: There is such a label.
    """
    if absent := [name for index, name in enumerate(spec.labels) if index and index not in present]:
        spacing = f" of {'x'.join(f'{mm:g}' for mm in spec.spacing)} mm" if spec.spacing else ""
        raise ScanError(
            f"{' and '.join(absent)} is in training slices, but in none that is left at the network's spacing{spacing}",
            expected="voxels of every label to learn from",
            hint="--spacing nearer to the scans', or fewer and thicker blocks, for example --blocks 5",
        )


def without_overlap(score: Score) -> tuple[str, ...]:
    """The labels of which the network finds no voxel where it is in held-out slices: a Dice of 0, or none."""
    return tuple(name for name, dice in score.held_out.items() if not dice)
