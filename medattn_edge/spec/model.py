"""ModelSpec: what a network expects and what its outputs mean. It travels with every file made from a checkpoint."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from medattn_edge.errors import InputError, UsageError
from medattn_edge.installation import upgrade_line
from medattn_edge.spec.intensity import Intensity
from medattn_edge.spec.orientation import patient_axes, plane_of
from medattn_edge.spec.postprocessing import Cleanup

ACTIVATIONS = ("softmax", "sigmoid")
MOST_REGIONS = 32  # a voxel of a sigmoid network holds a bit for each
OVERLAP = 0.5  # of the windows of a network that says no other: nnU-Net's
_CODES = '{"liver": ["10200004", "SCT", "Liver"]}'


class Code(NamedTuple):
    """A concept of a coding scheme, as DICOM writes it: ("10200004", "SCT", "Liver").

    value and scheme have at most 16 characters, meaning at most 64; none is empty or has a backslash.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class ModelSpec:
    """What a network expects, and what its outputs mean.

    Attributes:
        network: the name of its NETWORK record.
        in_channels: C of the input patches.
        labels: with softmax one name per label value, index 0 being the background; the network has K = len(labels)
            outputs, except that a single output (K = 1) with two labels is a logit of label 1 (> 0 means 1). With
            sigmoid one name per output: regions that may overlap, no background among them.
        patch: the spatial size of one input, (H, W) or (D, H, W), in the network's own axis order (see axes).
        stride: every spatial size must be a multiple of it; same length as patch.
        spacing: mm, same length and order (y, x) or (z, y, x) in volume order, or None: as scanned.
        intensity: how stored values become network input.
        axes: order of the oriented volume's axes in the network's tensor: "HW" or "WH" (2-D, slices along D), or a
            permutation of "DHW".
        outputs: K.
        config: the network's own settings (JSON values).
        codes: what labels are in the patient, by label name; for a label without one, `io.dicom.anatomy` knows common
            organs.
        orientation: where the axes W, H and D of the oriented volume run to, as NIfTI tools write it for i, j and k:
            LPS is DICOM's, RAS is what MONAI's pipelines use most. A 2-D network sees slices along D.
        activation: `softmax` (labels exclude each other) or `sigmoid` (regions may overlap).
        region_order: of a sigmoid network, the order in which regions are written into one label map: later ones over
            earlier ones (whole tumour, tumour core, enhancing tumour). Empty: no label map is made.
        cleanup: what is done to the labels after the network, in order.
        mirror: axes of the volume that are mirrored too, the logits being averaged (test-time augmentation): some of
            "DHW". Each doubles the work.
        modality: DICOM's name of what it was trained on, such as CT or MR; empty: not said.
        body_part: what part of the body it was trained on, as DICOM's BodyPartExamined says it; empty: not said.
        channels: names of the input channels, in order, such as t1, t1ce, t2, flair; empty: not said.
        overlap: of the neighbouring windows that a scan is covered with, as a fraction of the patch, from 0 to below 1.
    """

    network: str
    in_channels: int
    labels: tuple[str, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    intensity: Intensity = field(default_factory=Intensity)
    axes: str = ""
    outputs: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Code] = field(default_factory=dict)
    orientation: str = "LPS"
    activation: str = "softmax"
    region_order: tuple[str, ...] = ()
    cleanup: tuple[Cleanup, ...] = ()
    mirror: str = ""
    modality: str = ""
    body_part: str = ""
    channels: tuple[str, ...] = ()
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "config", MappingProxyType(dict(self.config)))
        set_(self, "codes", MappingProxyType(_codes(self.codes)))
        for name in ("labels", "region_order", "cleanup", "channels"):
            set_(self, name, tuple(getattr(self, name)))
        for name in ("patch", "stride"):
            set_(self, name, tuple(map(operator.index, getattr(self, name))))  # 96.0 is no size: TypeError
        if self.spacing is not None:
            set_(self, "spacing", tuple(float(value) for value in self.spacing))
        if not self.axes:
            set_(self, "axes", "HW" if len(self.patch) == 2 else "DHW")
        if not self.outputs:
            set_(self, "outputs", len(self.labels))
        self._check()

    def _check(self) -> None:
        dims = len(self.patch)
        orders = ["".join(order) for order in itertools.permutations("HW" if dims == 2 else "DHW")]
        if dims not in (2, 3) or len(self.stride) != dims or min(self.stride) < 1 or self.axes not in orders:
            raise UsageError(
                f"patch {self.patch}, stride {self.stride} and axes {self.axes!r} do not fit together",
                expected="2 or 3 sizes, as many strides of at least 1, axes HW, WH or a permutation of DHW",
                hint="--patch 256x256 or --patch 96x96x96",
            )
        if self.spacing is not None and (
            len(self.spacing) != dims or not all(0 < mm < math.inf for mm in self.spacing)
        ):
            raise UsageError(
                f"the spacing {self.spacing} does not fit a {dims}-D network",
                expected=f"{dims} positive sizes in mm",
                hint="--spacing " + "x".join(["1.5"] * dims),
            )
        patient_axes(self.orientation)
        self._check_labels()
        if unknown := sorted(set(self.codes) - set(self.structures)):
            raise UsageError(
                f"codes for {', '.join(map(repr, unknown))}",
                expected=f"codes for some of the labels {', '.join(self.structures)}",
                hint="spell them as the labels, and leave the background out",
            )
        check_patch(self.patch, self.stride)
        self._check_after()

    def _check_labels(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"the activation {self.activation!r}",
                expected=f"one of {', '.join(ACTIVATIONS)}",
                hint="--activation sigmoid for regions that may overlap",
            )
        overlapping = self.activation == "sigmoid"
        least, most = (1, MOST_REGIONS) if overlapping else (2, 65536)
        if len(self.labels) != len(set(self.labels)) or not least <= len(self.labels) <= most:
            raise UsageError(
                f"the labels {list(self.labels)} cannot be used",
                expected=f"1 to {MOST_REGIONS} regions, each name once"
                if overlapping
                else "background and at least one more, each name once",
                hint="--labels whole_tumor,tumor_core" if overlapping else "--labels background,right_lung",
            )
        if overlapping and self.outputs != len(self.labels):
            raise UsageError(
                f"{self.outputs} network outputs for the {len(self.labels)} regions {list(self.labels)}",
                expected="one name per output, no background among them",
                hint="--labels " + ",".join(f"region_{k}" for k in range(1, min(self.outputs, 8) + 1)),
            )
        if not overlapping and self.outputs != len(self.labels) and (self.outputs, len(self.labels)) != (1, 2):
            raise UsageError(
                f"{self.outputs} network outputs for the {len(self.labels)} labels {list(self.labels)}",
                expected="one label name per output, the background first",
                hint="--labels "
                + ",".join(["background", *(f"class_{k}" for k in range(1, min(max(self.outputs, 2), 9)))]),
            )
        if self.region_order and (not overlapping or sorted(self.region_order) != sorted(self.labels)):
            raise UsageError(
                f"the order {', '.join(self.region_order)} of regions",
                expected=f"each of {', '.join(self.labels)} once" if overlapping else "a sigmoid network's regions",
                hint=f"--region-order {','.join(self.labels)}" if overlapping else "leave it out",
            )

    def _check_after(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UsageError(f"an overlap of {self.overlap:g}", expected="0 <= overlap < 1", hint="--overlap 0.5")
        if unknown := [str(step) for step in self.cleanup if step.label not in ("*", *self.structures)]:
            raise UsageError(
                f"the step {unknown[0]} for a label that the network does not find",
                expected=f"one of {', '.join(self.structures)}, or *",
                hint=f"--after largest:{self.structures[0]}",
            )
        if len(set(self.mirror)) != len(self.mirror) or set(self.mirror) - set(self.axes):
            raise UsageError(
                f"mirroring along {self.mirror!r}", expected=f"some of the axes {self.axes}", hint="--mirror W"
            )
        if len(self.intensity.chains) not in (1, self.in_channels):
            raise UsageError(
                f"an intensity for {len(self.intensity.chains)} channels of a network with {self.in_channels}",
                expected="one chain for all channels, or one for each",
                hint="--intensity 'zscore;zscore' has two",
            )
        if self.channels and len(set(self.channels)) != self.in_channels:
            raise UsageError(
                f"the channels {', '.join(self.channels)} of a network with {self.in_channels}",
                expected="one name per input channel, each once",
                hint="--channels t1,t1ce,t2,flair",
            )

    @property
    def structures(self) -> tuple[str, ...]:
        """The names of what the network finds: its labels without the background, or its regions."""
        return self.labels if self.overlapping else self.labels[1:]

    @property
    def overlapping(self) -> bool:
        """Whether regions may overlap, so that a voxel has a bit for each and not one label."""
        return self.activation == "sigmoid"

    @property
    def plane(self) -> str:
        """The plane of the slices that a 2-D network sees: axial, coronal or sagittal; empty for a 3-D network."""
        return plane_of(self.orientation) if self.dims == 2 else ""

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch)

    def with_patch(self, patch: tuple[int, ...]) -> ModelSpec:
        """The same spec for another patch size; raises UsageError when the network cannot take it."""
        return replace(self, patch=tuple(patch))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse.

        Without codes there is no such key, nor without an overlap of its own: older versions read it.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["codes"] = {name: list(code) for name, code in self.codes.items()}
        if not self.codes:
            del values["codes"]
        if self.overlap == OVERLAP:
            del values["overlap"]
        values["intensity"] = str(self.intensity)
        values["cleanup"] = [str(step) for step in self.cleanup]
        values["config"] = dict(self.config)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """From `to_json`; unknown fields, written by a newer version, are refused."""
        known = {item.name for item in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known:
            surplus = sorted(set(values) - known) if isinstance(values, Mapping) else values
            raise InputError(
                f"a spec with the unknown fields {surplus}",
                expected=f"only {sorted(known)}",
                hint=upgrade_line(),
            )
        try:
            _check_kinds(values)
            intensity = Intensity.from_json(values.get("intensity", "none"))
            cleanup = tuple(map(Cleanup.parse, values.get("cleanup", ())))
            return cls(**{**values, "intensity": intensity, "cleanup": cleanup})
        except (TypeError, KeyError, ValueError, AttributeError, UsageError) as error:
            what = error.message if isinstance(error, UsageError) else error
            raise InputError(
                f"a spec that cannot be read: {what}",
                expected="the spec of a medattn-edge file",
                hint="export the checkpoint again",
            ) from error


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Raise TypeError for lists of names that are none, which Python would take apart letter by letter, and such."""
    for name in ("labels", "region_order", "cleanup", "channels"):
        names = values.get(name, [])
        if not isinstance(names, list | tuple) or not all(isinstance(text, str) for text in names):
            raise TypeError(f"{name} is {names!r}, not a list of names")
    for name in ("network", "axes", "orientation", "activation", "mirror", "modality", "body_part"):
        if not isinstance(values.get(name, ""), str):
            raise TypeError(f"{name} is {values[name]!r}, not a text")
    if not isinstance(values.get("config", {}), Mapping):
        raise TypeError(f"config is {values['config']!r}, not settings by name")
    spacing = values.get("spacing") or ()
    if isinstance(spacing, str) or any(isinstance(mm, str | bool) for mm in spacing):
        raise TypeError(f"spacing is {spacing!r}, not numbers")
    overlap = values.get("overlap", OVERLAP)
    if not isinstance(overlap, int | float) or isinstance(overlap, bool):
        raise TypeError(f"overlap is {overlap!r}, not a number")
    for name in ("in_channels", "outputs"):
        if name in values and (not isinstance(values[name], int) or isinstance(values[name], bool)):
            raise TypeError(f"{name} is {values[name]!r}, not a whole number")


def _codes(codes: Mapping[str, Sequence[str]]) -> dict[str, Code]:
    """Codes by label name; raises UsageError for what is no code or cannot be written in DICOM."""
    if not isinstance(codes, Mapping):
        raise UsageError(f"the codes {codes!r}", expected="a code for each of some labels", hint=_CODES)
    for name, parts in codes.items():
        texts = isinstance(parts, list | tuple) and len(parts) == 3 and all(isinstance(part, str) for part in parts)
        if not texts or not all(
            0 < len(part.strip()) <= limit and len(part) <= limit and part.isprintable() and "\\" not in part
            for part, limit in zip(parts, (16, 16, 64), strict=True)
        ):
            raise UsageError(
                f"the code {parts!r} of {name!r}",
                expected="value and scheme of 1 to 16 characters and a meaning of 1 to 64, without backslashes",
                hint=_CODES,
            )
    return {name: Code(*parts) for name, parts in codes.items()}


def check_patch(patch: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Raise UsageError, naming the nearest usable size, unless every size is a positive multiple of its stride."""
    if len(patch) != len(stride):
        raise UsageError(
            f"the patch {_times(patch)} has {len(patch)} sizes",
            expected=f"{len(stride)} sizes",
            hint="--patch " + _times(tuple(16 * step for step in stride)),
        )
    if any(size < 1 or size % step for size, step in zip(patch, stride, strict=True)):
        raise UsageError(
            f"the network cannot take the patch {_times(patch)}",
            expected=f"multiples of {_times(stride)}",
            hint=f"--patch {_times(nearest_patch(patch, stride))}",
        )


def nearest_patch(patch: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The nearest size, rounding half up, whose every axis is a positive multiple of its stride."""
    return tuple(max(1, (2 * size + step) // (2 * step)) * step for size, step in zip(patch, stride, strict=True))


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
