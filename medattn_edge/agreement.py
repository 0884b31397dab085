"""Agreement: how far a candidate's answer is from the reference's, in the units that decide a deployment."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import ShapeError
from medattn_edge.file_gate import gate_text
from medattn_edge.labels import Meaning

Array = npt.NDArray[Any]
IDENTICAL_DB = 300.0  # what SQNR says of identical logits: finite, so that scripts can compare it


@dataclass(frozen=True)
class Agreement:
    """One candidate against one reference on one scan.

    Attributes:
        max_abs: largest difference of two logits.
        sqnr_db: 10 log10 of the logits' energy over their difference's, IDENTICAL_DB when there is none.
        label_match: fraction of voxels with the same label, or in the same regions.
        dice: Dice with the reference, per label or region of either, 2|A & B| / (|A| + |B|).
        volume_change_percent: per label or region of the reference.
        boundary_flips: voxels whose label differs and that touch (6 neighbours) another label in the reference, or, of
            overlapping regions, that lie at the boundary of every region that differs; the other flips are inside an
            organ and worse.
        flips: voxels whose label differs, or any of whose regions does.
        finite: False when the candidate has a logit that is not a number or infinite.
        fp64_sqnr_db: as sqnr_db, against the reference network in FP64; None when that was not computed.
        reference_fp64_sqnr_db: of the reference itself on the same patches, which is the noise of FP32 in this network.
        absent: labels or regions that neither has: they have no Dice, and nothing was judged of them.
        reference_dice: true Dice of the reference, by name; None where there are no true labels.
        candidate_dice: true Dice of the candidate, likewise.
    """

    max_abs: float
    sqnr_db: float
    label_match: float
    dice: Mapping[str, float]
    volume_change_percent: Mapping[str, float]
    boundary_flips: int
    flips: int
    finite: bool = True
    fp64_sqnr_db: float | None = None
    reference_fp64_sqnr_db: float | None = None
    absent: tuple[str, ...] = ()
    reference_dice: Mapping[str, float] | None = None
    candidate_dice: Mapping[str, float] | None = None

    @property
    def true_dice_share(self) -> dict[str, float] | None:
        """Share of the reference's true Dice that the candidate has, by name; None where there are no true labels.

        Not a number for a label of which the reference has nothing right: there is nothing to have a share of.
        """
        before, after = self.reference_dice, self.candidate_dice
        if before is None or after is None:
            return None
        return {name: after[name] / dice if dice else math.nan for name, dice in before.items() if name in after}

    def limited_to(self, names: Collection[str], with_truth: Collection[str] | None = None) -> Agreement:
        """The same agreement with the figures of some labels or regions only.

        Args:
            names: of those of which the figures stay.
            with_truth: of those of which the true Dice stays; None for `names`.
        """

        def of(figures: Mapping[str, float], chosen: Collection[str] = names) -> dict[str, float]:
            return {name: value for name, value in figures.items() if name in chosen}

        true = names if with_truth is None else with_truth
        return replace(
            self,
            dice=of(self.dice),
            volume_change_percent=of(self.volume_change_percent),
            reference_dice=None if self.reference_dice is None else of(self.reference_dice, true),
            candidate_dice=None if self.candidate_dice is None else of(self.candidate_dice, true),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a figure that is not finite becomes null, and what was not computed has no key."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["true_dice_share"] = self.true_dice_share
        return {name: _plain(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Thresholds:
    """What an agreement must reach, given before the run; None asks nothing.

    Attributes:
        min_dice: Dice with the reference, of every label.
        min_sqnr_db: of the logits.
        min_label_match: a fraction of the voxels.
        max_abs: of two logits.
        max_volume_change_percent: of every label, up or down.
        max_noise_gain_db: how much further from FP64 than the reference itself; `given_noise` makes a limit of it.
        min_fp64_sqnr_db: of the logits from FP64, however far from it the reference itself is.
        enough_fp64_sqnr_db: of the logits from FP64, however near to it the reference itself is.
        min_true_dice_share: share of the reference's true Dice, of every label; held where there are true labels.
        max_true_dice_share: likewise: a true Dice that rises by more is another answer too.
    """

    min_dice: float | None = None
    min_sqnr_db: float | None = None
    min_label_match: float | None = None
    max_abs: float | None = None
    max_volume_change_percent: float | None = None
    max_noise_gain_db: float | None = None
    min_fp64_sqnr_db: float | None = None
    enough_fp64_sqnr_db: float | None = None
    min_true_dice_share: float | None = None
    max_true_dice_share: float | None = None

    def without_fp64(self) -> Thresholds:
        """The same thresholds where nobody knows the answer in FP64."""
        return replace(self, max_noise_gain_db=None, min_fp64_sqnr_db=None, enough_fp64_sqnr_db=None)

    def given_noise(self, reference_db: float) -> Thresholds:
        """The same thresholds for a network whose reference lies this far from FP64.

        The limit from FP64 is max_noise_gain_db below the reference's own distance, between min_fp64_sqnr_db and
        enough_fp64_sqnr_db. Two answers that near to FP64 are at most the sum of both distances from each other, so
        min_sqnr_db, which holds every patch to the reference, falls to that where it asks for more; it never rises.

        Args:
            reference_db: SQNR of the reference from FP64.
        """
        if self.max_noise_gain_db is None:
            return self
        limit = reference_db - self.max_noise_gain_db
        limit = min(limit, math.inf if self.enough_fp64_sqnr_db is None else self.enough_fp64_sqnr_db)
        limit = max(limit, -math.inf if self.min_fp64_sqnr_db is None else self.min_fp64_sqnr_db)
        apart = limit - 20.0 * math.log10(1.0 + 10.0 ** ((limit - reference_db) / 20.0))
        return replace(
            self,
            min_sqnr_db=None if self.min_sqnr_db is None else min(self.min_sqnr_db, round(apart, 2)),
            max_noise_gain_db=None,
            min_fp64_sqnr_db=round(limit, 2),
            enough_fp64_sqnr_db=None,
        )

    def failures(self, agreement: Agreement) -> list[str]:
        """One sentence per threshold that is not reached; empty when the gate holds."""
        messages = [] if agreement.finite else ["the candidate's logits are not finite"]
        floors = [
            ("Dice with the reference of " + name, value, self.min_dice) for name, value in agreement.dice.items()
        ]
        floors += [
            ("SQNR in dB", agreement.sqnr_db, self.min_sqnr_db),
            ("label match", agreement.label_match, self.min_label_match),
        ]
        if agreement.fp64_sqnr_db is not None:
            own = f" (of the reference itself: {agreement.reference_fp64_sqnr_db:.6g})"
            floors += [(f"SQNR from FP64 in dB{own}", agreement.fp64_sqnr_db, self.min_fp64_sqnr_db)]
        ceilings = [
            ("volume change in % of " + name, abs(value), self.max_volume_change_percent)
            for name, value in agreement.volume_change_percent.items()
        ]
        ceilings += [("largest difference of two logits", agreement.max_abs, self.max_abs)]
        shares = agreement.true_dice_share or {}
        if self.min_true_dice_share is not None or self.max_true_dice_share is not None:
            messages += [
                f"{name} has no share of the reference's true Dice: the reference has nothing of it right"
                for name, share in shares.items()
                if math.isnan(share)
            ]
        for name, share in shares.items():
            if math.isnan(share):
                continue
            figure = _true_dice(agreement, name)
            floors += [(figure, share, self.min_true_dice_share)]
            ceilings += [(figure, share, self.max_true_dice_share)]
        # `not >=` rather than `<`, so that a figure which is not a number fails.
        messages += [
            f"{name} is {value:.6g}, below {floor:g}"
            for name, value, floor in floors
            if floor is not None and not value >= floor
        ]
        messages += [
            f"{name} is {value:.6g}, above {top:g}"
            for name, value, top in ceilings
            if top is not None and not value <= top
        ]
        return messages

    @property
    def text(self) -> str:
        """What is asked, for people."""
        return gate_text(self.to_json())

    def to_json(self) -> dict[str, float]:
        """Only what was asked."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def _true_dice(agreement: Agreement, name: str) -> str:
    before, after = agreement.reference_dice or {}, agreement.candidate_dice or {}
    return f"share of the reference's true Dice of {name} ({after[name]:.6f} of {before[name]:.6f})"


@dataclass
class LogitsDistance:
    """A running distance of two streams of logits: memory does not grow with the scan.

    Attributes:
        max_abs: largest difference so far.
        signal: sum of the reference's squares.
        noise: sum of the difference's squares.
        finite: whether every difference was a finite number.
        count: logits compared.
    """

    max_abs: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    finite: bool = True
    count: int = field(default=0)

    def add(self, reference: Array, candidate: Array) -> None:
        """Count two arrays of the same shape.

        Raises:
            ShapeError: when the shapes differ.
        """
        if reference.shape != candidate.shape:
            raise ShapeError(
                f"logits of shape {candidate.shape}",
                expected=f"the reference's {reference.shape}",
                hint="compare two artifacts of one checkpoint",
            )
        expected = reference.astype(np.float64)
        with np.errstate(invalid="ignore"):  # two infinities: not a number, which `finite` then says
            difference = candidate.astype(np.float64) - expected
        self.finite = self.finite and bool(np.isfinite(difference).all())
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0))) if self.finite else math.inf
        self.signal += float((expected**2).sum())
        self.noise += float((difference**2).sum())
        self.count += reference.size

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in dB; -inf when the candidate is not finite."""
        if not self.finite:
            return -math.inf
        if self.noise == 0.0:
            return IDENTICAL_DB
        # Two logarithms: the quotient could underflow to 0.
        return min(IDENTICAL_DB, 10.0 * (math.log10(max(self.signal, 1e-300)) - math.log10(self.noise)))


def of_labels(reference: Array, candidate: Array, meaning: Meaning, distance: LogitsDistance) -> Agreement:
    """The agreement of two arrays of labels (D, H, W) whose logits' distance is known.

    Args:
        reference: the labels that count as right.
        candidate: the labels that are judged.
        meaning: of their values.
        distance: of the logits of all voxels.

    Raises:
        ShapeError: when the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ShapeError(
            f"labels of shape {candidate.shape}",
            expected=f"the reference's {reference.shape}",
            hint="compare on one scan",
        )
    flips = int(np.count_nonzero(reference != candidate))
    change, counts = {}, meaning.counts(candidate)
    for name, before in meaning.counts(reference).items():
        after = counts[name]
        change[name] = 100.0 * (after - before) / before if before else (0.0 if after == 0 else math.inf)
    dice = dice_per_label(reference, candidate, meaning)
    return Agreement(
        max_abs=distance.max_abs,
        sqnr_db=distance.sqnr_db,
        label_match=1.0 - flips / reference.size,
        dice=dice,
        volume_change_percent=change,
        boundary_flips=_boundary_flips(reference, candidate, meaning) if flips else 0,
        flips=flips,
        finite=distance.finite,
        absent=tuple(name for name in meaning.structures if name not in dice),
    )


def dice_per_label(first: Array, second: Array, meaning: Meaning) -> dict[str, float]:
    """Dice of every label but the background, or of every region; one that is in neither array has none, and no key."""
    scores = {}
    for (name, a), (_, b) in zip(meaning.masks(first), meaning.masks(second), strict=True):
        if total := int(a.sum()) + int(b.sum()):
            scores[name] = 2.0 * int((a & b).sum()) / total
    return scores


def true_dice(truth: Array, labels: Array, meaning: Meaning, names: Collection[str] | None = None) -> dict[str, float]:
    """Dice with true labels, of every label or region that these have: of no other is there a truth to reach.

    Args:
        truth: the true labels.
        labels: those that are judged, of the same shape.
        meaning: of both.
        names: of some labels or regions; None for all.
    """
    wanted = meaning.seen(truth) & set(meaning.structures if names is None else names)
    return {name: value for name, value in dice_per_label(truth, labels, meaning).items() if name in wanted}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _boundary_flips(reference: Array, candidate: Array, meaning: Meaning) -> int:
    if not meaning.overlapping:
        return int(((reference != candidate) & boundary(reference)).sum())
    # Bit by bit at once: which regions differ, and which of them have no boundary at the voxel.
    flipped = reference ^ candidate
    inside = flipped & ~_boundary_bits(reference)
    return int(((flipped != 0) & (inside == 0)).sum())


def boundary(labels: Array) -> npt.NDArray[np.bool_]:
    """Voxels that differ from one of their neighbours along an axis."""
    edge = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        ahead = np.moveaxis(labels, axis, 0)
        view = np.moveaxis(edge, axis, 0)
        step = ahead[1:] != ahead[:-1]
        view[1:] |= step
        view[:-1] |= step
    return edge


def _boundary_bits(regions: Array) -> Array:
    """Per voxel the bits that differ from one of its neighbours along an axis."""
    edge = np.zeros_like(regions)
    for axis in range(regions.ndim):
        ahead, view = np.moveaxis(regions, axis, 0), np.moveaxis(edge, axis, 0)
        step = ahead[1:] ^ ahead[:-1]
        view[1:] |= step
        view[:-1] |= step
    return edge
