"""ModelSpec: what a network expects and what its outputs mean. It travels with every file made from a checkpoint."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from medattn_edge.errors import InputError, UsageError

INTENSITY_KINDS = ("window", "zscore", "minmax", "none")
INTENSITY_SCOPES = ("volume", "slice")
_CODES = '{"liver": ["10200004", "SCT", "Liver"]}'


class Code(NamedTuple):
    """A concept of a coding scheme, as DICOM writes it: ("10200004", "SCT", "Liver").

    None is empty or has a backslash.

    Attributes:
        value: at most 16 characters.
        scheme: at most 16 characters.
        meaning: at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Intensity:
    """How stored values become network input.

    Attributes:
        kind: `window` clips to [low, high] and maps it to [0, 1] (CT: HU); `zscore` subtracts the mean and divides by
            the standard deviation; `minmax` maps the smallest value to 0 and the largest to 1; `none` changes nothing.
        low: of the window, in the scan's own units.
        high: of the window.
        scope: where zscore and minmax take their statistics: the whole `volume`, or each axial `slice` by itself.

    Raises:
        UsageError: for a kind, a scope or a window that cannot be used.
    """

    kind: str = "none"
    low: float = 0.0
    high: float = 1.0
    scope: str = "volume"

    def __post_init__(self) -> None:
        if self.kind not in INTENSITY_KINDS or self.scope not in INTENSITY_SCOPES:
            raise UsageError(
                f"the intensity {self.kind!r} per {self.scope!r} is not known",
                expected=f"one of {', '.join(INTENSITY_KINDS)} per {' or '.join(INTENSITY_SCOPES)}",
                hint="window:-1000:400, zscore, minmax or minmax:slice",
            )
        if self.kind == "window" and not (
            math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        ):
            raise UsageError(
                f"the window {self.low:g}..{self.high:g} is empty or without end",
                expected="two numbers, low < high",
                hint="window:-1000:400",
            )

    @classmethod
    def parse(cls, text: str) -> Intensity:
        """From the command line's form: `window:LOW:HIGH`, `zscore[:slice]`, `minmax[:slice]`, `none`."""
        kind, *rest = text.split(":")
        try:
            if kind == "window" and len(rest) == 2:
                return cls("window", float(rest[0]), float(rest[1]))
        except ValueError:
            pass
        if kind == "window" or len(rest) > 1:
            raise UsageError(
                f"the intensity {text!r} cannot be read", expected="window:LOW:HIGH", hint="window:-1000:400"
            )
        return cls(kind, scope=rest[0] if rest else "volume")

    def __str__(self) -> str:
        """The command line's form, which `parse` reads."""
        if self.kind == "window":
            return f"window:{self.low:g}:{self.high:g}"
        return self.kind + (":slice" if self.scope == "slice" else "")


@dataclass(frozen=True)
class ModelSpec:
    """What a network expects.

    Attributes:
        network: the name of its NETWORK record.
        in_channels: C of the input patches.
        labels: one name per label value; index 0 is the background.
        patch: the spatial size of one input, (H, W) or (D, H, W), in the network's own axis order (see axes).
        stride: every spatial size must be a multiple of it, same length as patch.
        spacing: mm, same length and order (y, x) or (z, y, x) in volume order, or None: as scanned.
        intensity: how stored values become network input.
        axes: order of the volume's axes in the network's tensor: "HW" (2-D, axial slices), or a permutation of "DHW".
        outputs: K, the channels of the logits: len(labels), or 1 with two labels: a logit of label 1 (> 0 means 1).
        config: that network's own settings (JSON values).
        codes: what labels are in the patient, by label name; for a label without one, `io.dicom.anatomy` knows common
            organs.

    Raises:
        UsageError: for values that do not fit together.
    """

    network: str
    in_channels: int
    labels: tuple[str, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    intensity: Intensity = Intensity()
    axes: str = ""
    outputs: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Code] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "config", MappingProxyType(dict(self.config)))
        set_(self, "codes", MappingProxyType(_codes(self.codes)))
        set_(self, "labels", tuple(self.labels))
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
        orders = ["HW"] if dims == 2 else ["".join(order) for order in itertools.permutations("DHW")]
        if dims not in (2, 3) or len(self.stride) != dims or min(self.stride) < 1 or self.axes not in orders:
            raise UsageError(
                f"patch {self.patch}, stride {self.stride} and axes {self.axes!r} do not fit together",
                expected="2 or 3 sizes, as many strides of at least 1, axes HW or a permutation of DHW",
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
        if len(self.labels) != len(set(self.labels)) or len(self.labels) < 2 or len(self.labels) > 65536:
            raise UsageError(
                f"the labels {list(self.labels)} cannot be used",
                expected="background and at least one more, each name once",
                hint="--labels background,right_lung",
            )
        if self.outputs != len(self.labels) and (self.outputs, len(self.labels)) != (1, 2):
            raise UsageError(
                f"{self.outputs} network outputs for the {len(self.labels)} labels {list(self.labels)}",
                expected="one label name per output, the background first",
                hint="--labels "
                + ",".join(["background", *(f"class_{k}" for k in range(1, min(max(self.outputs, 2), 9)))]),
            )
        if unknown := sorted(set(self.codes) - set(self.labels[1:])):
            raise UsageError(
                f"codes for {', '.join(map(repr, unknown))}",
                expected=f"codes for some of the labels {', '.join(self.labels[1:])}",
                hint="spell them as the labels, and leave the background out",
            )
        check_patch(self.patch, self.stride)

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch)

    def with_patch(self, patch: tuple[int, ...]) -> ModelSpec:
        """The same spec for another patch size.

        Raises:
            UsageError: when the network cannot take it.
        """
        return replace(self, patch=tuple(patch))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse. Without codes there is no such key: older versions read it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["codes"] = {name: list(code) for name, code in self.codes.items()}
        if not self.codes:
            del values["codes"]
        values["intensity"] = asdict(self.intensity)
        values["config"] = dict(self.config)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """From `to_json`.

        Raises:
            InputError: for unknown fields, which a newer version writes, and for values that cannot be used.
        """
        known = {item.name for item in fields(cls)}
        if not isinstance(values, Mapping) or set(values) - known:
            surplus = sorted(set(values) - known) if isinstance(values, Mapping) else values
            raise InputError(
                f"a spec with the unknown fields {surplus}",
                expected=f"only {sorted(known)}",
                hint="pip install --upgrade medattn-edge",
            )
        try:
            return cls(**{**values, "intensity": Intensity(**values.get("intensity", {}))})
        except (TypeError, KeyError, ValueError, UsageError) as error:
            what = error.message if isinstance(error, UsageError) else error
            raise InputError(
                f"a spec that cannot be read: {what}",
                expected="the spec of a medattn-edge file",
                hint="export the checkpoint again",
            ) from error


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
    """Check that every size is a positive multiple of its stride.

    Raises:
        UsageError: naming the nearest usable size, when one is not.
    """
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
