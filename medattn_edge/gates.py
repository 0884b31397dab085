"""Gates: every threshold that decides whether an artifact may be written, timed or deployed, in one table.

A gate is set before the run. Where a command has an option for it, the option's default is read from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medattn_edge.agreement import Thresholds


@dataclass(frozen=True)
class Gate:
    """One decision.

    Attributes:
        name: what it decides about.
        limits: figure -> limit, by the names of `Thresholds` where the figure is one of an agreement; empty asks for
            finite logits and nothing else. dB of SQNR, Dice and label match from 0 to 1.
        why: where the numbers come from.
        used_by: the modules that decide by it.
    """

    name: str
    limits: Mapping[str, float]
    why: str
    used_by: tuple[str, ...]

    @property
    def thresholds(self) -> Thresholds:
        """The limits as an agreement is held to them."""
        from medattn_edge.agreement import Thresholds  # here, so that an option's default costs no numpy

        return Thresholds(**self.limits)


def _gate(name: str, why: str, used_by: tuple[str, ...], **limits: float) -> Gate:
    return Gate(name, MappingProxyType(limits), why, used_by)


FP32 = _gate(
    "fp32",
    "Two FP32 runtimes sum in another order: 120 to 135 dB apart on trained networks, 103 on published layouts with "
    "random weights; eager itself is 105 to 145 dB from FP64. BF16 and TF32 called FP32 reach 75 dB at most. Where "
    "the reference can be computed in FP64, the network says itself what FP32 is worth in it: rewrites, another order "
    "of sums cost 6 dB of its own distance at most, 12 dB is four times the noise. Nothing need be nearer than 110 dB: "
    "Winograd's convolution keeps 118. Nothing may be further than 75, where BF16 and TF32 begin. 90 dB from the "
    "reference stays asked for where its own noise does not forbid that.",
    ("exporters.exporter", "compile.compilation", "evaluation.candidate"),
    min_sqnr_db=90.0,
    min_label_match=0.9999,
    max_noise_gain_db=12.0,
    min_fp64_sqnr_db=75.0,
    enough_fp64_sqnr_db=110.0,
)
FP16 = _gate(
    "fp16",
    "Rounding to 11 bits leaves 50 to 70 dB where no sum overflows; the Dice is what a reader would see.",
    ("precision.fp16", "cli.export"),
    min_dice=0.9995,
    min_sqnr_db=40.0,
)
FP16_NOISE = _gate(
    "fp16 on noise",
    "Labels of noise mean nothing: the logits alone are judged.",
    ("precision.fp16",),
    min_sqnr_db=40.0,
)
INT8 = _gate(
    "int8",
    "MLPerf's high accuracy for 3D-UNet is 99.9 % of the true Dice. Without true labels nobody can tell a better "
    "answer from a worse one, so as much is asked of the Dice with the reference: few voxels move a true Dice little.",
    ("precision.settings", "cli.calibrate"),
    min_dice=0.999,
)
TRUE_LABELS = _gate(
    "with true labels",
    "Both thresholds, for either alone can be fooled. A share of the reference's true Dice of 0.999 is MLPerf's high "
    "accuracy. It says nothing of which voxels changed: a 3-D network's INT8 file kept 1.085 of it with a Dice with "
    "the reference of 0.856, another answer that happened to score better on one subject. So the share must not rise "
    "by more than 1 % either: on a few subjects a true Dice moves by that much by chance, and what moves further has "
    "been validated by nobody. And the Dice with the reference must be 0.99 for every label: room for voxels of the "
    "boundary, where the true labels say that nothing was lost, and not for another answer.",
    ("precision.settings", "cli.calibrate", "evaluation.held_gate"),
    min_dice=0.99,
    min_true_dice_share=0.999,
    max_true_dice_share=1.01,
)
REDUCED = _gate(
    "fp16 and int8 in a runtime",
    "The graph was judged when it was made; a runtime may lose as little again. A gate that the file carries decides "
    "in place of this Dice, where it is compiled and where it is held to the reference.",
    ("compile.compilation", "evaluation.candidate", "cli.bench"),
    min_dice=0.999,
    min_sqnr_db=30.0,
)
REDUCED_NOISE = _gate(
    "fp16 and int8 in a runtime, on noise",
    "Far from what it was calibrated on, finite numbers are all that can be asked of a graph in few bits.",
    ("compile.compilation", "evaluation.trial"),
)
COMPARED = _gate(
    "compare",
    "The same labels as the reference, but for a voxel in a thousand, where a file carries no gate of its own and "
    "there are no true labels.",
    ("evaluation.held_gate", "cli.compare"),
    min_dice=0.999,
)
RUNTIME_GAP = _gate(
    "runtimes on one graph",
    "A runtime that loses a bit, 6 dB, more than the graph as written computes another graph. Beyond 100 dB two FP32 "
    "runs differ by the order of their sums, which is no gap.",
    ("evaluation.disagreement", "cli.compare"),
    max_gap_db=6.0,
    clip_db=100.0,
)
LAYER = _gate(
    "one layer of a candidate",
    "Fed with the reference's own values, layers of healthy files keep 125 dB and more in FP32, 66 to 80 in FP16, "
    "and 23 to 60 in INT8. An FP32 layer below 90 dB is computed from other numbers, or in fewer bits than it says; "
    "a half below 40 has lost three of its eleven bits. What 8 bits can hold differs from layer to layer: one in "
    "INT8 may lose 12 dB to itself with every weight and tensor rounded to 8 bits by its own range, for a sign that "
    "is not needed and a bit against overflow cost as much; but no more than 20 dB is asked, and never less than "
    "12, where a quarter of the signal is gone. As many more values of a gate at 0 or 1 as one in twenty is a gate "
    "that does not weigh. And of two graphs that share less than half of their layers nothing can be said layer by "
    "layer.",
    ("evaluation.bisect.figures", "evaluation.bisect.opening", "evaluation.bisect.bisection"),
    min_matched=0.5,
    min_fp32_db=90.0,
    min_fp16_db=40.0,
    min_int8_db=12.0,
    enough_int8_db=20.0,
    max_int8_loss_db=12.0,
    max_saturated_gain=0.05,
)
REPEATED = _gate(
    "the same answer after it was timed",
    "A runtime whose answer drifts from its own first one was not worth timing.",
    ("evaluation.trial",),
    min_sqnr_db=30.0,
)
NOTHING = _gate(
    "something to judge",
    "A share of nothing is no figure: labels under other values than were looked for give a true Dice of 0 to "
    "everybody. Two masks that lie at random overlap with a Dice of what each fills of the scan, a tenth for an organ "
    "as large as any; published networks reach 0.3 and more of the hardest lesions. Below 0.1 a reference's true Dice "
    "is chance, and so is any share of it.",
    ("inference.judged",),
    min_reference_true_dice=0.1,
)
DEADLINE = _gate(
    "deadline of one run",
    "A deadline is met when at most one run in a hundred takes longer: one may be disturbed by the host. The worst of "
    "a few hundred runs says more of the host than of the file, and has no bound with a general-purpose kernel; the "
    "median would let every other run be late. Of less than a hundred runs none may be: so few cannot show that a late "
    "one is rare.",
    ("evaluation.report", "deploy.choice", "deploy.plan", "evidence.checks"),
    max_miss_rate=0.01,
)
QUIET = _gate(
    "a ratio of times",
    "One file was printed as 36 and as 4.8 times as fast within minutes, by a host that did other work. Of 249 ratios "
    "of quiet runs (benchmarks/results) half have quartiles within 1.08 of each other, and 99 of 100 within 2: where "
    "the upper one is more than twice the lower, no middle is a figure. Steady work of others leaves the quartiles "
    "narrow and shifts the middle all the same, since the threads of a runtime meet after every operator and wait for "
    "the one that was held up: with a quarter of the CPUs gone, one thread in four is. On a host with many CPUs, half "
    "of them idle, nothing is held up, whatever others do.",
    ("timing",),
    max_quartile_ratio=2.0,
    max_others_share=0.25,
    min_idle_share=0.5,
)
HOUNSFIELD = _gate(
    "values of a CT",
    "Air is -1000 HU, fat -100: a CT of a patient with no value as low as fat is in other units (often 1024 too high) "
    "or no CT: an MR that was resampled undershoots 0 by some tens. And nothing but CT stores values below -500, half "
    "way from water to air. Both are said and refuse nothing: a crop of bone is a CT all the same.",
    ("io.modality", "training.choice"),
    lowest_of_ct=-100.0,
    air_hu=-500.0,
)
LONG_TRAINING = _gate(
    "a training to warn of",
    "The published widths take 10 to 100 times as long on the cores of a laptop as on a GPU, and nobody sees it in a "
    "bar that has just begun. An hour is longer than one waits beside it. Three steps after the first, which also "
    "prepares the kernels, are within a third of the mean of an epoch. It is said and stops nothing.",
    ("training.schedule",),
    long_s=3600.0,
    measured_steps=3,
)
LABEL_COLOURS = _gate(
    "colours of labels",
    "CIELab distances: 2 is seen side by side, 10 at a glance. The first ten colours, chosen by eye, lie 28 and more "
    "apart and 45 from every grey; thin outlines on a scan are asked for about as much. A viewer of DICOM fills whole "
    "organs and shows their names: the accustomed colour comes first there, as long as two can be told apart.",
    ("io.organs",),
    min_distance=10.0,
    min_drawn_distance=25.0,
    min_grey_distance=40.0,
)
ATTENTION_COPY = _gate(
    "a copy that answers attention maps",
    "The copy is the deployed graph with more outputs. In FP32, FP16 and INT8 of both quantizers its logits were the "
    "deployed file's, bit for bit, in ONNX Runtime, as written and optimised, and in OpenVINO. A runtime that fuses "
    "less before an output may sum in another order, as two FP32 runtimes do: no more is allowed.",
    ("evaluation.attention.explain",),
    min_sqnr_db=90.0,
)
DRAWN_CHEST = _gate(
    "lungs that were drawn",
    "The shipped network never saw a drawing; it found its lungs with a Dice of 0.999 and 0.995. A file or a runtime "
    "that computes something else loses far more.",
    ("cli.demo",),
    min_dice=0.98,
)
CANARY = _gate(
    "canary of a server",
    "The server has the same file, so only its device and runtime differ: the same runtime gives the same bits, TF32 "
    "and BF16 leave some 60 dB, INT8 on another CPU 40; another answer has few dB or none. The input is noise, and "
    "labels of noise flip where two are close.",
    ("serving.canary",),
    min_label_match=0.99,
    min_sqnr_db=30.0,
)

GATES = (
    FP32,
    FP16,
    FP16_NOISE,
    INT8,
    TRUE_LABELS,
    REDUCED,
    REDUCED_NOISE,
    COMPARED,
    RUNTIME_GAP,
    LAYER,
    REPEATED,
    NOTHING,
    DEADLINE,
    QUIET,
    HOUNSFIELD,
    LONG_TRAINING,
    LABEL_COLOURS,
    ATTENTION_COPY,
    DRAWN_CHEST,
    CANARY,
)
