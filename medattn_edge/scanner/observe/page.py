"""The status page, for whoever looks at it at three in the morning: what is wrong and what to do, first of all."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from html import escape
from typing import Final

from medattn_edge.scanner.observe.alerts import alerts_of, alerts_section, count_actions
from medattn_edge.scanner.observe.format import clock
from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.observe.style import STYLE
from medattn_edge.scanner.observe.tables import deliveries, disk, jobs, pictures, stages, workers
from medattn_edge.scanner.store.snapshot import Snapshot

_REFRESH_S: Final = 10


def page_of(snapshot: Snapshot, health: Health, shown: AbstractSet[tuple[str, int]], *, refresh: bool = True) -> str:
    """The page as HTML. shown: (key, version) of the results that have a picture. refresh: whether by itself."""
    alerts = alerts_of(snapshot, health)
    parts = (
        alerts_section(snapshot, health, alerts),
        jobs(snapshot),
        stages(snapshot),
        deliveries(snapshot, health),
        workers(health),
        disk(snapshot, health),
        pictures(snapshot, shown),
    )
    state, word = ("good", "Ready") if health.ready else ("bad", "Not ready")
    body = (
        f'<header><h1>{escape(health.name)}</h1><p class="{state}">{word}</p>'
        f'<p class="quiet">seen {clock(snapshot.now)}</p></header>'
        f"<main>{''.join(parts)}</main><footer>"
        f"<p>medattn-edge {escape(health.version)}, started {clock(health.started)}. {_refreshes(refresh)}</p>"
        '<p><a href="/status.json">status.json</a> <a href="/metrics">metrics</a></p></footer>'
    )
    actions = count_actions(alerts)
    count = f", {actions} to do" if actions else ""
    return _document(f"{word}{count}: {health.name}", body, refresh=refresh)


def page_without_records(code: str) -> str:
    """The page when the node cannot read its own records. code: of the error."""
    body = (
        '<header><h1>medattn-edge</h1><p class="bad">Not ready</p></header><main><article class="trouble">'
        f"<h2>The node cannot read its records <code>{escape(code)}</code></h2>"
        "<p>Nothing more can be said of its series until it can; what was received is on its disk.</p>"
        '<p class="todo"><b>What to do:</b> See whether the disk of the node\'s folder is there and has room'
        " (<code>df -h</code>), and look for status_failed in the log of the node.</p></article></main>"
    )
    return _document("Not ready: the node cannot read its records", body, refresh=True)


def _refreshes(refresh: bool) -> str:
    # A page that reloads while it is read aloud starts again from the top.
    if refresh:
        return f'This page refreshes every {_REFRESH_S} s: <a href="/?refresh=off">stop that</a>.'
    return 'This page stands still: <a href="/">let it refresh</a>.'


def _document(title: str, body: str, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{_REFRESH_S}">' if refresh else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
