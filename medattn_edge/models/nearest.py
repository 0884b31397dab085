"""What to say of a checkpoint that nothing recognises: the nearest layout, and the keys that differ."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch

from medattn_edge.errors import CheckpointError
from medattn_edge.models import construct, networks
from medattn_edge.models.network import Config, Layout, Network, Shapes

_SHOWN = 4


def nearest_layout(shapes: Shapes) -> str:
    """One sentence: the known layout with the largest share of common keys, and what is missing and unknown."""
    scores = []
    for record in networks().values():
        for layout in record.layouts:
            expected = _expected_keys(record, layout, shapes)
            present = {key for key in shapes if not layout.is_dead(key)}
            common = len(expected & present) / max(1, len(expected | present))
            scores.append((common, layout.name, sorted(expected - present), sorted(present - expected)))
    common, name, missing, extra = max(scores)
    if common == 0.0:
        return f"no key is one of a known layout's; the file starts with {_some(sorted(shapes))}"
    return f"nearest is {name} with {common:.0%} of the keys: {describe_difference(missing, extra, [])}"


def describe_difference(missing: Iterable[str], extra: Iterable[str], wrong: Iterable[str]) -> str:
    """Counts and the first few keys of each kind of difference."""
    kinds = (("missing", list(missing)), ("unknown", list(extra)), ("of another shape", list(wrong)))
    return "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


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
