"""Judge: what an INT8 candidate says on held-out windows, beside what the FP32 network says there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, Thresholds, of_labels, true_dice
from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.truth import LabelValues
from medattn_edge.labels import Meaning
from medattn_edge.precision.windows import Windows, answers


@dataclass(frozen=True)
class Verdict:
    """What a candidate is worth on the held-out windows.

    Attributes:
        agreement: with the FP32 network; with the true Dice of both where there are true labels.
        failures: one sentence per threshold that a label does not reach; empty when the gate holds.
        shortfall: how far the worst figure is beyond its limit, as a Dice or a share; 0 when none is.
    """

    agreement: Agreement
    failures: tuple[str, ...]
    shortfall: float = 0.0

    @classmethod
    def of_failure(cls, reason: str) -> Verdict:
        """Of a candidate whose runtime failed: no figure, and no gate that it holds."""
        lost = Agreement(math.inf, -math.inf, 0.0, {}, {}, 0, 0, finite=False)
        return cls(lost, (reason,), math.inf)

    @property
    def holds(self) -> bool:
        """Whether the gate holds."""
        return not self.failures

    @property
    def dice(self) -> float:
        """The smallest Dice with the reference of any label; 0 where there is nothing to judge."""
        return min(self.agreement.dice.values(), default=0.0) if self.agreement.finite else 0.0

    @property
    def true_dice_share(self) -> tuple[float, float] | None:
        """The smallest and the largest share of the reference's true Dice; None where there are no true labels."""
        shares = self.agreement.true_dice_share
        return (min(shares.values()), max(shares.values())) if shares else None

    @property
    def rank(self) -> tuple[float, float, float]:
        """Larger is better: first what is nearest to holding the gate, then the Dice with the reference, then SQNR."""
        return -self.shortfall, self.dice, self.agreement.sqnr_db

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.agreement.to_json(), "failures": list(self.failures)}


class Judge:
    """Holds candidates to a gate on held-out windows.

    The FP32 logits are kept: 4 x K x patch bytes a window.

    Args:
        reference: the FP32 network.
        windows: held out.
        gate: the minimum Dice with the reference of every label, and, held where the windows come with true labels,
            the shares of the reference's true Dice; see `gates.INT8` and `gates.TRUE_LABELS`.
        judged: the labels to judge, with the audits of their true ones; None for all, without any.

    Attributes:
        judged: the labels, or regions, that the gate is about.
        unseen: the others, which nobody asked for and of which it says nothing.

    Raises:
        UsageError: FP32 finds none at all: any gate would hold.
        ScanError: there is nothing to judge of a label; see `inference.judged`.
    """

    def __init__(
        self, reference: Session, windows: Windows, gate: Thresholds, judged: JudgedLabels | None = None
    ) -> None:
        self.windows, self.gate, self._meaning = windows, gate, Meaning.of(reference.spec)
        self._logits = list(answers(reference, iter(windows)))
        meaning = self._meaning
        seen = set[str]().union(*(meaning.seen(meaning.labels_of(logits)) for logits in self._logits))
        if not seen:
            none = ", ".join(meaning.structures)
            raise UsageError(
                f"the FP32 network finds none of {none} in the {len(windows)} held-out windows",
                expected="windows with something to judge",
                hint="--held-out SCAN with what the network looks for, or more --held-out-samples",
            )

        judged = judged or JudgedLabels(meaning)
        truth = np.stack([windows.truth(index) for index in range(len(windows))]) if windows.has_truth else None
        judged.add(np.stack([meaning.labels_of(logits) for logits in self._logits]), truth)
        judged.check(
            f"the {len(windows)} held-out windows",
            "--held-out SCAN with what the network looks for, or more --held-out-samples",
        )
        self.judged = judged.names
        self.unseen = tuple(name for name in meaning.structures if name not in self.judged)

    def judge(self, candidate: Session, indices: tuple[int, ...] | None = None) -> Verdict:
        """The verdict on all windows, or on those of `indices`; raises BackendError when the runtime fails."""
        chosen = range(len(self.windows)) if indices is None else indices
        distance, expected, labels, truth = LogitsDistance(), [], [], []
        for index, logits in zip(chosen, answers(candidate, self._patches(chosen)), strict=True):
            distance.add(self._logits[index], logits)
            expected.append(self._meaning.labels_of(self._logits[index]))
            labels.append(self._meaning.labels_of(logits))
            if self.windows.has_truth:
                truth.append(self.windows.truth(index))
        agreement = of_labels(np.stack(expected), np.stack(labels), self._meaning, distance)
        if truth:
            right = np.stack(truth)
            before, after = (
                true_dice(right, np.stack(maps), self._meaning, self.judged) for maps in (expected, labels)
            )
            agreement = replace(agreement, reference_dice=before, candidate_dice=after)
        agreement = agreement.limited_to(self.judged)
        return Verdict(agreement, tuple(self.gate.failures(agreement)), _shortfall(agreement, self.gate))

    def file_gate(self, label_values: LabelValues) -> FileGate | None:
        """What a file that was held to this gate carries; None where no Dice with the reference was asked.

        Args:
            label_values: of the true labels of the windows; left out where there are none.
        """
        if self.gate.min_dice is None:
            return None
        if not self.windows.has_truth:
            return FileGate(self.gate.min_dice, labels=self.judged)
        values = {name: tuple(numbers) for name, numbers in label_values.items()}
        shares = self.gate.min_true_dice_share, self.gate.max_true_dice_share
        return FileGate(self.gate.min_dice, *shares, labels=self.judged, label_values=values)

    def _patches(self, chosen: Any) -> Iterator[Any]:
        return (self.windows[index] for index in chosen)


def _shortfall(agreement: Agreement, gate: Thresholds) -> float:
    """By how much the worst figure that a gate looks at is beyond its limit; infinite where one is no number."""
    if not agreement.finite:
        return math.inf
    shares = (agreement.true_dice_share or {}).values()
    beyond = [gate.min_dice - dice for dice in agreement.dice.values() if gate.min_dice is not None]
    beyond += [gate.min_true_dice_share - share for share in shares if gate.min_true_dice_share is not None]
    beyond += [share - gate.max_true_dice_share for share in shares if gate.max_true_dice_share is not None]
    return max(0.0, *(math.inf if math.isnan(one) else one for one in beyond), 0.0)
