"""Judge: what an INT8 candidate says on held-out windows, beside what the FP32 network says there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, Thresholds, of_labels, true_dice
from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.labels import Meaning
from medattn_edge.precision.windows import Windows, answers


@dataclass(frozen=True)
class Verdict:
    """What a candidate is worth on the held-out windows.

    Attributes:
        agreement: with the FP32 network.
        reference_dice: of the FP32 network with the true labels, by name; empty where there are none.
        candidate_dice: of the candidate, likewise.
        failures: one sentence per label that is below the gate; empty when it holds.
    """

    agreement: Agreement
    reference_dice: dict[str, float]
    candidate_dice: dict[str, float]
    failures: tuple[str, ...]

    @classmethod
    def of_failure(cls, reason: str) -> Verdict:
        """Of a candidate whose runtime failed: no figure, and no gate that it holds."""
        lost = Agreement(math.inf, -math.inf, 0.0, {}, {}, 0, 0, finite=False)
        return cls(lost, {}, {}, (reason,))

    @property
    def holds(self) -> bool:
        """Whether the gate holds."""
        return not self.failures

    @property
    def dice(self) -> float:
        """What the gate looks at: the smallest Dice, or the smallest share of the reference's true Dice.

        Of a few windows that have nothing to judge it is 0: they prove nothing.
        """
        if not self.candidate_dice:
            return min(self.agreement.dice.values(), default=0.0) if self.agreement.finite else 0.0
        shares = (self.candidate_dice[name] / dice for name, dice in self.reference_dice.items() if dice)
        return min(shares, default=0.0)

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: first the Dice, then the SQNR."""
        return self.dice, self.agreement.sqnr_db

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        truth = {"reference_dice": self.reference_dice, "candidate_dice": self.candidate_dice}
        return {**self.agreement.to_json(), **(truth if self.candidate_dice else {}), "failures": list(self.failures)}


class Judge:
    """Holds candidates to a gate on held-out windows.

    The FP32 logits are kept: 4 x K x patch bytes a window.

    Args:
        reference: the FP32 network.
        windows: held out.
        gate: the minimum Dice of every label with the FP32 network's labels; with true labels, the smallest share of
            the FP32 network's own Dice (MLPerf's rule for 3D-UNet: 0.999 is its high accuracy, 0.99 its default).

    Attributes:
        judged: the labels, or regions, that the gate is about.
        unseen: the others, of which it says nothing.

    Raises:
        UsageError: FP32 finds none at all: any gate would hold.
        ScanError: there is nothing to judge of a label; see `inference.judged`.
    """

    def __init__(self, reference: Session, windows: Windows, gate: float, judged: JudgedLabels | None = None) -> None:
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
        agreement = agreement.limited_to(self.judged)
        if not truth:
            return Verdict(agreement, {}, {}, tuple(Thresholds(min_dice=self.gate).failures(agreement)))
        right = np.stack(truth)
        before, after = (true_dice(right, np.stack(maps), self._meaning, self.judged) for maps in (expected, labels))
        failures = [] if agreement.finite else ["the candidate's logits are not finite"]
        failures += [
            f"true Dice of {name} is {after[name]:.6f}, below {self.gate:g} of the reference's {before[name]:.6f}"
            for name in before
            if not after[name] >= self.gate * before[name]
        ]
        return Verdict(agreement, before, after, tuple(failures))

    def _patches(self, chosen: Any) -> Iterator[Any]:
        return (self.windows[index] for index in chosen)
