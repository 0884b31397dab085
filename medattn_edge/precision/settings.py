"""What to ask of a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medattn_edge.agreement import Thresholds
from medattn_edge.errors import UsageError
from medattn_edge.gates import INT8, TRUE_LABELS
from medattn_edge.host import hardware
from medattn_edge.precision.lint.rules import ISAS
from medattn_edge.precision.quantizers.quantizer import QuantizationRecipe
from medattn_edge.precision.statistics import check_method


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """What to ask of an INT8 file, and of the way to it.

    Attributes:
        profile: what will run it: cpu for ONNX Runtime and OpenVINO, tensorrt for TensorRT 10, 11 and RTX.
        isa: the CPU that will run it: x86-vnni, x86 or arm; empty for this host's.
        method: how ranges come from what was seen: minmax, percentile or entropy.
        gate: the minimum Dice with the reference, the FP32 network, of every label; None for that of `gates.INT8`, or
            of `gates.TRUE_LABELS` where there are true labels.
        min_true_dice_share: the minimum share of the reference's true Dice, of every label; None for that of
            `gates.TRUE_LABELS`.
        max_true_dice_share: the maximum share, likewise.
        judge_labels: the only labels, or regions, to judge; empty for all. One of which there is nothing to judge is
            refused.
        quantizer: the only one to try, or empty for all that fit.
        floating: PyTorch modules whose layers stay in floating point, whatever they would do.
        runtime: the backend that judges and times, for the profile cpu; empty for the suffix's own.
        samples: patches to calibrate on, half of them with foreground.
        held_out_samples: patches to judge on.
        max_trials: quantised graphs to judge at most.
        allow_random: calibrate on noise when there is no scan: to try a calibration, never to deploy one.
        seed: of the choice of patches.
        threads: of the CPU; 0 leaves it to the runtime.

    Raises:
        UsageError: a value that nothing can follow.
    """

    profile: str
    isa: str = ""
    method: str = "minmax"
    gate: float | None = None
    min_true_dice_share: float | None = None
    max_true_dice_share: float | None = None
    judge_labels: tuple[str, ...] = ()
    quantizer: str = ""
    floating: tuple[str, ...] = ()
    runtime: str = ""
    samples: int = 32
    held_out_samples: int = 16
    max_trials: int = 64
    allow_random: bool = False
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_method(self.method)
        QuantizationRecipe(self.profile, self.isa or ISAS[0])  # which refuses what it does not know
        if self.gate is not None and not 0 <= self.gate <= 1:
            raise UsageError(f"a gate of {self.gate:g}", expected="a Dice from 0 to 1", hint="--gate 0.999")
        low, high = self.shares
        if not 0 <= low <= high < math.inf:
            raise UsageError(
                f"a share of the reference's true Dice from {low:g} to {high:g}",
                expected="a minimum from 0 on, and a maximum that is not below it",
                hint="--min-true-dice-share 0.999 --max-true-dice-share 1.01",
            )
        for option, value in (
            ("--samples", self.samples),
            ("--held-out-samples", self.held_out_samples),
            ("--max-trials", self.max_trials),
        ):
            if value < 1:
                raise UsageError(f"{option} {value}", expected="at least 1", hint=f"{option} 16")

    @property
    def shares(self) -> tuple[float, float]:
        """The minimum and the maximum share of the reference's true Dice that are asked where there are true labels."""
        low, high = self.min_true_dice_share, self.max_true_dice_share
        return (
            TRUE_LABELS.limits["min_true_dice_share"] if low is None else low,
            TRUE_LABELS.limits["max_true_dice_share"] if high is None else high,
        )

    def thresholds(self, labelled: bool) -> Thresholds:
        """What every label must reach on the held-out windows.

        Args:
            labelled: whether these come with true labels: both thresholds are then held.
        """
        usual = (TRUE_LABELS if labelled else INT8).limits["min_dice"]
        dice = usual if self.gate is None else self.gate
        if not labelled:
            return Thresholds(min_dice=dice)
        low, high = self.shares
        return Thresholds(min_dice=dice, min_true_dice_share=low, max_true_dice_share=high)

    @property
    def recipe(self) -> QuantizationRecipe:
        """How to quantise, with this host's instruction set where none is named."""
        return QuantizationRecipe(self.profile, self.isa or hardware.isa_class(hardware.cpu()), self.method)
