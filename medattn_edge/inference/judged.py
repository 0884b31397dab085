"""Judged labels: which labels there is something to judge of. A judgement of nothing is refused, never passed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from medattn_edge.agreement import true_dice
from medattn_edge.errors import ScanError, UsageError
from medattn_edge.gates import NOTHING
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.labels import Array, Meaning

MIN_REFERENCE_DICE: Final = NOTHING.limits["min_reference_true_dice"]


class JudgedLabels:
    """The labels, or regions, that a judgement is about, and what of each was seen, over all scans.

    Attributes:
        names: that are judged: all of the network's, or those that the user named.
        audits: of the files of true labels that were added.
    """

    def __init__(self, meaning: Meaning, names: Sequence[str] = ()) -> None:
        """names: of the labels to judge, as --judge-labels has them; all when there are none.

        Raises:
            UsageError: for a name that is none of the network's labels.
        """
        unknown = [name for name in names if name not in meaning.structures]
        if unknown:
            raise UsageError(
                f"--judge-labels names {', '.join(unknown)}",
                expected=f"some of {', '.join(meaning.structures)}",
                hint=f"--judge-labels {','.join(meaning.structures[:2])}",
            )
        self._meaning, self._chosen = meaning, bool(names)
        self.names = tuple(name for name in meaning.structures if not names or name in names)
        self.audits: list[LabelAudit] = []
        self._seen, self._best = set[str](), dict[str, float]()

    def add_truth(self, audit: LabelAudit) -> None:
        """A file of true labels."""
        if audit not in self.audits:
            self.audits.append(audit)

    def check_truth(self) -> None:
        """Call it once every file of true labels was added, before the work.

        Raises:
            ScanError: a label that is judged is in no file.
        """
        if not self.audits:
            return
        present = set[str]().union(*(audit.present for audit in self.audits))
        if absent := [name for name in self.names if name not in present]:
            raise ScanError(
                f"no voxel of the true labels is {_or(absent)}: {self._files()}",
                expected=f"true labels of everything that is judged, looked for as {self.audits[0].mapping}",
                hint=self._hint(absent),
            )

    def add(self, reference: Array, truth: Array | None = None) -> dict[str, str]:
        """One scan, or all windows.

        Args:
            reference: the reference's labels.
            truth: the true ones of the same shape, where there are any.

        Returns:
            Name -> why nothing is judged of it here; empty when all are judged.
        """
        seen = self._meaning.seen(reference)
        self._seen |= seen
        if truth is None:
            return {name: "the reference finds none here" for name in self.names if name not in seen}
        dice = true_dice(truth, reference, self._meaning)
        self._best |= {name: max(value, self._best.get(name, 0.0)) for name, value in dice.items()}
        reasons = {name: "the true labels have none here" for name in self.names if name not in dice}
        low = {name: value for name, value in dice.items() if name in self.names and value < MIN_REFERENCE_DICE}
        return reasons | {
            name: f"the reference's own true Dice is {value:.4f} here, below {MIN_REFERENCE_DICE:g}"
            for name, value in low.items()
        }

    def add_found(self, names: Iterable[str]) -> None:
        """What a candidate found: it is judged, even where the reference finds none."""
        self._seen |= set(names)

    def check(self, where: str, hint: str) -> None:
        """Call it once everything was added.

        Args:
            where: what was looked at, such as `the 2 scans`.
            hint: how to look at more.

        Raises:
            ScanError: a label of which the reference finds nothing anywhere, or nothing that is true.
        """
        if unseen := [name for name in self.names if name not in self._seen]:
            raise ScanError(
                f"the reference finds none of {', '.join(unseen)} in {where}: there is nothing to judge of that",
                expected="something of every label that is judged",
                hint=self._others(unseen, hint),
            )
        if not self.audits:
            return
        missing = [name for name in self.names if name not in self._best]
        wrong = [name for name in self.names if self._best.get(name, 1.0) < MIN_REFERENCE_DICE]
        if missing:
            raise ScanError(
                f"the true labels have none of {', '.join(missing)} in {where}: there is nothing to judge of that",
                expected="something of every label that is judged",
                hint=self._others(missing, hint),
            )
        if wrong:
            figures = ", ".join(f"{name} {self._best[name]:.4f}" for name in wrong)
            raise ScanError(
                f"the reference's own true Dice is below {MIN_REFERENCE_DICE:g} ({figures}), so that there is no share "
                f"of it to keep: {self._files()}",
                expected=f"labels where the reference finds them, looked for as {self.audits[0].mapping}",
                hint=self._hint(wrong),
            )

    def _files(self) -> str:
        return "; ".join(audit.text for audit in self.audits[:3]) + ("; ..." if len(self.audits) > 3 else "")

    def _hint(self, names: Sequence[str]) -> str:
        return self._others(names, self.audits[0].hint(names))

    def _others(self, names: Sequence[str], hint: str) -> str:
        rest = [name for name in self.names if name not in names]
        return f"{hint}; or --judge-labels {','.join(rest)}, to judge nothing else" if rest else hint


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
