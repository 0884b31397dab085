"""Held gate: the one gate that decides about a file, whichever command asks.

What the file carries comes first: it was asked when the file was made. An option may ask for more. One that asks for
less is refused, and not merely printed: a verdict of `pass` is what scripts and people deploy by, and it would mean
another thing for one file in two commands. Nothing is lost by that: every figure is printed and kept in the JSON when
a gate fails as well, and whoever means less makes a file that says so, with `calibrate --gate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Manifest
from medattn_edge.errors import UsageError
from medattn_edge.file_gate import LIMITS, FileGate, gate_text
from medattn_edge.gates import COMPARED, TRUE_LABELS
from medattn_edge.labels import Meaning

_OPTIONS = {name: "--" + name.replace("_", "-") for name in LIMITS}
_SHARES = LIMITS[1:]
ORIGINS = {
    "file": "as the file carries it",
    "file and options": "as the file carries it, and stricter by option",
    "options": "by option, for the file carries none",
    "usual": "as usual, for the file carries none",
}


@dataclass(frozen=True)
class HeldGate:
    """What a file is held to, and where that comes from.

    Attributes:
        thresholds: what every agreement must reach; shares of the reference's true Dice only where they can be held.
        carried: what the file itself asks; None where it carries no gate.
        origin: a key of ORIGINS: `file`, or `file and options` where an option asks for more; `options` or `usual`
            where it carries none.
        notes: what a reader of the verdict should know: what cannot be held, and what is looser than usual.
    """

    thresholds: Thresholds
    carried: FileGate | None
    origin: str
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The gate and its origin, for people."""
        return held_text(self.thresholds.to_json(), self.origin)


def held_text(limits: Mapping[str, float], origin: str) -> str:
    """What is held, and which of it is the gate that a file may carry, for people.

    Args:
        limits: figure -> limit, by the names of `Thresholds`.
        origin: of the limits of Dice, a key of ORIGINS; others never come from the file.
    """
    dice = {name: value for name, value in limits.items() if name in LIMITS}
    others = {name: value for name, value in limits.items() if name not in LIMITS}
    parts = [f"{gate_text(dice)}, {ORIGINS[origin]}"] if dice else []
    return "; ".join([*parts, *([f"beside it {gate_text(others)}"] if others else [])]) or gate_text({})


def usual_gate(labelled: bool) -> Thresholds:
    """What a file that carries no gate is held to; labelled: with true labels, both thresholds."""
    return Thresholds(**TRUE_LABELS.limits) if labelled else COMPARED.thresholds


def held_gate(path: Path, manifest: Manifest | None, given: Thresholds, usual: Thresholds, labelled: bool) -> HeldGate:
    """The gate of one file.

    Args:
        path: the file.
        manifest: what it says of itself, None for a checkpoint.
        given: by options; None where one was not given.
        usual: where neither the file nor an option says anything.
        labelled: whether there are true labels, without which no share of the reference's true Dice can be held.

    Raises:
        UsageError: an option asks for less than the file carries.
    """
    carried = None if manifest is None else manifest.gate
    asked = {name: value for name, value in given.to_json().items() if value is not None}
    limits = {**usual.to_json(), **asked}
    options = [name for name in LIMITS if name in asked]
    if carried is None:
        shares = {name: limits.pop(name) for name in _SHARES if name in limits}
        origin = "options" if options else "usual"
        notes = _looser(path.name, {name: asked[name] for name in options}, labelled, "an option")
    else:
        _check_not_looser(path, carried.limits, asked)
        limits |= {name: value for name, value in carried.limits.items() if name not in asked}
        shares = {name: limits.pop(name) for name in _SHARES if name in limits}
        stricter = any(asked[name] != carried.limits.get(name) for name in options)
        origin = "file and options" if stricter else "file"
        notes = _looser(path.name, carried.limits, "min_true_dice_share" in carried.limits, "the gate that it carries")
        if shares and not labelled:
            notes += [f"{path.name}: {gate_text(shares)} cannot be held here: that takes true labels"]
        notes += _new_labels(path.name, carried, manifest)
    thresholds = replace(Thresholds(**limits), **(shares if labelled else {}))
    return HeldGate(thresholds, carried, origin, tuple(notes))


def _check_not_looser(path: Path, carried: Mapping[str, float], asked: Mapping[str, float]) -> None:
    for name, option in _OPTIONS.items():
        if name in carried and name in asked and _is_looser(name, asked[name], carried[name]):
            raise UsageError(
                f"{option} {asked[name]:g} is looser than the gate that {path.name} carries: "
                f"{gate_text({name: carried[name]})}",
                expected="as much or more: one gate decides about a file, and every figure is shown when it fails",
                hint=f"leave {option} out, or make a file that asks for less: medattn-edge calibrate --gate",
            )


def _is_looser(name: str, one: float, other: float) -> bool:
    return one > other if name.startswith("max_") else one < other


def _looser(name: str, limits: Mapping[str, float], labelled: bool, who: str) -> list[str]:
    """A note when less is asked than usual: the verdict means less, too."""
    usual = usual_gate(labelled).to_json()
    less = {key: value for key, value in limits.items() if key in usual and _is_looser(key, value, usual[key])}
    if not less:
        return []
    return [
        f"{name}: {who} is looser than usual: {gate_text(less)}; usual: {gate_text({key: usual[key] for key in less})}"
    ]


def _new_labels(name: str, carried: FileGate, manifest: Manifest | None) -> list[str]:
    if not carried.labels or manifest is None:
        return []
    others = [label for label in Meaning.of(manifest.spec).structures if label not in carried.labels]
    if not others:
        return []
    return [f"{name}: when it was made nobody judged {', '.join(others)}"]
