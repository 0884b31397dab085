"""Choice: what the network will expect, from what the user wishes and what the scans are like."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from medattn_edge import gates
from medattn_edge.errors import CheckpointError, UsageError
from medattn_edge.models import construct, network_record
from medattn_edge.models.network import Network, SegmentationNetwork
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.spec.orientation import patient_axes
from medattn_edge.training.cases import Case, Label

AIR_HU = gates.HOUNSFIELD.limits["air_hu"]  # a scan with values below it is taken for a CT in HU
CT_WINDOW = Intensity.window(-1000.0, 400.0)


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Attributes:
        network: The name of its record.
        config: Settings of the network that are not its defaults.
        patch: (H, W) or (D, H, W) in the network's axes; None for its usual one, but no larger than the scans.
        spacing: mm in volume order; None for the median of the scans, () for as scanned.
        intensity: None to choose.
        orientation: where W, H and D of what the network sees run to; a 2-D network sees slices along D.
        modality: as DICOM names it; empty: CT where the values say so, else not said.
    """

    network: str
    config: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    intensity: Intensity | None = None
    orientation: str = "LPS"
    modality: str = ""


def choose_spec(cases: Sequence[Case], labels: Sequence[Label], wishes: Wishes) -> tuple[ModelSpec, list[str]]:
    """The spec to train, and one sentence for each thing that was chosen and not wished.

    Raises:
        UsageError: The network, a setting or a size cannot be.
    """
    record = network_record(wishes.network)
    outputs, channels = len(labels) + 1, cases[0].scan.channels
    settings = _settings(record, wishes.config)
    blank = _unbuilt(record, settings, channels, outputs)
    patient_axes(wishes.orientation)
    remarks: list[str] = []
    modality = wishes.modality
    if not modality:
        modality, why = _modality(cases)
        remarks.append(f"modality {modality or 'unknown'}: {why}")
    intensity = wishes.intensity
    if intensity is None:
        intensity, why = _intensity(record, cases)
        remarks.append(f"intensity {intensity}: {why}")
    spacing = wishes.spacing or None
    if wishes.spacing is None:
        spacing = _median_spacing(cases, len(blank.stride), wishes.orientation)
        shown = (
            "x".join(f"{mm:g}" for mm in spacing) + " mm: the scans' median" if spacing else "as scanned: no mm known"
        )
        remarks.append(f"spacing {shown}")
    spec = ModelSpec(
        network=record.name,
        in_channels=channels,
        labels=("background", *(label.name for label in labels)),
        patch=wishes.patch or tuple(max(pair) for pair in zip(blank.stride, blank.minimum, strict=True)),
        stride=blank.stride,
        spacing=spacing,
        intensity=intensity,
        axes=record.axes,
        config=settings,
        orientation=wishes.orientation,
        modality=modality,
    )
    if wishes.patch is None:
        spec = spec.with_patch(_patch(record.patch_for(settings), blank, spec, cases))
        remarks.append(f"patch {'x'.join(map(str, spec.patch))}: the network's usual one, within the scans")
    blank.check_shape(spec.patch)
    return spec, remarks


def _settings(record: Network, config: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(config) - set(record.settings))
    if unknown:
        raise UsageError(
            f"the settings {', '.join(unknown)} of {record.name}",
            expected=f"some of {', '.join(record.settings)}",
            hint=f"--set {next(iter(record.settings))}={next(iter(record.settings.values()))}",
        )
    return {**record.settings, **config}


def _unbuilt(record: Network, settings: dict[str, Any], channels: int, outputs: int) -> SegmentationNetwork:
    """The network without memory for its weights, to ask for its stride."""
    try:
        with torch.device("meta"):
            return construct(record, settings, channels, outputs)
    except CheckpointError as error:  # there is no checkpoint yet: the settings were typed
        raise UsageError(error.found, expected=error.expected, hint=error.hint) from error


def _intensity(record: Network, cases: Sequence[Case]) -> tuple[Intensity, str]:
    if record.intensity != Intensity():
        return record.intensity, f"what {record.name} was published with"
    lowest = min(float(case.scan.voxels.min()) for case in cases)
    if lowest < AIR_HU:
        return CT_WINDOW, f"values down to {lowest:g}, so this is a CT"
    return Intensity.parse("zscore"), f"values from {lowest:g}, so this is no CT"


def _modality(cases: Sequence[Case]) -> tuple[str, str]:
    """CT where every scan has the values of one: another modality cannot be told from values."""
    lowest = max(float(case.scan.voxels.min()) for case in cases)
    if lowest < AIR_HU:
        return "CT", f"every scan has values down to {lowest:g}"
    return "", "the files do not say it, so scans of any will be taken; --modality MR says it"


def _median_spacing(cases: Sequence[Case], dims: int, orientation: str) -> tuple[float, ...] | None:
    """The scans' in mm in volume order, (y, x) or (z, y, x); None when a scan does not know its own."""
    if not all(case.scan.calibrated for case in cases):
        return None
    grids = zip(*(case.scan.oriented(orientation).spacing for case in cases), strict=True)
    return tuple(statistics.median(axis) for axis in grids)[-dims:]


def _patch(
    usual: tuple[int, ...], blank: SegmentationNetwork, spec: ModelSpec, cases: Sequence[Case]
) -> tuple[int, ...]:
    """The usual patch, but on no axis larger than the smallest scan at the spec's spacing, rounded down."""
    patch = []
    for axis, (size, step, minimum) in enumerate(zip(usual, blank.stride, blank.minimum, strict=True)):
        volume_axis = "DHW".index(spec.axes[axis])
        sizes = []
        for case in cases:
            seen = case.scan.oriented(spec.orientation)
            first = 3 - spec.dims
            mm = spec.spacing[volume_axis - first] if spec.spacing else seen.spacing[volume_axis]
            sizes.append(round(seen.shape[volume_axis] * seen.spacing[volume_axis] / mm))
        patch.append(max(-(-minimum // step) * step, min(size, *sizes) // step * step))
    return tuple(patch)
