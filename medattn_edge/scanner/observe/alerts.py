"""The first part of the status page: what is wrong, how many series it holds up, and what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from medattn_edge.reasons import ADMISSION_REASONS, CONFLICT, REPLACED, Reason
from medattn_edge.scanner.observe.format import counted, until
from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.observe.messages import of_delivery, of_health, of_quarantine
from medattn_edge.scanner.store.snapshot import DeliverySeen, Snapshot, VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState

_PASSING: Final = frozenset({"starting", "draining"})
_KEYS: Final = 5  # that an alert names
_DISK, _WORKER = "disk_full", "worker_not_ready"


@dataclass(frozen=True)
class Alert:
    """One thing to do.

    Attributes:
        title: what is wrong, in a few words.
        reason: what happened and what to do; its code is shown too.
        held: the series that it holds up.
        note: beside what the reason says.
        kind: bad, waiting (it goes on by itself once somebody has acted) or passing (nothing to do at all).
    """

    title: str
    reason: Reason
    held: tuple[VersionSeen, ...] = ()
    note: str = ""
    kind: Literal["bad", "waiting", "passing"] = "bad"

    def command(self, config: str) -> tuple[str, ...]:
        """What to type once that is done, in parts that stay on one line; empty when there is nothing to type.

        config: the file of the node; "" when nobody knows.
        """
        if not (self.reason.requeue and self.held):
            return ()
        keys = {version.key for version in self.held}
        key = keys.pop() if len(keys) == 1 else "KEY"
        return "medattn-edge node requeue", key, f"--config {shlex.quote(config) if config else 'FILE'}"


def alerts_of(snapshot: Snapshot, health: Health) -> list[Alert]:
    """The worst first: nothing works, results are given up, series are in quarantine, a destination is down."""
    alerts = [_not_ready(why, health) for why in _whys(health)]
    alerts += _deliveries(snapshot, DeliveryState.DEAD)
    by_reason: dict[str, list[VersionSeen]] = {}
    for one in snapshot.quarantined:
        by_reason.setdefault(one.reason, []).append(one)
    for reason, held in by_reason.items():
        title = f"{counted(len(held), 'series', 'series')} in quarantine"
        alerts.append(Alert(title, of_quarantine(reason), tuple(held)))
    return alerts + _conflicts(snapshot) + _deliveries(snapshot, DeliveryState.WAITING)


def count_actions(alerts: Sequence[Alert]) -> int:
    """How many of them somebody has to do something about."""
    return sum(one.kind != "passing" for one in alerts)


def _whys(health: Health) -> list[str]:
    """The reason that the node gives, and those that stand behind it: it gives only one."""
    reasons = [health.why] if health.why else []
    if health.why not in (*_PASSING, _WORKER) and not all(one.ready for one in health.workers):
        reasons.append(_WORKER)
    return [*reasons, _DISK] if health.disk.refuses and health.why != _DISK else reasons


def _not_ready(why: str, health: Health) -> Alert:
    down = [one.device for one in health.workers if not one.ready]
    note = ""
    if why == _DISK:
        note = f"{health.disk.free / 1e9:.1f} of {health.disk.total / 1e9:.1f} GB are free."
    elif down and why != "draining":
        note = f"Not ready: {', '.join(down)}."
    return Alert("Not ready", of_health(why), note=note, kind="passing" if why in _PASSING else "bad")


def _conflicts(snapshot: Snapshot) -> list[Alert]:
    """Objects that came again with other contents: those that were refused, and those that replaced others."""
    found = []
    for code in (CONFLICT, REPLACED):
        counts = {one.key: one.refused if code == CONFLICT else one.replaced for one in snapshot.conflicted}
        keys = [key for key, count in counts.items() if count]
        if keys:
            word = "refused" if code == CONFLICT else "replaced others"
            title = f"{counted(sum(counts.values()), 'object', 'objects')} with known UIDs and other contents {word}"
            more = f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else ""
            note = f"In the series {', '.join(keys[:_KEYS])}{more}."
            found.append(Alert(title, ADMISSION_REASONS[code], note=note))
    return found


def _deliveries(snapshot: Snapshot, state: DeliveryState) -> list[Alert]:
    """Those that are dead, or have failed at least once: one alert for each destination and reason."""
    groups: dict[tuple[str, str], list[tuple[VersionSeen, DeliverySeen]]] = {}
    for one in snapshot.undelivered:
        for delivery in one.deliveries:
            if delivery.state is state and (delivery.attempts or state is DeliveryState.DEAD):
                groups.setdefault((delivery.destination, delivery.reason), []).append((one, delivery))
    alerts = []
    for (destination, code), held in groups.items():
        reason, count = of_delivery(code), counted(len(held), "result", "results")
        if state is DeliveryState.DEAD:
            title, note = f"{count} for {destination} given up", "Copies lie in the folder dead of the node."
            reason = replace(reason, action=f"{reason.action}; then requeue what was given up")
            alerts.append(Alert(title, reason, tuple(one for one, _ in held), note))
        else:
            again = min(delivery.next_try for _, delivery in held)
            title, reason = f"{count} waiting for {destination}", replace(reason, requeue=False)
            note = f"Tried again by itself, next {until(again, snapshot.now)}; nothing is lost."
            alerts.append(Alert(title, reason, tuple(one for one, _ in held), note, "waiting"))
    return alerts
