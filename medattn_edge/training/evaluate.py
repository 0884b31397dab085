"""Evaluate: the Dice that the real inference path reaches, on held-out and on training slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.backends.session import Options
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import ScanError
from medattn_edge.inference import segment
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec
from medattn_edge.training.cases import Case
from medattn_edge.training.split import Part


@dataclass(frozen=True)
class Score:
    """Per label but the background; a Dice is over all such voxels of all scans together.

    A label of which neither the network nor the true labels have a voxel there has no Dice, and is not in it.

    Attributes:
        held_out: The Dice in held-out slices.
        training: The Dice in training slices.
        millilitres: The volume that the network segments in whole scans; empty when a scan has no spacing in mm.
    """

    held_out: dict[str, float]
    training: dict[str, float]
    millilitres: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean held-out Dice of the labels; `evaluate` sees to it that there is one."""
        return sum(self.held_out.values()) / len(self.held_out)


def evaluate(
    network: SegmentationNetwork,
    spec: ModelSpec,
    cases: Sequence[Case],
    parts: Sequence[Part],
    *,
    everything: bool,
    device: str = "cpu",
) -> Score:
    """Segment whole scans as `medattn-edge infer` does, and compare with their labels on the scans' own grids.

    Args:
        network: Left in evaluation mode, on the device.
        spec: What it expects.
        cases: The scans with their labels.
        parts: Which slices of each are held out.
        everything: Also the scans without held-out slices; otherwise `training` and `millilitres` leave them out.
        device: cpu or cuda:INDEX.

    Raises:
        ScanError: No held-out voxel has a label: any network would be the best.
    """
    count = len(spec.labels)
    counts = np.zeros((2, 3, count), np.int64)  # held out and training; correct, predicted, true; per label
    millilitres = np.zeros(count)
    session = EagerSession(network.eval(), spec, Options(device))
    judged = [(case, part) for case, part in zip(cases, parts, strict=True) if everything or part.held_out]
    for case, part in judged:
        segmented = segment(session, case.scan).labels
        predicted, true = (volume.oriented(spec.orientation).voxels for volume in (segmented, case.labels))
        for row, slices in enumerate((part.held_out, part.training)):
            a, b = predicted[list(slices)], true[list(slices)]
            counts[row] += [_count(a[a == b], count), _count(a, count), _count(b, count)]
        millilitres += _count(predicted, count) * segmented.voxel_ml
    if not counts[0, 2, 1:].any():
        raise ScanError(
            f"no held-out voxel is {' or '.join(spec.labels[1:])}",
            expected="something to judge a network by",
            hint="other blocks, for example --blocks 20, another --holdout, or other scans",
        )
    held_out, training = (_dice(table, spec.labels) for table in counts)
    calibrated = all(case.scan.calibrated for case, _ in judged)
    volumes = {name: float(millilitres[value]) for value, name in enumerate(spec.labels) if value}
    return Score(held_out, training, volumes if calibrated else {})


def _count(labels: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=count).astype(np.int64)


def _dice(table: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    correct, predicted, true = table
    totals = predicted + true
    return {
        name: 2.0 * int(correct[value]) / int(totals[value])
        for value, name in enumerate(names)
        if value and totals[value]
    }
