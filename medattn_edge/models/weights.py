"""The sets of weights in a training file, wherever they lie in it and whatever stands before their keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medattn_edge.errors import CheckpointError, UsageError
from medattn_edge.models import networks
from medattn_edge.models.harmless import PlainTensor
from medattn_edge.models.network import Layout, Network, Shapes

_DEPTH = 8
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_COUNTERS = ("n_averaged", "total_ops", "total_params")
_AVERAGED = re.compile(r"(?i)(^|[._])(ema|swa|avg|averaged?|shadow)\d*([._]|$)")
_MEASURE = re.compile(
    r"(?i)(^|_)(loss\w*|criterion|criteria|metrics?|dice\w*|iou|accuracy|(class|pos|ce)_weights?)(_|$)"
)
_MOST_OF_A_MEASURE = 4096  # values of a loss's or a metric's tensor: weights of classes, a confusion matrix
_WHOLE = "."  # the name of weights that are the whole file


@dataclass(frozen=True)
class WeightSet:
    """One set of weights that a layout recognises.

    Attributes:
        name: where it is: the keys of the dictionaries around it and what stands before its own keys, with dots; `.`
            when there is nothing of either.
        state: its tensors under the layout's keys, counters and wrappers' names left out.
        record: the network that it is of.
        layout: the published layout that it is in.
        averaged: whether it is a running average (EMA, SWA) of what was trained.
        updates: how many updates the average says it has seen, or None when it does not say.
    """

    name: str
    state: Mapping[str, Tensor]
    record: Network
    layout: Layout
    averaged: bool
    updates: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes by the layout's keys."""
        return {key: tuple(value.shape) for key, value in self.state.items()}

    def equals(self, other: WeightSet) -> bool:
        """Whether the other set has the same keys and the same numbers."""
        if self.state.keys() != other.state.keys():
            return False
        return all(
            value.shape == other.state[key].shape and torch.equal(value, other.state[key])
            for key, value in self.state.items()
        )


@dataclass(frozen=True)
class FoundWeights:
    """What a file holds.

    Attributes:
        sets: every recognised set of weights.
        largest: the largest group of tensors, for what to say when nothing is recognised; empty when there are none.
        others: names of tensors outside of every set, in the order of the file.
    """

    sets: tuple[WeightSet, ...]
    largest: Mapping[str, Tensor]
    others: tuple[str, ...]


def recognise(shapes: Shapes) -> tuple[Network, Layout] | None:
    """The one layout whose signature the keys and shapes have, or None."""
    hits = [(net, layout) for net in networks().values() for layout in net.layouts if layout.signature(shapes)]
    return hits[0] if len(hits) == 1 else None


def find_weights(content: Mapping[str, Any]) -> FoundWeights:
    """Every set of weights in nested dictionaries and lists, and what else there is."""
    sets: list[WeightSet] = []
    others: list[str] = []
    largest: dict[str, Tensor] = {}
    for path, group in _groups(content, (), set()):
        found, rest = _sets_of(path, group)
        sets += found
        others += [".".join((*path, key)) for key in rest]
        if len(group) > len(largest):
            largest = group
    return FoundWeights(tuple(sets), _without_wrappers(largest), tuple(others))


def choose(name: str, candidates: list[WeightSet], wanted: str | None) -> tuple[WeightSet, list[str]]:
    """The set to load and what to say of the choice.

    An average goes before what it averages: it is what its trainer evaluates and keeps the best of. An average that
    says it was never updated does not.

    Args:
        name: of the file.
        candidates: the sets that fit their layouts, at least one.
        wanted: a name of `--weights`, or None.

    Raises:
        UsageError: no set has the wanted name.
        CheckpointError: several sets differ and nothing says which to take.
    """
    names = [one.name for one in candidates]
    if wanted is not None:
        hits = [one for one in candidates if one.name == wanted]
        hits = hits or [one for one in candidates if wanted in one.name.split(".")]
        if len(hits) != 1:
            raise UsageError(
                f"{name} has {'no' if not hits else 'several'} weights {wanted!r}",
                expected=f"one of {', '.join(names)}",
                hint=f"--weights {shlex.quote(names[0])}",
            )
        return hits[0], _told(hits[0], candidates, "asked for")
    distinct: list[WeightSet] = []
    for one in candidates:
        if not any(one.equals(other) for other in distinct):
            distinct.append(one)
    if len(distinct) == 1:
        same = [one.name for one in candidates[1:]]
        return distinct[0], [f"the weights {', '.join(same)} are the same as {distinct[0].name}"] if same else []
    averages = [one for one in distinct if one.averaged and one.updates != 0]
    raw = [one for one in distinct if not one.averaged]
    if len(averages) == 1:
        return averages[0], _told(averages[0], candidates, "an average, as its trainer evaluates")
    if not averages and len(raw) == 1:
        return raw[0], _told(raw[0], candidates, "the average beside it was never updated")
    raise CheckpointError(
        f"{name} has {len(distinct)} different sets of weights that fit, and nothing says which to take",
        expected=f"one of {', '.join(one.name for one in distinct)}",
        hint=f"--weights {shlex.quote((averages or distinct)[0].name)}",
    )


def is_measure(key: str, value: Tensor) -> bool:
    """Whether a key beside a network's is one of a loss or a metric: by its first names, and small."""
    few = value.dim() <= 2 and value.numel() <= _MOST_OF_A_MEASURE
    return few and any(_MEASURE.search(part) for part in key.split(".")[:2])


def in_short(keys: list[str], shown: int = 4) -> str:
    """How many, and the first few; keys of one module count as one."""
    modules = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in keys))
    return ", ".join(modules[:shown]) + (f", ... ({len(keys)} in total)" if len(modules) > shown else "")


def _told(taken: WeightSet, candidates: list[WeightSet], why: str) -> list[str]:
    rest = [one.name for one in candidates if one is not taken]
    if not rest:
        return []
    return [f"took the weights {taken.name} ({why}); not taken: {', '.join(rest)} (--weights {shlex.quote(rest[0])})"]


def _groups(content: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The tensors of every dictionary, with the keys that lead to it; a dictionary can hold itself."""
    if id(content) in seen or len(path) > _DEPTH:
        return
    seen.add(id(content))
    items = list(content.items() if isinstance(content, Mapping) else enumerate(content))
    group = {str(key): _plain(value) for key, value in items if isinstance(value, Tensor)}
    if group:
        yield path, group
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _groups(value, (*path, str(key)), seen)


def _plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor) if isinstance(value, PlainTensor) else value


def _sets_of(path: tuple[str, ...], group: Mapping[str, Tensor]) -> tuple[list[WeightSet], list[str]]:
    """The recognised sets among one dictionary's tensors, each with its own prefix, and the keys of none."""
    plain = _without_wrappers(group)
    below: dict[str, dict[str, Tensor]] = {}
    for key, value in plain.items():
        parts = key.split(".")
        for length in range(min(len(parts), 2 * _DEPTH)):
            below.setdefault(".".join(parts[:length]), {})[".".join(parts[length:])] = value
    hits = {}
    for prefix, state in below.items():
        known = recognise({key: tuple(value.shape) for key, value in state.items()})
        if known is not None:
            hits[prefix] = known
    owned: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in hits}
    rest = []
    for key, value in plain.items():
        owners = [prefix for prefix in hits if not prefix or key.startswith(prefix + ".")]
        counter = key.rsplit(".", 1)[-1] in _COUNTERS
        if not owners:
            rest += [] if counter else [key]
        elif not counter:
            owner = max(owners, key=len)
            owned[owner][key[len(owner) + 1 if owner else 0 :]] = value
    sets = []
    for prefix, (record, layout) in hits.items():
        name = ".".join((*path, prefix) if prefix else path) or _WHOLE
        updates = _updates(plain, prefix)
        averaged = updates is not None or _AVERAGED.search(name) is not None
        sets.append(WeightSet(name, owned[prefix], record, layout, averaged, updates))
    return sets, rest


def _updates(plain: Mapping[str, Tensor], prefix: str) -> int | None:
    """What the nearest n_averaged above a set says."""
    parts = prefix.split(".") if prefix else []
    for length in range(len(parts), -1, -1):
        counter = plain.get(".".join([*parts[:length], "n_averaged"]))
        if counter is not None and counter.numel() == 1 and counter.device.type == "cpu":
            return int(counter.item())
    return None


def _without_wrappers(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the wrappers' names; where that would make two keys one, both stay as they are."""
    short = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in group}
    counts: dict[str, int] = {}
    for name in short.values():
        counts[name] = counts.get(name, 0) + 1
    return {(name if counts[name] == 1 else key): group[key] for key, name in short.items()}
