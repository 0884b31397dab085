"""Intensity: how stored values become network input, as a short chain of named steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from medattn_edge.errors import UsageError

GRAMMAR: Final = (
    "window:LOW:HIGH, clip:LOW:HIGH, percentile:LOW:HIGH, map:A:B:C:D, normalize:MEAN:STD, zscore, minmax or none, "
    "in a row with commas; one such chain for each channel with semicolons"
)
_HINT: Final = "--intensity clip:-1000:400,map:-1000:400:-1:1"
# Step -> how many numbers it takes, and whether it may look at a part of the scan, or at all channels, for statistics.
_STEPS: Final[Mapping[str, tuple[int, bool]]] = {
    "window": (2, False),
    "clip": (2, False),
    "percentile": (2, True),
    "map": (4, True),
    "normalize": (2, False),
    "zscore": (0, True),
    "minmax": (0, True),
}
# Where statistics come from, beside the whole channel.
_SCOPES: Final = ("slice", "nonzero", "joint")
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_MOST_STEPS: Final = 16


class Bound(NamedTuple):
    """A number, or the percentile of the scan's values that has that number (0 to 100)."""

    value: float
    percentile: bool = False

    def __str__(self) -> str:
        return _short(self.value) + ("%" if self.percentile else "")


@dataclass(frozen=True)
class Step:
    """One step of a chain; what it measures of the scan, it measures on the values that the steps before it gave.

    Attributes:
        name: `window` clips to [low, high] and maps it to [0, 1]; `clip` clips; `percentile` clips to two percentiles;
            `map` brings a..b to c..d without clipping, where a and b may be percentiles, written 0.5%; `normalize`
            subtracts a given mean and divides by a given standard deviation; `zscore` does so with the scan's own
            (population standard deviation); `minmax` maps the smallest value to 0 and the largest to 1.
        bounds: its numbers, as it is written.
        scope: where statistics come from: each axial `slice` by itself (a slice along D); the `nonzero` voxels alone,
            and zscore then leaves voxels of 0 as they are; `joint`, all channels together. Without, the whole channel.
    """

    name: str
    bounds: tuple[Bound, ...] = ()
    scope: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, statistical = _STEPS[self.name]
        if len(self.bounds) != count:
            raise _unreadable(str(self), f"{self.name} takes {count or 'no'} numbers")
        measured = statistical and (count == 0 or self.name == "percentile" or any(b.percentile for b in self.bounds))
        if self.scope and not measured:
            raise _unreadable(str(self), f"{self} measures nothing, so it has no scope")
        if len(set(self.scope)) != len(self.scope) or {"slice", "joint"} <= set(self.scope):
            raise _unreadable(str(self), f"the scope {':'.join(self.scope)} contradicts itself")
        if any(bound.percentile and not 0 <= bound.value <= 100 for bound in self.bounds):
            raise _unreadable(str(self), "a percentile lies between 0 and 100")
        if not all(math.isfinite(bound.value) for bound in self.bounds):
            raise _unreadable(str(self), "its numbers must be finite")
        self._check_order()

    def _check_order(self) -> None:
        if self.name in ("window", "clip", "percentile", "map"):
            low, high = self.bounds[:2]
            if low.percentile == high.percentile and not low.value < high.value:
                raise UsageError(
                    f"the intensity {self} has the bounds {low}..{high}, which are empty or without end",
                    expected="two numbers, low < high",
                    hint=f"{self.name}:-1000:400" + (":0:1" if self.name == "map" else ""),
                )
        if self.name == "map" and (any(b.percentile for b in self.bounds[2:]) or self.bounds[2] == self.bounds[3]):
            raise _unreadable(str(self), "it maps to two different numbers")
        if self.name == "normalize" and not self.bounds[1].value > 0:
            raise _unreadable(str(self), "a standard deviation is above 0")

    @classmethod
    def parse(cls, text: str) -> Step:
        """From `name[:number...][:scope...]`; raises UsageError."""
        name, *words = text.strip().split(":")
        if name not in _STEPS:
            raise _unreadable(text, f"the step {name!r} is not known")
        count = _STEPS[name][0]
        numbers, scope = words[:count], words[count:]
        if unknown := [word for word in scope if word not in _SCOPES]:
            raise _unreadable(text, f"{unknown[0]!r} is no scope of {name}: {', '.join(_SCOPES)}")
        return cls(name, tuple(_bound(name, word, text) for word in numbers), tuple(scope))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        plain = self.name == "percentile"
        numbers = [_short(bound.value) if plain else str(bound) for bound in self.bounds]
        return ":".join([self.name, *numbers, *self.scope])


@dataclass(frozen=True)
class Intensity:
    """How stored values become network input.

    Attributes:
        chains: the steps of each channel, in order; one chain stands for every channel. An empty chain leaves the
            values alone.

    `parse` reads the form of the command line and `str` writes it.
    """

    chains: tuple[tuple[Step, ...], ...] = ((),)

    def __post_init__(self) -> None:
        if not self.chains or max(map(len, self.chains)) > _MOST_STEPS:
            raise _unreadable(str(self), f"a chain has at most {_MOST_STEPS} steps")
        if len(set(self.chains)) > 1 and any("joint" in step.scope for chain in self.chains for step in chain):
            raise _unreadable(str(self), "what is measured over all channels needs one chain for all of them")

    @classmethod
    def parse(cls, text: str) -> Intensity:
        """From the command line's form, see GRAMMAR; raises UsageError."""
        if not isinstance(text, str) or not text.strip():
            raise _unreadable(repr(text), "it is empty")
        return cls(tuple(_chain(part, text) for part in text.split(";")))

    @classmethod
    def from_json(cls, value: Any) -> Intensity:
        """From the string of a spec, or from the fields of older manifests; raises UsageError."""
        if isinstance(value, str):
            return cls.parse(value)
        if not isinstance(value, Mapping) or set(value) - {"kind", "low", "high", "scope"}:
            raise _unreadable(repr(value), "it is neither a string nor the fields of an older version")
        kind, scope = value.get("kind", "none"), value.get("scope", "volume")
        if kind == "window":
            return cls.parse(f"window:{value.get('low', 0.0)!r}:{value.get('high', 1.0)!r}")
        return cls.parse(f"{kind}:slice" if scope == "slice" and kind != "none" else str(kind))

    @classmethod
    def window(cls, low: float, high: float) -> Intensity:
        """Clips to [low, high] and maps that to [0, 1]: CT in HU."""
        return cls(((Step("window", (Bound(float(low)), Bound(float(high)))),),))

    def of_channel(self, channel: int) -> tuple[Step, ...]:
        """The steps of one channel."""
        return self.chains[channel if len(self.chains) > 1 else 0]

    @property
    def span(self) -> tuple[float, float] | None:
        """The values [low, high] that a first step lets through, as windows of CT do; None when nothing clips first."""
        first = self.chains[0][0] if self.chains[0] else None
        if first is None or first.name not in ("window", "clip") or first.bounds[0].percentile:
            return None
        return first.bounds[0].value, first.bounds[1].value

    def __str__(self) -> str:
        """The command line's form, which `parse` reads."""
        return ";".join(",".join(map(str, chain)) or "none" for chain in self.chains)


def _chain(text: str, whole: str) -> tuple[Step, ...]:
    words = [word.strip() for word in text.split(",")]
    if words == ["none"]:
        return ()
    if "none" in words or not all(words):
        raise _unreadable(whole, "none stands alone, and no step is empty")
    return tuple(Step.parse(word) for word in words)


def _bound(name: str, word: str, text: str) -> Bound:
    number = word.removesuffix("%")
    if not _NUMBER.fullmatch(number):
        raise _unreadable(text, f"{word!r} is no number")
    percentile = word != number or name == "percentile"
    if word != number and name not in ("map", "clip"):
        raise _unreadable(text, f"{name} takes no percentile sign")
    return Bound(float(number), percentile)


def _short(value: float) -> str:
    """As few digits as name this very number."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _unreadable(text: str, why: str) -> UsageError:
    return UsageError(f"the intensity {text!r} cannot be read: {why}", expected=GRAMMAR, hint=_HINT)
