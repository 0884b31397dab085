"""True labels: what a comparison does with them, beside comparing a candidate with its reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medattn_edge.agreement import Agreement, true_dice
from medattn_edge.errors import UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.inference.truth import LabelValues, Truth, read_truth
from medattn_edge.labels import Meaning
from medattn_edge.volume import Volume


@dataclass(frozen=True)
class TrueLabels:
    """True labels of the scans, and which share of the reference's true Dice a candidate must have.

    Attributes:
        files: one for each scan, in order; empty when there are none.
        values: a label's name -> its values in the files, where they are not the network's own; where none is given,
            those that the candidates carry.
        min_true_dice_share: of every label; None for the candidate's own limit, or the usual one.
        max_true_dice_share: likewise.
    """

    files: Sequence[Path] = ()
    values: LabelValues = field(default_factory=dict)
    min_true_dice_share: float | None = None
    max_true_dice_share: float | None = None

    @property
    def asked(self) -> dict[str, float | None]:
        """The shares that are asked, by the names of `Thresholds`."""
        return {"min_true_dice_share": self.min_true_dice_share, "max_true_dice_share": self.max_true_dice_share}

    def check(self, scans: int) -> None:
        """Raise UsageError when there are not as many files as scans, or a share of nothing."""
        if self.files and len(self.files) != scans:
            raise UsageError(
                f"{len(self.files)} label files for {scans} scans",
                expected="one each, in order",
                hint="--labels A.nii.gz --labels B.nii.gz",
            )
        for name, value in self.asked.items():
            if value is not None and not self.files:
                raise UsageError(
                    f"--{name.replace('_', '-')} without --labels",
                    expected="true labels to compare with",
                    hint="--labels FILE",
                )

    def with_carried(self, gates: Mapping[str, FileGate | None]) -> tuple[TrueLabels, list[str]]:
        """With the label values that the candidates carry where none is given, and notes about them.

        Args:
            gates: name of a candidate -> the gate that it carries.

        Raises:
            UsageError: two candidates carry other values, and none is given.
        """
        carried = {
            name: dict(gate.label_values) for name, gate in gates.items() if gate is not None and gate.label_values
        }
        if not self.files or not carried:
            return self, []
        if self.values:
            mine = {name: tuple(numbers) for name, numbers in self.values.items()}
            others = [name for name, values in carried.items() if any(values.get(one) != mine[one] for one in mine)]
            return self, [f"{name} was judged with other label values: {_values(carried[name])}" for name in others]
        (first, values), *rest = carried.items()
        for name, other in rest:
            if other != values:
                raise UsageError(
                    f"{first} and {name} carry other label values: {_values(values)}; {_values(other)}",
                    expected="the values in these --labels",
                    hint=" ".join(f"--label-value {one}=VALUE" for one in values),
                )
        return replace(self, values=values), [f"label values, as {first} carries them: {_values(values)}"]

    def read(self, index: int, volume: Volume, meaning: Meaning) -> Truth | None:
        """The true labels of a scan on its own grid, None without any; raises as `read_truth` does."""
        return read_truth(self.files[index], volume, meaning, self.values) if self.files else None


def with_true_dice(
    agreement: Agreement, truth: Volume | None, reference: Volume, candidate: Volume, meaning: Meaning
) -> Agreement:
    """The agreement with the true Dice of both, of every label that the true ones have.

    Args:
        agreement: of the candidate with the reference.
        truth: true labels (D, H, W), None for none.
        reference: the reference's labels on the same grid.
        candidate: the candidate's.
        meaning: of the labels.
    """
    if truth is None:
        return agreement
    before, after = (true_dice(truth.voxels, labels.voxels, meaning) for labels in (reference, candidate))
    return replace(agreement, reference_dice=before, candidate_dice=after)


def _values(values: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{name}={','.join(map(str, numbers))}" for name, numbers in values.items())
