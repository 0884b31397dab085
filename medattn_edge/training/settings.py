"""What a training is given, what it tells while it runs, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.errors import UsageError
from medattn_edge.training.evaluate import Score


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. steps: per epoch. batch: patches per step. learning_rate: of the first step, Adam.

    holdout, blocks: see split_cases. seed: of the first weights, the patches and their augmentation.
    frozen_norms: the share of the steps, the last ones, in which BatchNorm normalises with what it has gathered. The
    statistics of one or two 3-D patches are so much their own that weights learn to lean on them; then they unlearn it.
    """

    epochs: int = 40
    steps: int = 25
    batch: int = 8
    learning_rate: float = 1e-3
    holdout: float = 0.2
    blocks: int = 10
    seed: int = 0
    frozen_norms: float = 0.0

    def __post_init__(self) -> None:
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

    notes: further facts for its notes, such as the command. resume: go on from `path`.resume.
    """

    path: Path
    notes: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, `number` counted from 1. loss: the mean of its steps. best: its checkpoint was written."""

    number: int
    loss: float
    score: Score
    best: bool


@dataclass(frozen=True)
class Watch:
    """Who is told: progress(steps done, steps in all) after every step, epoch(Epoch) after every epoch."""

    progress: Callable[[int, int], None] = lambda done, total: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


@dataclass(frozen=True)
class Result:
    """The best checkpoint. notes: what it says about its own training. score: of all scans."""

    path: Path
    notes: Mapping[str, Any]
    score: Score


UNWATCHED = Watch()
