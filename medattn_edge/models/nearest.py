"""What to say of a checkpoint that nothing recognises: the nearest layout, and the keys that differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from medattn_edge.errors import CheckpointError
from medattn_edge.models import construct, networks
from medattn_edge.models.network import Config, Layout, Network, Shapes

_SHOWN = 4


def nearest_layout(shapes: Shapes) -> str:
    """One sentence: the known layout with the largest share of common keys, and what is missing and unknown.

    The keys are also compared without the names that all of them start with.
    """
    scores = []
    for names in _without_common_names(shapes):
        for record in networks().values():
            for layout in record.layouts:
                expected = _expected_keys(record, layout, names)
                found = {key for key in names if not layout.is_dead(key)}
                common = len(expected & found) / max(1, len(expected | found))
                scores.append((common, layout.name, sorted(expected - found), sorted(found - expected), layout))
    common, name, missing, extra, layout = max(scores, key=lambda score: score[:4])
    if common == 0.0:
        return f"no key is one of a known layout's; the file starts with {_some(sorted(shapes))}"
    difference = Misfit(tuple(missing), tuple(extra)).describe(layout)
    return f"nearest is {name} with {common:.0%} of the keys: {difference}"


@dataclass(frozen=True)
class Misfit:
    """How the keys and shapes of a file differ from those of a network; false when they do not.

    Attributes:
        missing: keys that the network has and the file has not.
        unknown: keys that only the file has.
        reshaped: key, the file's shape and the network's, where they differ.
        odd: keys whose tensors are no plain arrays of numbers.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    odd: tuple[str, ...] = ()

    @classmethod
    def between(cls, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Misfit:
        """A file's tensors against a network's. Old files without num_batches_tracked are complete too."""
        return cls(
            tuple(key for key in wanted if key not in found and not key.endswith("num_batches_tracked")),
            tuple(key for key in found if key not in wanted),
            tuple(
                (key, tuple(found[key].shape), tuple(value.shape))
                for key, value in wanted.items()
                if key in found and found[key].shape != value.shape
            ),
            tuple(sorted(key for key in wanted if key in found and not _is_plain(found[key]))),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.reshaped or self.odd)

    def describe(self, layout: Layout | None = None) -> str:
        """The cause where it can be told (a kernel, a depth, a normalisation), then the counts and the first keys."""
        wrong = [f"{key} is {found}, not {wanted}" for key, found, wanted in self.reshaped]
        wrong += [f"{key} is no plain array of numbers" for key in self.odd]
        causes = [cause for cause in (self._kernel(), self._depth(layout), self._statistics()) if cause]
        return "; ".join([*causes, describe_difference(self.missing, self.unknown, wrong)])

    def hint(self) -> str:
        """What to do about it."""
        if self._kernel() or self._statistics():
            return "export it to ONNX with the code that trained it: torch.onnx.export(network.eval(), ...)"
        return "load it with the code that trained it and compare its settings with the layout's"

    def _kernel(self) -> str:
        """That only the kernels have another size."""
        for key, found, wanted in self.reshaped:
            same = len(found) == len(wanted) > 2 and found[:2] == wanted[:2]
            if same and min(found) > 0:
                theirs, ours = ("x".join(map(str, shape[2:])) for shape in (found, wanted))
                return f"kernel {theirs} in {key}; this network is built with kernel {ours}"
        return ""

    def _depth(self, layout: Layout | None) -> str:
        """That the file has more or fewer levels than the network."""
        if layout is None or not layout.levels:
            return ""
        absent, added = ({int(m[1]) for key in keys if (m := re.match(layout.levels, key))} for keys in self._keys())
        change = len(added - absent) - len(absent - added)
        if not change or not layout.depth:
            return ""
        return f"{layout.depth + change} levels; this network is built with {layout.depth}"

    def _keys(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.missing, self.unknown

    def _statistics(self) -> str:
        """That no normalisation has running statistics."""
        lost = [key for key in self.missing if key.endswith(("running_mean", "running_var"))]
        if len(lost) < 2 or len(lost) != len(self.missing):
            return ""
        return (
            "its normalisation keeps no running statistics (InstanceNorm, GroupNorm or track_running_stats=False); "
            "this network is built with BatchNorm"
        )


def describe_difference(missing: Iterable[str], extra: Iterable[str], wrong: Iterable[str]) -> str:
    """Counts and the first few keys of each kind of difference."""
    kinds = (("missing", list(missing)), ("unknown", list(extra)), ("of another shape", list(wrong)))
    return "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def _without_common_names(shapes: Shapes) -> list[Shapes]:
    """The shapes as they are, and without the first one, two ... names that all keys share."""
    variants, current = [shapes], shapes
    while current and all("." in key for key in current) and len({key.split(".", 1)[0] for key in current}) == 1:
        current = {key.split(".", 1)[1]: shape for key, shape in current.items()}
        variants.append(current)
    return variants


def _is_plain(value: Tensor) -> bool:
    stored = value.device.type == "cpu" and value.layout == torch.strided
    return stored and not (value.is_complex() or value.is_quantized)


def _expected_keys(record: Network, layout: Layout, shapes: Shapes) -> set[str]:
    """The layout's keys for the settings that the shapes suggest, or for the usual ones when they suggest none."""
    try:
        return _keys_of(record, layout, {**record.settings, **layout.config(shapes)})
    except (LookupError, ValueError, ArithmeticError, CheckpointError):
        return _keys_of(record, layout, {**record.settings, **layout.usual})


def _keys_of(record: Network, layout: Layout, settings: Config) -> set[str]:
    return _keys(record.name, layout.name, tuple(sorted((key, repr(value)) for key, value in settings.items())))


@cache
def _keys(network: str, layout_name: str, settings: tuple[tuple[str, str], ...]) -> set[str]:
    import ast

    record = networks()[network]
    layout = next(one for one in record.layouts if one.name == layout_name)
    config: Config = {key: ast.literal_eval(value) for key, value in settings}
    with torch.device("meta"):
        built = construct(record, config, 1, 2)
    return set(layout.published(built.state_dict(), config).values())
