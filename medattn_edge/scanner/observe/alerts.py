"""The first part of the status page: what is wrong, how many series it holds up, and what to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final, Literal

from medattn_edge.reasons import Reason
from medattn_edge.scanner.observe.format import ago, counted, modality, quiet, section, until
from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.observe.messages import of_delivery, of_health, of_quarantine, sentence
from medattn_edge.scanner.store.snapshot import DeliverySeen, Snapshot, VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State

_LISTED: Final = 5  # series of one alert; more are only counted
_PASSING: Final = frozenset({"starting", "draining"})
_DISK, _WORKER = "disk_full", "worker_not_ready"


@dataclass(frozen=True)
class Alert:
    """One thing to do.

    Attributes:
        title: what is wrong, in a few words.
        reason: what happened and what to do; its code is shown too.
        held: the series that it holds up.
        note: HTML, beside what the reason says.
        kind: bad, waiting (it goes on by itself once somebody has acted) or passing (nothing to do at all).
    """

    title: str
    reason: Reason
    held: tuple[VersionSeen, ...] = ()
    note: str = ""
    kind: Literal["bad", "waiting", "passing"] = "bad"


def alerts_of(snapshot: Snapshot, health: Health) -> list[Alert]:
    """The worst first: nothing works, results are given up, series are in quarantine, a destination is down."""
    found = [_not_ready(why, health) for why in _whys(health)]
    found += _deliveries(snapshot, DeliveryState.DEAD)
    by_reason: dict[str, list[VersionSeen]] = {}
    for one in snapshot.quarantined:
        by_reason.setdefault(one.reason, []).append(one)
    for reason, held in by_reason.items():
        title = f"{counted(len(held), 'series', 'series')} in quarantine"
        found.append(Alert(title, of_quarantine(reason), tuple(held)))
    return found + _deliveries(snapshot, DeliveryState.WAITING)


def alerts_section(snapshot: Snapshot, health: Health, found: Sequence[Alert]) -> str:
    """The section as HTML."""
    if not found:
        text = "Nothing to do: no series is in quarantine, and every result has arrived or is on its way."
        return section("actions", "All is well", f"<p>{text}</p>")
    unlisted = snapshot.states[State.QUARANTINED] - len(snapshot.quarantined)
    more = quiet(f"{unlisted:,} more in quarantine are not listed.") if unlisted > 0 else ""
    count = count_actions(found)
    title = f"To do ({count})" if count else "Just now"
    return section("actions", title, "".join(_article(one, snapshot.now, health) for one in found) + more)


def count_actions(found: Sequence[Alert]) -> int:
    """How many of them somebody has to do something about."""
    return sum(one.kind != "passing" for one in found)


def _whys(health: Health) -> list[str]:
    """The reason that the node gives, and those that stand behind it: it gives one alone."""
    found = [health.why] if health.why else []
    if health.why not in (*_PASSING, _WORKER) and not all(one.ready for one in health.workers):
        found.append(_WORKER)
    return [*found, _DISK] if health.disk.refuses and health.why != _DISK else found


def _not_ready(why: str, health: Health) -> Alert:
    down = [escape(one.device) for one in health.workers if not one.ready]
    note = ""
    if why == _DISK:
        note = f"{health.disk.free / 1e9:.1f} of {health.disk.total / 1e9:.1f} GB are free."
    elif down and why != "draining":
        note = f"Not ready: {', '.join(down)}."
    return Alert("Not ready", of_health(why), note=note, kind="passing" if why in _PASSING else "bad")


def _deliveries(snapshot: Snapshot, state: DeliveryState) -> list[Alert]:
    """Those that are dead, or have failed at least once: one alert for each destination and reason."""
    groups: dict[tuple[str, str], list[tuple[VersionSeen, DeliverySeen]]] = {}
    for one in snapshot.undelivered:
        for delivery in one.deliveries:
            if delivery.state is state and (delivery.attempts or state is DeliveryState.DEAD):
                groups.setdefault((delivery.destination, delivery.reason), []).append((one, delivery))
    found = []
    for (destination, code), held in groups.items():
        reason, count = of_delivery(code), counted(len(held), "result", "results")
        if state is DeliveryState.DEAD:
            title, note = f"{count} for {destination} given up", "Copies lie in the folder dead of the node."
            reason = replace(reason, action=f"{reason.action}; then requeue what was given up")
            found.append(Alert(title, reason, tuple(one for one, _ in held), note))
        else:
            again = min(delivery.next_try for _, delivery in held)
            title, reason = f"{count} waiting for {destination}", replace(reason, requeue=False)
            note = f"Tried again by itself, next {until(again, snapshot.now)}; nothing is lost."
            found.append(Alert(title, reason, tuple(one for one, _ in held), note, "waiting"))
    return found


def _article(one: Alert, now: float, health: Health) -> str:
    kind = "trouble" if one.kind == "bad" else "trouble calm"
    listed = "".join(_held(version, now) for version in one.held[:_LISTED])
    more = len(one.held) - _LISTED
    listed += f"<li>and {more:,} more</li>" if more > 0 else ""
    return (
        f'<article class="{kind}"><h3>{escape(one.title)} <code>{escape(one.reason.code)}</code></h3>'
        f"<p>{escape(sentence(one.reason.meaning))} {one.note}</p>"
        f'<p class="actions"><b>What to do:</b> {escape(sentence(one.reason.action))}</p>'
        f"{_command(one, health)}{f'<ul>{listed}</ul>' if listed else ''}</article>"
    )


def _command(one: Alert, health: Health) -> str:
    if not (one.reason.requeue and one.held):
        return ""
    keys = {version.key for version in one.held}
    key = keys.pop() if len(keys) == 1 else "KEY"
    config = shlex.quote(health.config) if health.config else "FILE"
    # On a small screen it breaks between words only.
    words = ("medattn-edge node requeue", key, f"--config {config}")
    command = " ".join(f"<span>{escape(word)}</span>" for word in words)
    return f'<pre tabindex="0">{command}</pre>'


def _held(one: VersionSeen, now: float) -> str:
    detail = f": {escape(one.detail)}" if one.detail and one.state is State.QUARANTINED else ""
    objects = counted(one.instances, "object", "objects")
    return f"<li><code>{one.key}</code> v{one.version}, {modality(one)}, {objects}, {ago(one, now)}{detail}</li>"
