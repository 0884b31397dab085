"""What a report is made of: plain records, each of which says itself as JSON values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from medattn_edge.release.reports import REPORT_KIND, REPORT_SCHEMA


class _Plain:
    """A record whose JSON values are those of its fields."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a figure that is not finite becomes null."""
        return {item.name: plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """A value as JSON has it: records as objects, pictures as their hash, what is not finite as null."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        return value.to_json() if hasattr(value, "to_json") else plain(vars(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Check(_Plain):
    """One thing that was asked before the run.

    Attributes:
        name: what is asked.
        verdict: pass or fail.
        criterion: the limits, in words.
        outcome: what came out, in one sentence.
        failures: one sentence for each limit that is not reached.
    """

    name: str
    verdict: str
    criterion: str
    outcome: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class SurfaceFigures(_Plain):
    """How far two surfaces of one structure are apart; see `evidence.surfaces`.

    Attributes:
        hd95: 95th percentile of the Hausdorff distance in mm, in pixels where there are no millimetres; None when one
            of the two has no voxel.
        surface_dice_1_voxel: share of both surfaces within 1 voxel of the other.
        surface_dice_2_mm: within 2 mm; None also where there are no millimetres.
    """

    hd95: float | None
    surface_dice_1_voxel: float | None
    surface_dice_2_mm: float | None


@dataclass(frozen=True)
class StructureFigures(_Plain):
    """One label, or region, of one case.

    Attributes:
        label: its name.
        not_judged: why no gate holds it, empty when one does.
        dice: Dice with the reference; None where neither has a voxel of it.
        reference_dice: the reference's true Dice; None without true labels of it.
        candidate_dice: the candidate's true Dice, likewise.
        true_dice_share: the candidate's over the reference's.
        reference_volume: in ml, in voxels where there are no millimetres.
        candidate_volume: likewise.
        volume_change_percent: of the reference's.
        to_reference: the candidate's surface beside the reference's.
        to_truth: the candidate's surface beside the true one; None without true labels.
        reference_to_truth: the reference's surface beside the true one, likewise.
    """

    label: str
    not_judged: str
    dice: float | None
    reference_dice: float | None
    candidate_dice: float | None
    true_dice_share: float | None
    reference_volume: float
    candidate_volume: float
    volume_change_percent: float | None
    to_reference: SurfaceFigures
    to_truth: SurfaceFigures | None = None
    reference_to_truth: SurfaceFigures | None = None


@dataclass(frozen=True)
class CaseRun(_Plain):
    """One artifact in one runtime on one case.

    Attributes:
        artifact: its file name.
        backend: the runtime.
        verdict: pass or fail.
        failures: one sentence for each limit that is not reached.
        sqnr_db: of the logits.
        max_abs: the largest difference of two logits.
        label_match: the fraction of voxels with the same label.
        flips: voxels with another label.
        boundary_flips: those within one voxel of a boundary of the reference.
        boundary_share: boundary_flips over flips; None where there are no flips.
        labels: the figures of every structure.
    """

    artifact: str
    backend: str
    verdict: str
    failures: tuple[str, ...]
    sqnr_db: float | None
    max_abs: float | None
    label_match: float
    flips: int
    boundary_flips: int
    boundary_share: float | None
    labels: tuple[StructureFigures, ...]


@dataclass(frozen=True)
class Case(_Plain):
    """One scan.

    Attributes:
        name: "case 1"; the scan's own name only where that was asked for.
        voxels_sha256: of the voxels and their affine as they were read, so that who has the scan can find it.
        shape: (D, H, W).
        spacing: between voxel centres along (D, H, W), in `unit`.
        unit: mm, or pixel where the file has no spacing.
        runs: of every artifact in every runtime that finished the scan.
    """

    name: str
    voxels_sha256: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    runs: tuple[CaseRun, ...] = ()


@dataclass(frozen=True)
class VolumeAgreement(_Plain):
    """Bland and Altman's agreement of one structure's volumes over all cases.

    Attributes:
        artifact: its file name.
        backend: the runtime.
        label: the structure.
        unit: ml, or voxels.
        reference: volumes of the reference, a case each.
        candidate: volumes of the candidate.
        bias: mean of candidate minus reference.
        limits: bias minus and plus 1.96 standard deviations of the differences (n - 1).
        bias_percent: mean of the differences in percent of the mean of both.
    """

    artifact: str
    backend: str
    label: str
    unit: str
    reference: tuple[float, ...]
    candidate: tuple[float, ...]
    bias: float
    limits: tuple[float, float]
    bias_percent: float


@dataclass(frozen=True)
class LayerFigure(_Plain):
    """What one layer does to the logits, or to its own output.

    Attributes:
        artifact: file name.
        layer: the PyTorch module, or the node where that is not known.
        precision: that it is computed in.
        sqnr_db: in dB.
        measured: what the SQNR is of, in words.
    """

    artifact: str
    layer: str
    precision: str
    sqnr_db: float
    measured: str


@dataclass(frozen=True)
class RejectedCandidate(_Plain):
    """A candidate that lost.

    Attributes:
        name: what it was.
        reason: why it lost, in one sentence.
        figures: name -> figure, what was measured of it.
    """

    name: str
    reason: str
    figures: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Overlay(_Plain):
    """One slice as the reference and a candidate see it.

    Attributes:
        case: its name.
        artifact: file name.
        backend: the runtime.
        plane: which cut it is, in words.
        flips: voxels of the slice with another label.
        reference: a PNG picture.
        candidate: a PNG picture.
        difference: a PNG picture.
    """

    case: str
    artifact: str
    backend: str
    plane: str
    flips: int
    reference: bytes
    candidate: bytes
    difference: bytes


@dataclass(frozen=True)
class AttentionPair(_Plain):
    """One attention map, of the eager network and of an artifact.

    Attributes:
        title: which map of which case.
        eager: a PNG picture.
        candidate: a PNG picture.
        agreement: name -> figure, of the two maps.
    """

    title: str
    eager: bytes
    candidate: bytes
    agreement: Mapping[str, float]


@dataclass(frozen=True)
class NotMeasured(_Plain):
    """What a reader might look for and not find.

    Attributes:
        what: in words.
        reason: why.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class Evidence(_Plain):
    """What is known of artifacts beside their reference.

    Attributes:
        sentence: what this is evidence of, in one sentence.
        checks: what was asked, and what came out; all of them have to pass.
        reference: `name` and `sha256` of the reference.
        artifacts: file name -> network, labels, precision, SHA-256, lineage, calibration, thresholds, rewrites, target
            and tools, as `release.artifacts.describe` has them.
        runs: every artifact in every runtime: `artifact`, `backend`, `verdict`, `failures`, `thresholds`, `gate`.
        environment: CPU, instruction sets, versions.
        cases: one for each scan.
        volumes: Bland and Altman's agreement.
        layers: SQNR by layer.
        latency: `rows` of `bench` with their `samples_ms`, `left_out`, and `deadline_ms`; None where nothing was timed.
        overlays: of the worst slices.
        attention: pairs of maps.
        candidates: those that lost.
        not_measured: what is not in this report.
        notes: what a reader of the figures should know.
    """

    sentence: str
    checks: tuple[Check, ...]
    reference: Mapping[str, Any]
    artifacts: Mapping[str, Mapping[str, Any]]
    runs: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, Any]
    cases: tuple[Case, ...]
    volumes: tuple[VolumeAgreement, ...] = ()
    layers: tuple[LayerFigure, ...] = ()
    latency: Mapping[str, Any] | None = None
    overlays: tuple[Overlay, ...] = ()
    attention: tuple[AttentionPair, ...] = ()
    candidates: tuple[RejectedCandidate, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return bool(self.checks) and all(check.verdict == "pass" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The document of report.json, with the schema's version; of pictures the SHA-256."""
        head = {"kind": REPORT_KIND, "schema": REPORT_SCHEMA, "verdict": "pass" if self.passed else "fail"}
        return {**head, **super().to_json()}
