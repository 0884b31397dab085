"""What a training is given, what it reports while it runs, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.backends import check_device
from medattn_edge.errors import UsageError
from medattn_edge.training.amounts import LabelAmount
from medattn_edge.training.evaluate import Score


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: Each ends with the held-out Dice.
        steps: Per epoch.
        batch: Patches per step.
        learning_rate: Of the first step, Adam.
        holdout: The fraction of slices or scans to judge with; see `split_cases`.
        blocks: Blocks of slices that a scan is cut into; see `split_cases`.
        seed: Of the first weights, the patches and their augmentation.
        frozen_norms: The share of the steps, the last ones, in which BatchNorm normalises with its running statistics.
            Those of one or two 3-D patches are so much their own that weights learn to lean on them; then they unlearn
            it.
        device: cpu or cuda:INDEX. What a GPU computes is not bit for bit the same in the next run.

    Raises:
        UsageError: A number is out of its range, or the device is no name of one.
    """

    epochs: int = 40
    steps: int = 25
    batch: int = 8
    learning_rate: float = 1e-3
    holdout: float = 0.2
    blocks: int = 10
    seed: int = 0
    frozen_norms: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_device(self.device)
        if min(self.epochs, self.steps, self.batch) < 1 or not 0 < self.learning_rate < math.inf or self.seed < 0:
            raise UsageError(
                f"{self.epochs} epochs of {self.steps} steps of {self.batch} patches, learning rate "
                f"{self.learning_rate:g}, seed {self.seed}",
                expected="at least 1 of each, a positive learning rate, a seed from 0 up",
                hint="--epochs 40 --steps 25 --batch 8 --learning-rate 1e-3 --seed 0",
            )
        if not 0 <= self.frozen_norms <= 1:
            raise UsageError(
                f"frozen norms in {self.frozen_norms:g} of the steps", expected="0 to 1", hint="--frozen-norms 0.5"
            )


@dataclass(frozen=True)
class Output:
    """Where the best checkpoint goes. An existing file is replaced by the first epoch's, never before.

    Attributes:
        path: NAME.safetensors.
        notes: Further facts for its notes, such as the command.
        resume: Go on from `path`.resume: after an interruption, or with more epochs than a finished training had.
    """

    path: Path
    notes: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        number: Counted from 1.
        loss: The mean of its steps.
        score: Of the scans with held-out slices.
        best: Its checkpoint was written.
        seconds: It took, the held-out Dice included.
        remaining_s: That the epochs after it will take, by the mean of those of this process.
    """

    number: int
    loss: float
    score: Score
    best: bool
    seconds: float = 0.0
    remaining_s: float = 0.0


@dataclass(frozen=True)
class Watch:
    """What is called while a training runs.

    Attributes:
        progress: progress(steps done, steps in total) after every step.
        epoch: epoch(Epoch) after every epoch.
        note: note(text) about what the training is given, before it starts, and about how long it will take.
        labels: labels(amounts) once, before it starts: how much of each label there is.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    epoch: Callable[[Epoch], None] = lambda epoch: None
    note: Callable[[str], None] = lambda text: None
    labels: Callable[[Sequence[LabelAmount]], None] = lambda amounts: None


@dataclass(frozen=True)
class Result:
    """The best checkpoint.

    Attributes:
        path: Where it is.
        notes: What it says about its own training.
        score: Of all scans.
    """

    path: Path
    notes: Mapping[str, Any]
    score: Score


UNWATCHED = Watch()
