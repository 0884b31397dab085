"""File gate: what an artifact was asked to keep of the reference's answer, as its manifest carries it.

Whoever judges the file later holds it to the same, so that no two commands say different things of one file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LIMITS = ("min_dice", "min_true_dice_share", "max_true_dice_share")
_FIGURES = {
    "min_sqnr_db": "SQNR in dB at least",
    "min_label_match": "label match at least",
    "max_abs": "largest difference of two logits at most",
    "max_volume_change_percent": "volume change in % at most",
}


@dataclass(frozen=True)
class FileGate:
    """What was asked of a file when it was made, against the FP32 network.

    Attributes:
        min_dice: Dice with the reference, of every label, from 0 to 1.
        min_true_dice_share: share of the reference's true Dice, of every label; None where there were no true labels.
        max_true_dice_share: likewise, at most: a true Dice that rises by more is another answer too.
        labels: the labels, or regions, that it was judged on; empty where nobody looked which ones these were.
        label_values: label -> its values in the files of true labels; empty where there were none.

    Raises:
        ValueError: a limit that nothing could be held to, or half a pair of limits.
        TypeError: a value of another kind.
    """

    min_dice: float
    min_true_dice_share: float | None = None
    max_true_dice_share: float | None = None
    labels: tuple[str, ...] = ()
    label_values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in LIMITS:
            value = getattr(self, name)
            if value is None and name != "min_dice":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} of the gate is {value!r}")
            if not math.isfinite(value) or value < 0 or (name == "min_dice" and value > 1):
                raise ValueError(f"{name} of the gate is {value!r}")
        low, high = self.min_true_dice_share, self.max_true_dice_share
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            raise ValueError(f"the gate asks for a share of the reference's true Dice from {low} to {high}")
        if not isinstance(self.labels, tuple) or not all(isinstance(name, str) for name in self.labels):
            raise TypeError(f"labels of the gate are {self.labels!r}")
        if not isinstance(self.label_values, Mapping):
            raise TypeError(f"label_values of the gate are {self.label_values!r}")
        for name, values in self.label_values.items():
            whole = isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)
            if not isinstance(name, str) or not whole:
                raise TypeError(f"label_values of the gate has {name!r}: {values!r}")

    @property
    def limits(self) -> dict[str, float]:
        """Figure -> limit, by the names of `Thresholds`; only what is asked."""
        found = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse."""
        values = {name: list(numbers) for name, numbers in self.label_values.items()}
        return {**asdict(self), "labels": list(self.labels), "label_values": values}

    @classmethod
    def from_json(cls, values: Any) -> FileGate:
        """From `to_json`.

        Raises:
            TypeError, ValueError: for fields that are missing, unknown or wrong.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"the gate is {values!r}")
        labels, numbers = values.get("labels", ()), values.get("label_values", {})
        if not isinstance(labels, list | tuple) or not isinstance(numbers, Mapping):
            raise TypeError(f"the gate is {dict(values)!r}")
        if not all(isinstance(one, list | tuple) for one in numbers.values()):
            raise TypeError(f"label_values of the gate are {dict(numbers)!r}")
        known = {name: tuple(one) for name, one in numbers.items()}
        return cls(**{**values, "labels": tuple(labels), "label_values": known})


def gate_text(limits: Mapping[str, float]) -> str:
    """What is asked, for people: every figure under its one name, with its limit.

    Args:
        limits: figure -> limit, by the names of `Thresholds`.
    """
    rest = dict(limits)
    words = [f"Dice with the reference at least {rest.pop('min_dice'):g}"] if "min_dice" in rest else []
    shares = {"min_true_dice_share": "at least", "max_true_dice_share": "at most"}
    if bounds := [f"{word} {rest.pop(name):g}" for name, word in shares.items() if name in rest]:
        words.append(f"share of the reference's true Dice {' and '.join(bounds)}")
    words += [f"{_FIGURES.get(name, name)} {value:g}" for name, value in rest.items()]
    return ", ".join(words) or "finite logits"
