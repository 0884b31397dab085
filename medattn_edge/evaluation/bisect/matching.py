"""Which tensors of a candidate are those of its reference: by name, else by what makes them and in which module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

from medattn_edge.evaluation.bisect.onnx_cut import OnnxCut


class Named(Protocol):
    """A graph whose tensors have names, makers and shapes."""

    @property
    def tensors(self) -> Mapping[str, tuple[str, str]]:
        """Name -> operator and module of what makes it; both empty where the graph does not say."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes, 0 where one is free."""


def matched(reference: OnnxCut, candidate: Named) -> dict[str, str]:
    """The reference's name of a tensor -> the candidate's, of all that both have.

    A name alone proves nothing: what makes the tensor, its module and its shape have to be the same, as far as both
    graphs say. Tensors without a namesake are matched by their place among all that one operator makes in one module,
    where both graphs have as many of these.
    """
    own = {name: kind for name, kind in reference.tensors.items() if reference.base(name) == name}
    others = candidate.tensors
    pairs = {
        name: name
        for name, kind in own.items()
        if name in others and others[name] in (kind, ("", "")) and _fit(reference.shape(name), candidate.shape(name))
    }
    taken = set(pairs.values())
    places, theirs = _places(own, set(pairs)), _places(others, taken)
    for kind, names in places.items():
        rest = theirs.get(kind, [])
        if len(rest) == len(names):
            pairs |= {
                name: other
                for name, other in zip(names, rest, strict=True)
                if _fit(reference.shape(name), candidate.shape(other))
            }
    return pairs


def _places(tensors: Mapping[str, tuple[str, str]], taken: set[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, kind in tensors.items():
        if name not in taken and kind != ("", ""):
            found[kind].append(name)
    return found


def _fit(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    same = len(first) == len(second)
    return same and all(one == other or 0 in (one, other) for one, other in zip(first, second, strict=True))
