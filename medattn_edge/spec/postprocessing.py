"""Cleanup: what is done to labels after the network, declared with the network and done the same everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from medattn_edge.errors import UsageError

_KINDS: Final = ("largest", "drop-below", "fill-holes")
_GRAMMAR: Final = "largest:LABEL, drop-below:LABEL:ML or fill-holes:LABEL; * is every label"


@dataclass(frozen=True)
class Cleanup:
    """One step on the labels of one scan.

    Attributes:
        kind: `largest` keeps the largest connected component of a label (26 neighbours in 3-D); `drop-below` removes
            components of less than `ml`; `fill-holes` fills what a label encloses: of the background where labels
            exclude each other.
        label: the label's name, or `*` for every label but the background, each by itself.
        ml: millilitres, of drop-below.
    """

    kind: str
    label: str
    ml: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or not self.label:
            raise _unreadable(f"{self.kind}:{self.label}")
        if (self.kind == "drop-below") != (self.ml > 0) or not math.isfinite(self.ml):
            raise _unreadable(str(self))

    @classmethod
    def parse(cls, text: str) -> Cleanup:
        """From `kind:LABEL[:ML]`; raises UsageError."""
        kind, _, rest = text.partition(":")
        try:
            if kind == "drop-below":
                label, _, ml = rest.rpartition(":")
                return cls(kind, label, float(ml))
        except ValueError:
            raise _unreadable(text) from None
        return cls(kind, rest)

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{self.kind}:{self.label}" + (f":{self.ml:g}" if self.kind == "drop-below" else "")


def _unreadable(text: str) -> UsageError:
    return UsageError(f"the step {text!r} cannot be read", expected=_GRAMMAR, hint="--after largest:liver")
