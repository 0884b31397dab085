"""True labels: what a comparison does with them, beside comparing a candidate with its reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.agreement import true_dice
from medattn_edge.errors import UsageError
from medattn_edge.inference.truth import LabelValues, Truth, read_truth
from medattn_edge.labels import Meaning
from medattn_edge.volume import Volume


@dataclass(frozen=True)
class TrueLabels:
    """True labels of the scans, and how much of the reference's true Dice a candidate must keep.

    Attributes:
        files: one for each scan, in order; empty when there are none.
        values: a label's name -> its values in the files, where they are not the network's own.
        min_dice_ratio: true Dice of every label over the reference's; None asks nothing.
    """

    files: Sequence[Path] = ()
    values: LabelValues = field(default_factory=dict)
    min_dice_ratio: float | None = None

    def check(self, scans: int) -> None:
        """Raise UsageError when there are not as many files as scans, or a ratio of nothing."""
        if self.files and len(self.files) != scans:
            raise UsageError(
                f"{len(self.files)} label files for {scans} scans",
                expected="one each, in order",
                hint="--labels A.nii.gz --labels B.nii.gz",
            )
        if self.min_dice_ratio is not None and not self.files:
            raise UsageError(
                "--min-dice-ratio without --labels", expected="true labels to compare with", hint="--labels FILE"
            )

    def read(self, index: int, volume: Volume, meaning: Meaning) -> Truth | None:
        """The true labels of a scan on its own grid, None without any; raises as `read_truth` does."""
        return read_truth(self.files[index], volume, meaning, self.values) if self.files else None

    def judge(
        self, truth: Volume | None, reference: Volume, candidate: Volume, meaning: Meaning, names: Collection[str]
    ) -> tuple[Mapping[str, Any], list[str]]:
        """The true Dice of both as JSON values, and a sentence for every label of which the candidate lost too much.

        Args:
            truth: true labels (D, H, W), None for none.
            reference: the reference's labels on the same grid.
            candidate: the candidate's.
            meaning: of the labels.
            names: of the labels of which there is something to judge; see `inference.judged`.
        """
        if truth is None:
            return {}, []
        before, after = (true_dice(truth.voxels, labels.voxels, meaning) for labels in (reference, candidate))
        lost = [
            f"true Dice of {name} is {after[name]:.6f}, below {self.min_dice_ratio:g} of the reference's "
            f"{before[name]:.6f}"
            for name in before
            if name in names
            and self.min_dice_ratio is not None
            and not after[name] >= self.min_dice_ratio * before[name]
        ]
        return {"reference_dice": before, "candidate_dice": after}, lost
