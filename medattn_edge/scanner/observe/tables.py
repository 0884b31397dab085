"""The rest of the status page: series, times, deliveries, workers, the disk, and pictures of the last results."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from html import escape
from typing import Final

from medattn_edge.scanner.observe.format import (
    Column,
    ago,
    counted,
    modality,
    quiet,
    seconds,
    section,
    short,
    table,
    until,
)
from medattn_edge.scanner.observe.health import Health, WorkerSeen
from medattn_edge.scanner.store.snapshot import STAGES, DeliverySeen, Snapshot, VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State

_PICTURES: Final = 4


def jobs(snapshot: Snapshot) -> str:
    """How many series are in each state, and the latest ones."""
    counts = "".join(
        f'<div><dt>{state.value}</dt><dd class="{state.value if snapshot.states[state] else "none"}">'
        f"{snapshot.states[state]:,}</dd></div>"
        for state in State
        if state is not State.SUPERSEDED or snapshot.states[state]
    )
    columns = (
        *(Column("series"), Column("state"), Column("received", number=True), Column("took", number=True, rest=True)),
        *(Column("result"), Column("kind", rest=True), Column("objects", number=True, rest=True)),
    )
    rows = [
        (
            short(one),
            f'<span class="{one.state.value}">{one.state.value}</span>',
            ago(one, snapshot.now).replace(" ago", '<span class="rest"> ago</span>'),
            _took(one, snapshot.now),
            _outcome(one),
            modality(one),
            f"{one.instances:,}",
        )
        for one in snapshot.recent
    ]
    listed = table("The latest series, newest first", columns, rows) if rows else quiet("No series has come yet.")
    return section("series", "Series", f'<dl class="counts">{counts}</dl>{listed}')


def _took(one: VersionSeen, now: float) -> str:
    """From the last object to the result; of a series that is being segmented, how long that goes on already."""
    start, end = one.times.get("last_received"), one.times.get("segmented")
    if start is not None and end is not None:
        return seconds(max(0.0, end - start))
    claimed = one.times.get("claimed")
    if one.state is State.RUNNING and claimed is not None:
        return f"{seconds(max(0.0, now - claimed))} so far"
    return "-"


def _outcome(one: VersionSeen) -> str:
    if one.reason:
        return f"<code>{escape(one.reason)}</code>"
    by_state = {
        state: [escape(delivery.destination) for delivery in one.deliveries if delivery.state is state]
        for state in DeliveryState
    }
    parts = [f"{word} {', '.join(by_state[state])}" for state, word in _WORDS.items() if by_state[state]]
    return "; ".join(parts) or "-"


_WORDS: Final = {DeliveryState.DELIVERED: "at", DeliveryState.WAITING: "waits for", DeliveryState.DEAD: "given up:"}


def stages(snapshot: Snapshot) -> str:
    """Where the time goes."""
    rows = [
        (
            f'{name} <span class="quiet rest">{escape(STAGES.get(name, ""))}</span>',
            *(seconds(value) for value in (spread.p50, spread.p90, spread.max)),
            f"{spread.count:,}",
        )
        for name, spread in snapshot.stages.items()
    ]
    columns = (Column("stage"), *(Column(head, number=True) for head in ("median", "90 %", "longest", "series")))
    return section("times", "Times", table("Time in each stage, of the last 100 series that have one", columns, rows))


def deliveries(snapshot: Snapshot, health: Health) -> str:
    """What each destination has not got."""
    seen = [delivery for one in snapshot.undelivered for delivery in one.deliveries]
    # What is taken out of the configuration still has its results on record.
    names = dict.fromkeys((*health.destinations, *(delivery.destination for delivery in seen)))
    rows = [_destination(name, [one for one in seen if one.destination == name], snapshot.now) for name in names]
    columns = (
        *(Column("destination"), Column("waiting", number=True), Column("given up", number=True)),
        *(Column("next try", number=True), Column("last reason", rest=True)),
    )
    total = snapshot.deliveries
    total_text = (
        f"{total[DeliveryState.DELIVERED]:,} delivered, {total[DeliveryState.WAITING]:,} waiting,"
        f" {total[DeliveryState.DEAD]:,} given up in total."
    )
    listed = table("Results that are still to arrive, of the last 100 series", columns, rows) if rows else ""
    return section("deliveries", "Deliveries", listed + quiet(total_text))


def _destination(name: str, seen: list[DeliverySeen], now: float) -> tuple[str, ...]:
    waiting = [one for one in seen if one.state is DeliveryState.WAITING]
    dead = [one for one in seen if one.state is DeliveryState.DEAD]
    reason = next((one.reason for one in (*waiting, *dead) if one.reason), "")
    again = until(min(one.next_try for one in waiting), now) if waiting else "-"
    given_up = f'<span class="failed">{len(dead)}</span>' if dead else "0"
    return escape(name), str(len(waiting)), given_up, again, f"<code>{escape(reason)}</code>" if reason else "-"


def workers(health: Health) -> str:
    """The processes that segment."""
    models: dict[str, list[str]] = {}
    for name, device, kind in health.models:
        models.setdefault(device, []).append(f"{escape(name)} ({escape(kind)})")
    rows = [
        (
            escape(one.device),
            _state(one),
            f"{one.rss_mb:,.0f} MB",
            f"{one.restarts:,}",
            ", ".join(models.get(one.device, ())) or "-",
        )
        for one in health.workers
    ]
    columns = (
        *(Column("device"), Column("state"), Column("memory", number=True), Column("restarts", number=True)),
        Column("models", rest=True),
    )
    listed = table("One process for each device", columns, rows) if rows else quiet("There is none yet.")
    return section("workers", "Workers", listed)


def _state(one: WorkerSeen) -> str:
    if not one.ready:
        return '<span class="failed">not ready</span>'
    return '<span class="running">segmenting</span>' if one.busy else '<span class="delivered">ready</span>'


def disk(snapshot: Snapshot, health: Health) -> str:
    """Room, and what the node keeps."""
    found = health.disk
    used = min(1.0, max(0.0, found.used_fraction))
    refuses = '<b class="failed">New series are refused.</b>' if found.refuses else "New series are taken."
    conflicts = (
        f" {counted(snapshot.conflicts, 'object', 'objects')} came again with other content under the same UID:"
        " the first was kept, the other is in quarantine/objects."
        if snapshot.conflicts
        else ""
    )
    return section(
        "disk",
        "Disk and network",
        f'<p><meter min="0" max="1" value="{used:.3f}" aria-label="share of the disk that is used">{used:.0%}</meter>'
        f" {used:.0%} used, {found.free / 1e9:,.1f} of {found.total / 1e9:,.1f} GB free. {refuses}</p>"
        f"<p>{counted(snapshot.instances, 'object', 'objects')} kept, {snapshot.bytes / 1e9:,.2f} GB."
        f" {counted(health.associations, 'association', 'associations')} open.{conflicts}</p>",
    )


def pictures(snapshot: Snapshot, shown: AbstractSet[tuple[str, int]]) -> str:
    """The last results that have a picture."""
    found = [one for one in snapshot.recent if (one.key, one.version) in shown][:_PICTURES]
    if not found:
        return ""
    figures = "".join(
        f'<figure><img src="/thumbnails/{one.key}-v{one.version}.png" alt="labels over slices of series {one.key[:8]}">'
        f"<figcaption>{short(one)}, {ago(one, snapshot.now)}</figcaption></figure>"
        for one in found
    )
    remark = quiet("Not for diagnosis.")
    return section("results", "Last results", f'<div class="pictures">{figures}</div>{remark}')
