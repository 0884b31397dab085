"""The status page, for whoever looks at it at three in the morning: what is wrong and what to do, first of all."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.scanner.observe import format
from medattn_edge.scanner.observe.alerts import alerts_of, count_actions
from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.observe.messages import sentence
from medattn_edge.scanner.observe.style import STYLE
from medattn_edge.scanner.store.snapshot import STAGES, DeliverySeen, Snapshot
from medattn_edge.scanner.store.transitions import DeliveryState, State

if TYPE_CHECKING:
    from jinja2 import Environment

_REFRESH_S: Final = 10
_LISTED: Final = 5  # series of one alert, where more are only counted; results with their volumes
_PICTURES: Final = 4


@dataclass(frozen=True)
class DestinationRow:
    """What a destination has not got.

    Attributes:
        name: of the destination.
        waiting: results that are still tried.
        given_up: results that are not.
        next_try: when the first of those that wait is tried, for people.
        reason: a code, of the last failure; "" for none.
    """

    name: str
    waiting: int
    given_up: int
    next_try: str
    reason: str


def page_of(snapshot: Snapshot, health: Health, shown: AbstractSet[tuple[str, int]], *, refresh: bool = True) -> str:
    """The page as HTML. shown: (key, version) of the results that have a picture. refresh: whether by itself."""
    alerts = alerts_of(snapshot, health)
    actions, word = count_actions(alerts), "Ready" if health.ready else "Not ready"
    return _rendered(
        "page.html",
        title=f"{word}{f', {actions} to do' if actions else ''}: {health.name}",
        refresh=refresh,
        word=word,
        snapshot=snapshot,
        health=health,
        alerts=alerts,
        actions=actions,
        listed=_LISTED,
        unlisted=snapshot.states[State.QUARANTINED] - len(snapshot.quarantined),
        stages=STAGES,
        destinations=_destinations(snapshot, health),
        measured=[one for one in snapshot.recent if one.volumes_ml][:_LISTED],
        pictures=[one for one in snapshot.recent if (one.key, one.version) in shown][:_PICTURES],
    )


def page_without_records(code: str) -> str:
    """The page when the node cannot read its own records. code: of the error."""
    title = "Not ready: the node cannot read its records"
    return _rendered("without_records.html", title=title, refresh=True, code=code)


def _rendered(template: str, **values: Any) -> str:
    from markupsafe import Markup

    # Ours, and not to be escaped: the policy that the server sends has its hash.
    style = Markup(STYLE)  # noqa: S704
    return _environment().get_template(template).render(style=style, refresh_s=_REFRESH_S, **values) + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("medattn_edge.scanner.observe")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    filters = (format.ago, format.clock, format.counted, format.outcome, format.seconds, format.since, format.took)
    environment.filters.update({one.__name__: one for one in (*filters, format.millilitres, sentence)})
    return environment


def _destinations(snapshot: Snapshot, health: Health) -> list[DestinationRow]:
    seen = [delivery for one in snapshot.undelivered for delivery in one.deliveries]
    # What is taken out of the configuration still has its results on record.
    names = dict.fromkeys((*health.destinations, *(delivery.destination for delivery in seen)))
    return [_destination(name, [one for one in seen if one.destination == name], snapshot.now) for name in names]


def _destination(name: str, seen: list[DeliverySeen], now: float) -> DestinationRow:
    waiting = [one for one in seen if one.state is DeliveryState.WAITING]
    dead = [one for one in seen if one.state is DeliveryState.DEAD]
    reason = next((one.reason for one in (*waiting, *dead) if one.reason), "")
    next_try = format.until(min(one.next_try for one in waiting), now) if waiting else "-"
    return DestinationRow(name, len(waiting), len(dead), next_try, reason)
