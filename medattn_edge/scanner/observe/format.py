"""How the status page writes times, series and numbers. Text, but for `clock`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from medattn_edge.scanner.store.snapshot import VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State

if TYPE_CHECKING:
    from markupsafe import Markup

_OUTCOMES: Final = {
    DeliveryState.DELIVERED: "at",
    DeliveryState.WAITING: "waits for",
    DeliveryState.DEAD: "given up:",
}


def counted(count: int, one: str, many: str) -> str:
    """1 series, 2 series."""
    return f"{count:,} {one if count == 1 else many}"


def since(one: VersionSeen, now: float) -> str:
    """How long the last object is here; a dash where none is."""
    when = one.times.get("last_received")
    return "-" if when is None else seconds(max(0.0, now - when))


def ago(one: VersionSeen, now: float) -> str:
    """The same, with the word."""
    return f"{since(one, now)} ago" if "last_received" in one.times else "-"


def until(when: float, now: float) -> str:
    """How long it is until something is tried."""
    return "now" if when <= now else f"in {seconds(when - now)}"


def took(one: VersionSeen, now: float) -> str:
    """From the last object to the result; of a series that is being segmented, how long that goes on already."""
    start, end = one.times.get("last_received"), one.times.get("segmented")
    if start is not None and end is not None:
        return seconds(max(0.0, end - start))
    claimed = one.times.get("claimed")
    if one.state is State.RUNNING and claimed is not None:
        return f"{seconds(max(0.0, now - claimed))} so far"
    return "-"


def outcome(one: VersionSeen) -> str:
    """Where a result is, and where it is not."""
    by_state = {
        state: [delivery.destination for delivery in one.deliveries if delivery.state is state]
        for state in DeliveryState
    }
    parts = [f"{word} {', '.join(by_state[state])}" for state, word in _OUTCOMES.items() if by_state[state]]
    return "; ".join(parts) or "-"


def millilitres(value: float) -> str:
    """A volume: to a tenth, and below 1 ml to three digits, so that what is there is not written as nothing."""
    return f"{value:,.1f} ml" if value >= 1 or value == 0 else f"{value:.3g} ml"


def seconds(value: float) -> str:
    """A time that a person can compare at a glance."""
    if math.isnan(value):
        return "-"
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if value < limit:
            return f"{value:.1f} s" if unit == "s" and value < 10 else f"{value / length:.0f} {unit}"
    return f"{value / 86_400:.0f} d"


def clock(when: float) -> Markup:
    """The time of this machine, with its zone, as HTML."""
    from markupsafe import Markup

    local = time.localtime(when)
    machine, person = (time.strftime(form, local) for form in ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S %Z"))
    return Markup('<time datetime="{}">{}</time>').format(machine, person)
