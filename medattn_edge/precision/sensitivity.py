"""Which layers lose the answer in INT8, and the fewest of them that must stay in floating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medattn_edge.precision.judge import Verdict
from medattn_edge.precision.layers import Layer


@dataclass(frozen=True)
class Damage:
    """What quantising some layers, and no others, does.

    Attributes:
        layers: neighbours in the graph; a single one where the trials allow it.
        sqnr_db: on held-out windows, against FP32.
        dice: Dice with the reference, the minimum of all labels, on the same windows.
    """

    layers: tuple[Layer, ...]
    sqnr_db: float
    dice: float

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of their nodes."""
        return tuple(layer.node for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"layers": [asdict(one) for one in self.layers], "sqnr_db": self.sqnr_db, "dice": self.dice}


SingleLayers = Callable[
    [tuple[str, ...]], tuple[float, float]
]  # quantise these nodes and no others: SQNR in dB, Dice with it
Floating = Callable[[tuple[str, ...]], Verdict | None]  # quantise all but these, and judge; None: no trial is left
Progress = Callable[[int, int], None]


def rank(
    layers: Sequence[Layer], trials: int, damage_of: SingleLayers, progress: Progress | None = None
) -> list[Damage]:
    """The layers in the order of the damage that they do, worst first.

    Noise powers of single layers add up to about the noise of all of them, so the order tells which ones to revert.

    Args:
        layers: in the graph's order.
        trials: at most; with more layers than trials, neighbours in the graph are tried together.
        damage_of: measures one trial.
        progress: called with how many trials are done, and of how many.
    """
    count = min(trials, len(layers))
    groups = [tuple(layers[len(layers) * i // count : len(layers) * (i + 1) // count]) for i in range(count)]
    ranking = []
    for index, group in enumerate(groups):
        ranking.append(Damage(group, *damage_of(tuple(layer.node for layer in group))))
        if progress is not None:
            progress(index + 1, count)
    return sorted(ranking, key=lambda damage: (damage.sqnr_db, damage.dice))


def fewest_floating(ranking: Sequence[Damage], floating: Floating) -> tuple[Damage, ...]:
    """The fewest of the ranking that must stay in floating point for the gate to hold, as far as the trials go.

    Doubles the head of the ranking until the gate holds and halves the difference; then quantises again whatever of the
    head the gate does not need. Empty when nothing that was tried holds.
    """

    def holds(chosen: Sequence[Damage]) -> bool | None:
        verdict = floating(tuple(node for damage in chosen for node in damage.nodes))
        return None if verdict is None else verdict.holds

    enough = _shortest_head(ranking, holds)
    for damage in enough[:-1][::-1]:  # the last one is needed: without it the head was too short
        fewer = [one for one in enough if one is not damage]
        answer = holds(fewer)
        if answer is None:
            break
        enough = fewer if answer else enough
    return tuple(enough)


def _shortest_head(ranking: Sequence[Damage], holds: Callable[[Sequence[Damage]], bool | None]) -> list[Damage]:
    low, high, count = 0, len(ranking) + 1, 1  # low heads fail, high ones hold; all and one more stands for none
    while low + 1 < high:
        count = min(count, len(ranking))
        answer = holds(ranking[:count])
        if answer is None:
            break
        low, high = (low, count) if answer else (count, high)
        count = 2 * count if high > len(ranking) else (low + high) // 2
    return list(ranking[:high]) if high <= len(ranking) else []
