"""Schedule: how the learning rate falls, how far a training is and how long the rest of it takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from medattn_edge import gates
from medattn_edge.spec import ModelSpec
from medattn_edge.training.settings import TrainingSettings

FINAL_RATE = 0.01  # of the first learning rate: 1e-3 decays to 1e-5


def learning_rate(step: int, total: int, first: float) -> float:
    """Cosine decay from `first` to FINAL_RATE * first over `total` steps."""
    last = FINAL_RATE * first
    return last + (first - last) * (1 + math.cos(math.pi * step / total)) / 2


def duration(seconds: float) -> str:
    """A duration as a person says it: seconds below 1.5 minutes, minutes below 1.5 hours, else hours."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Pace:
    """The durations of steps: after the first few it is known whether the training will take hours.

    Args:
        spec: Of the network; its settings are what can be made smaller.
        settings: The epochs and the batch.
        note: Called once, and only where the steps that are left take longer than one waits for.
    """

    def __init__(self, spec: ModelSpec, settings: TrainingSettings, note: Callable[[str], None]) -> None:
        self._spec, self._settings, self._note = spec, settings, note
        self._seconds: list[float] = []

    def step(self, seconds: float, left: int) -> None:
        """One step is done, and so many are left. The first one of a process also prepares the kernels."""
        limits = gates.LONG_TRAINING.limits
        self._seconds.append(seconds)
        if len(self._seconds) != 1 + int(limits["measured_steps"]):
            return
        each = statistics.median(self._seconds[1:])
        if each * left > limits["long_s"]:
            self._note(
                f"about {duration(each * left)} for the {left:,} steps that are left, at {duration(each)} a step on "
                f"this host; the held-out Dice of every epoch comes on top. Less: {self._advice()}"
            )

    def _advice(self) -> str:
        smaller = [f"--set {key}={_typed(half)}" for key, half in _halved(self._spec.config).items()]
        epochs, batch = self._settings.epochs, self._settings.batch
        fewer = [f"--epochs {epochs // 4} (--resume extends it later)"] if epochs > 4 else []
        fewer += [f"--batch {batch // 2}"] if batch > 3 else []
        return " / ".join([*smaller, *fewer, "a smaller --patch"])


def _halved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network that are numbers of channels, by half; none becomes smaller than 4."""
    halves: dict[str, Any] = {}
    if isinstance(width := config.get("width"), int) and width >= 8:
        halves["width"] = width // 2
    if isinstance(channels := config.get("channels"), list | tuple) and min(channels) >= 8:
        halves["channels"] = [number // 2 for number in channels]
    return halves


def _typed(value: Any) -> str:
    return f"'{value}'" if isinstance(value, list) else str(value)
