"""The state of a node in Prometheus's text format, version 0.0.4: numbers and names of the configuration only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.store.snapshot import Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class _Sample:
    name: str
    kind: str
    help: str
    value: float
    labels: Mapping[str, str]


def text_of(snapshot: Snapshot, health: Health) -> str:
    """All metrics, each with its HELP and TYPE once."""
    lines: list[str] = []
    last = ""
    for one in _samples(snapshot, health):
        if one.name != last:
            lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {one.kind}"]
            last = one.name
        labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in one.labels.items())
        lines.append(f"{one.name}{'{' + labels + '}' if labels else ''} {_number(one.value)}")
    return "\n".join(lines) + "\n"


def _samples(snapshot: Snapshot, health: Health) -> Iterator[_Sample]:
    def gauge(name: str, help: str, value: float, **labels: str) -> _Sample:
        return _Sample(f"medattn_edge_{name}", "gauge", help, value, labels)

    def counter(name: str, help: str, value: float, **labels: str) -> _Sample:
        return _Sample(f"medattn_edge_{name}_total", "counter", help, value, labels)

    yield gauge("build_info", "Always 1; the label says which version runs.", 1, version=health.version)
    yield gauge("ready", "Whether series are segmented: 1, or 0.", health.ready)
    yield gauge("start_time_seconds", "When the node was started, since 1970.", health.started)
    for state, count in snapshot.states.items():
        yield gauge("series", "Versions of series and studies in each state.", count, state=state.value)
    yield gauge("studies_gathering", "Studies that wait for channels, at most 100.", len(snapshot.gathering))
    for delivery, count in snapshot.deliveries.items():
        yield gauge("deliveries", "Deliveries in each state.", count, state=delivery.value)
    yield gauge("objects", "Received objects on record.", snapshot.instances)
    yield gauge("objects_bytes", "Bytes of the received objects on record.", snapshot.bytes)
    yield counter("conflicts", "Objects with a known UID and other bytes.", snapshot.conflicts)
    for name, count in snapshot.commitments.items():
        yield gauge("commitments", "Requests for storage commitment in each state.", count, state=name)
    yield gauge("committed_objects", "Objects that stay because of storage commitment.", snapshot.committed)
    yield counter("attempts", "Attempts to segment a series.", snapshot.attempts)
    # No counter: a person who has a delivery tried again sets its attempts to none.
    yield gauge("delivery_failures", "Failed attempts of the deliveries on record.", snapshot.retries)
    for stage, spread in snapshot.stages.items():
        yield gauge("stage_series", "Of the last 100 series, those that have a time.", spread.count, stage=stage)
    help = "Time in each stage, of the last 100 series; absent until there is one."
    for stage, spread in snapshot.stages.items():
        for statistic, value in (("p50", spread.p50), ("p90", spread.p90), ("max", spread.max)):
            if not math.isnan(value):
                yield gauge("stage_seconds", help, value, stage=stage, statistic=statistic)
    for worker in health.workers:
        yield gauge("worker_ready", "Whether the worker has passed its canary.", worker.ready, device=worker.device)
    for worker in health.workers:
        yield gauge("worker_busy", "Whether the worker segments a series.", worker.busy, device=worker.device)
    for worker in health.workers:
        yield counter("worker_restarts", "Workers started after the first.", worker.restarts, device=worker.device)
    for worker in health.workers:
        yield gauge("worker_resident_bytes", "Memory of the worker.", worker.rss_mb * 1e6, device=worker.device)
    yield gauge("associations", "Associations that are open.", health.associations)
    yield gauge("disk_free_bytes", "Free on the disk, or of the quota.", health.disk.free)
    yield gauge("disk_total_bytes", "Of the disk, or the quota.", health.disk.total)
    yield gauge("disk_refuses", "Whether objects are refused because of the disk.", health.disk.refuses)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
