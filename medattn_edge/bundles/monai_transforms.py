"""MONAI's dictionary transforms -> what a spec says: one function for each transform that a spec has a place for.

Every argument of a transform is taken account of: it is read, it is known to change nothing here, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medattn_edge.bundles.monai_config import Component, Configuration
from medattn_edge.errors import InputError, quoted


@dataclass
class Pipeline:
    """What the transforms have said so far.

    Attributes:
        channels: C of the network.
        names: of its outputs.
        file: the configuration's name, for errors.
        orientation: MONAI's axcodes; empty: none was given.
        spacing: mm along W, H, D of the oriented volume.
        steps: of the intensity; each one text for all channels, or one for each.
        activation: softmax or sigmoid; empty: not said.
        discrete: argmax or threshold; empty: not said.
        cleanup: steps on the labels.
        inverted: whether the grid of the scan was restored.
        assumptions: where this house does a little otherwise than MONAI.
    """

    channels: int
    names: tuple[str, ...]
    file: str
    orientation: str = ""
    spacing: tuple[float, ...] | None = None
    steps: list[str | tuple[str, ...]] = field(default_factory=list)
    activation: str = ""
    discrete: str = ""
    cleanup: list[str] = field(default_factory=list)
    inverted: bool = False
    assumptions: list[str] = field(default_factory=list)

    @property
    def intensity(self) -> str:
        """In the spec's own form."""
        if all(isinstance(step, str) for step in self.steps):
            return ",".join(str(step) for step in self.steps) or "none"
        rows = [[step if isinstance(step, str) else step[c] for step in self.steps] for c in range(self.channels)]
        return ";".join(",".join(row) for row in rows)

    def joint(self, channel_wise: bool) -> str:
        """The scope of statistics."""
        return "" if channel_wise or self.channels == 1 else ":joint"


class Arguments:
    """The arguments of one transform, each to be asked for once.

    Args:
        component: the transform.
        configuration: where its references lead.
    """

    def __init__(self, component: Component, configuration: Configuration) -> None:
        self.component, self._configuration = component, configuration
        self._left = dict(component.arguments)

    def take(self, name: str, default: Any = None) -> Any:
        """The resolved value, with lists of one key's value shortened to it."""
        value = self._configuration.resolve(self._left.pop(name)) if name in self._left else default
        return value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(default, list) else value

    def sequence(self, name: str) -> list[Any]:
        """A resolved list."""
        value = self._configuration.resolve(self._left.pop(name)) if name in self._left else None
        return list(value) if isinstance(value, list | tuple) else [value]

    def ignore(self, *names: str) -> None:
        """Arguments that change nothing in what the network sees or says."""
        for name in names:
            self._left.pop(name, None)

    def only(self, name: str, *allowed: Any) -> None:
        """An argument that is known with these values alone; the first of them is the default."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise self.refused(f"{name}={value!r}", f"{name} {' or '.join(map(repr, allowed))}")

    def finish(self) -> None:
        """Raise InputError for an argument that nobody asked for."""
        if self._left:
            raise self.refused(f"{', '.join(self._left)}", "only arguments that a spec has a place for")

    def refused(self, what: str, expected: str) -> InputError:
        """The error that names the whole transform."""
        return InputError(
            f"the transform {self.component} has no place in a spec: {what}",
            expected=expected,
            hint="train or export without it, or take the checkpoint alone and say its spec by options",
        )


Reader = Callable[[Pipeline, Arguments], None]


def _nothing(pipeline: Pipeline, given: Arguments) -> None:
    given.only("dtype", None, "float32", "torch.float32")
    given.ignore("data_type", "device", "track_meta", "wrap_sequence")


def _load(pipeline: Pipeline, given: Arguments) -> None:
    given.only("dtype", None, "float32", "numpy.float32")
    given.only("reader", None, "NibabelReader", "nibabelreader")
    given.ignore("image_only", "ensure_channel_first", "simple_keys", "meta_keys", "meta_key_postfix", "overwriting")
    given.ignore("prune_meta_pattern", "prune_meta_sep", "expanduser")


def _channel_first(pipeline: Pipeline, given: Arguments) -> None:
    given.only("channel_dim", None, "no_channel", -1, 0)
    given.ignore("strict_check")


def _orientation(pipeline: Pipeline, given: Arguments) -> None:
    code = given.take("axcodes")
    given.only("as_closest_canonical", False)
    given.only("labels", None, [["L", "R"], ["P", "A"], ["I", "S"]])
    given.ignore("lazy")
    if pipeline.spacing is not None and len(set(pipeline.spacing)) > 1:
        raise given.refused(f"it comes after an uneven spacing {pipeline.spacing}", "Orientationd before Spacingd")
    if not isinstance(code, str):
        raise given.refused(f"axcodes={code!r}", "three letters such as RAS")
    pipeline.orientation = code


def _spacing(pipeline: Pipeline, given: Arguments) -> None:
    sizes = given.sequence("pixdim")
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not all(isinstance(mm, int | float) and 0 < mm < float("inf") for mm in sizes):
        raise given.refused(f"pixdim={sizes}", "three sizes in mm")
    if pipeline.steps:
        raise given.refused("it comes after intensities were changed", "Spacingd before the intensities")
    mode = given.take("mode", "bilinear")
    if mode not in ("bilinear", "trilinear", 1, 2, 3):
        raise given.refused(f"mode={mode!r}", "bilinear")
    given.only("diagonal", False)
    given.only("padding_mode", "border", "nearest", "zeros", "reflection")
    given.only("scale_extent", False)
    given.only("align_corners", False, True, None)
    given.ignore("dtype", "recompute_affine", "lazy", "ensure_same_shape")
    pipeline.spacing = tuple(map(float, sizes))
    how = "" if mode in ("bilinear", "trilinear", 1) else f" of order {mode}, which is linear here"
    pipeline.assumptions.append(
        f"scans of another spacing are resampled around their centre, by MONAI's Spacingd{how} from their first voxel"
    )


def _scale_range(pipeline: Pipeline, given: Arguments) -> None:
    low, high, to_low, to_high = (given.take(name) for name in ("a_min", "a_max", "b_min", "b_max"))
    clip = given.take("clip", False)
    given.only("dtype", "float32", "numpy.float32", None)
    if (to_low is None) != (to_high is None) or (clip and to_low is None) or None in (low, high):
        raise given.refused(f"b_min={to_low}, b_max={to_high}, clip={clip}", "b_min and b_max")
    to_low, to_high = (0, 1) if to_low is None else (to_low, to_high)
    pipeline.steps += _mapped(str(low), str(high), to_low, to_high, clip)


def _percentiles(pipeline: Pipeline, given: Arguments) -> None:
    low, high, to_low, to_high = (given.take(name) for name in ("lower", "upper", "b_min", "b_max"))
    clip, scope = given.take("clip", False), pipeline.joint(given.take("channel_wise", False))
    given.only("relative", False)
    given.only("dtype", "float32", "numpy.float32", None)
    if None in (low, high, to_low, to_high):
        raise given.refused(f"b_min={to_low}, b_max={to_high}", "four numbers")
    # MONAI clips what was mapped: clipped before, the percentiles would be measured on other values.
    pipeline.steps.append(f"map:{low}%:{high}%:{to_low}:{to_high}{scope}")
    if clip:
        pipeline.steps.append(f"clip:{min(to_low, to_high)}:{max(to_low, to_high)}")


def _normalize(pipeline: Pipeline, given: Arguments) -> None:
    mean, deviation = given.sequence("subtrahend"), given.sequence("divisor")
    nonzero, channel_wise = given.take("nonzero", False), given.take("channel_wise", False)
    given.only("dtype", "float32", "numpy.float32", None)
    if mean == [None] and deviation == [None]:
        scope = pipeline.joint(channel_wise)
        pipeline.steps.append(f"zscore{':nonzero' if nonzero else ''}{scope}")
        return
    if None in mean or None in deviation or nonzero or len(mean) != len(deviation):
        raise given.refused("given and measured values together", "subtrahend and divisor, over all voxels")
    pairs = tuple(f"normalize:{a}:{b}" for a, b in zip(mean, deviation, strict=True))
    if len(pairs) not in (1, pipeline.channels) or (len(pairs) > 1 and not channel_wise):
        raise given.refused(f"{len(pairs)} values", f"one, or channel_wise one for each of {pipeline.channels}")
    pipeline.steps.append(pairs[0] if len(pairs) == 1 else pairs)


def _scale(pipeline: Pipeline, given: Arguments) -> None:
    low, high = given.take("minv", 0.0), given.take("maxv", 1.0)
    scope = pipeline.joint(given.take("channel_wise", False))
    given.only("factor", None)
    given.only("dtype", "float32", "numpy.float32", None)
    if low is None or high is None:
        raise given.refused(f"minv={low}, maxv={high}", "two numbers")
    pipeline.steps.append(f"minmax{scope}")
    pipeline.steps += _mapped("0", "1", low, high, False) if (low, high) != (0, 1) else []


def _mapped(low: str, high: str, to_low: float, to_high: float, clip: bool) -> list[str]:
    if clip and (to_low, to_high) == (0, 1):
        return [f"window:{low}:{high}"]
    steps = [] if (float(low), float(high)) == (to_low, to_high) else [f"map:{low}:{high}:{to_low}:{to_high}"]
    return [*([f"clip:{low}:{high}"] if clip else []), *steps]


def _activations(pipeline: Pipeline, given: Arguments) -> None:
    softmax, sigmoid = given.take("softmax", False), given.take("sigmoid", False)
    given.only("other", None)
    if bool(softmax) == bool(sigmoid) or pipeline.activation:
        raise given.refused(f"softmax={softmax}, sigmoid={sigmoid}", "one of them, once")
    pipeline.activation = "softmax" if softmax else "sigmoid"


def _as_discrete(pipeline: Pipeline, given: Arguments) -> None:
    argmax, threshold = given.take("argmax", False), given.take("threshold")
    given.ignore("to_onehot", "dim", "keepdim", "dtype")
    given.only("rounding", None)
    if bool(argmax) == (threshold is not None) or (threshold is not None and threshold != 0.5):
        raise given.refused(f"argmax={argmax}, threshold={threshold}", "argmax, or a threshold of 0.5")
    pipeline.discrete = "argmax" if argmax else "threshold"


def _invert(pipeline: Pipeline, given: Arguments) -> None:
    given.ignore("transform", "orig_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix", "nearest_interp")
    given.ignore("to_tensor", "device", "post_func")
    pipeline.inverted = True
    if pipeline.discrete and pipeline.spacing is not None:
        pipeline.assumptions.append("logits are brought back to the scan's grid, by this bundle's Invertd their labels")


def _largest(pipeline: Pipeline, given: Arguments) -> None:
    applied = given.sequence("applied_labels")
    given.only("independent", True, *([False] if applied != [None] and len(applied) == 1 else []))
    given.only("connectivity", None, 3)
    given.only("num_components", 1)
    given.ignore("is_onehot")
    _clean(pipeline, given, "largest", applied)


def _fill_holes(pipeline: Pipeline, given: Arguments) -> None:
    applied = given.sequence("applied_labels")
    given.only("connectivity", None, 3)
    _clean(pipeline, given, "fill-holes", applied)


def _clean(pipeline: Pipeline, given: Arguments, kind: str, applied: list[Any]) -> None:
    if not pipeline.discrete:
        raise given.refused("it comes before the labels are made", "AsDiscreted before it")
    first = 0 if pipeline.discrete == "threshold" else 1
    if applied == [None]:
        pipeline.cleanup.append(f"{kind}:*")
        return
    for label in applied:
        if not isinstance(label, int) or not first <= label < len(pipeline.names):
            raise given.refused(f"applied_labels={applied}", f"numbers of the labels {list(pipeline.names)}")
        pipeline.cleanup.append(f"{kind}:{pipeline.names[label]}")


PREPROCESSING: Mapping[str, Reader] = {
    "LoadImage": _load,
    "EnsureChannelFirst": _channel_first,
    "EnsureType": _nothing,
    "ToTensor": _nothing,
    "CastToType": _nothing,
    "ToDevice": _nothing,
    "Orientation": _orientation,
    "Spacing": _spacing,
    "ScaleIntensityRange": _scale_range,
    "ScaleIntensityRangePercentiles": _percentiles,
    "NormalizeIntensity": _normalize,
    "ScaleIntensity": _scale,
}
POSTPROCESSING: Mapping[str, Reader] = {
    "EnsureType": _nothing,
    "ToTensor": _nothing,
    "CastToType": _nothing,
    "ToDevice": _nothing,
    "Activations": _activations,
    "AsDiscrete": _as_discrete,
    "Invert": _invert,
    "KeepLargestConnectedComponent": _largest,
    "FillHoles": _fill_holes,
}
_WRITES = ("SaveImage", "DeleteItems")


def read_transforms(
    section: Any, configuration: Configuration, known: Mapping[str, Reader], pipeline: Pipeline, key: str
) -> None:
    """Let every transform of a Compose say what it says.

    Args:
        section: of the configuration, a Compose or a list.
        configuration: where its references lead.
        known: PREPROCESSING or POSTPROCESSING.
        pipeline: what they write to.
        key: of the dictionary, which they must work on: image or pred.

    Raises:
        InputError: for a transform, or an argument of one, that a spec has no place for.
    """
    if isinstance(section, Mapping):
        compose = configuration.component(section)
        if compose.name != "Compose" or set(compose.arguments) - {"transforms", "map_items", "unpack_items", "lazy"}:
            raise InputError(
                f"{compose.name} where the transforms begin",
                expected="a Compose of transforms",
                hint=f"python -m json.tool {quoted(configuration.path)}",
            )
        section = configuration.follow(compose.arguments.get("transforms"))
    if not isinstance(section, list):
        raise InputError(
            f"{section!r:.120} where the transforms are listed",
            expected="a list",
            hint=f"python -m json.tool {quoted(configuration.path)}",
        )
    for item in section:
        component = configuration.component(item)
        if component.disabled:
            continue
        name = _short(component.name)
        given = Arguments(component, configuration)
        if name in _WRITES and known is POSTPROCESSING:
            continue
        if name not in known:
            raise given.refused(f"{component.name} is not known", f"some of {', '.join(f'{one}d' for one in known)}")
        keys = given.sequence("keys")
        given.ignore("allow_missing_keys")
        if key not in keys:  # it works on something else, such as the true labels
            continue
        known[name](pipeline, given)
        given.finish()


def _short(name: str) -> str:
    """The class behind its dictionary forms: LoadImaged, LoadImageD and LoadImageDict."""
    for ending in ("Dict", "D", "d"):
        if name.endswith(ending) and name not in ("Compose",):
            return name.removesuffix(ending)
    return name
