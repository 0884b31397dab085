"""What a node says of itself, number by number: metrics, JSON, alerts and the words of its page."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from medattn_edge.reasons import CONFLICT, REPLACED
from medattn_edge.scanner.observe.alerts import Alert, alerts_of, count_actions
from medattn_edge.scanner.observe.format import ago, clock, seconds, since, took, until
from medattn_edge.scanner.observe.health import WorkerSeen
from medattn_edge.scanner.observe.messages import of_quarantine, sentence
from medattn_edge.scanner.observe.metrics import text_of
from medattn_edge.scanner.observe.page import page_of
from medattn_edge.scanner.observe.server import document
from medattn_edge.scanner.store.disk import Disk
from medattn_edge.scanner.store.snapshot import ConflictSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State
from tests.support.seen import CHANNELLED, CONFLICTED, NOW, delivery_seen, health_seen, snapshot_seen, version_seen

WAITING, DELIVERED, DEAD = DeliveryState.WAITING, DeliveryState.DELIVERED, DeliveryState.DEAD

SAMPLES = """
build_info{version="9.9.0"} 1
ready 1
start_time_seconds 900000.25
series{state="receiving"} 200
series{state="queued"} 201
series{state="joined"} 202
series{state="running"} 203
series{state="segmented"} 204
series{state="delivered"} 205
series{state="failed"} 206
series{state="quarantined"} 207
series{state="superseded"} 208
studies_gathering 11
deliveries{state="waiting"} 300
deliveries{state="delivered"} 301
deliveries{state="dead"} 302
objects 401
objects_bytes 402000
conflicts_total 403
commitments{state="waiting"} 601
commitments{state="answered"} 602
commitments{state="dead"} 603
committed_objects 604
attempts_total 404
delivery_failures 405
stage_series{stage="waiting"} 0
stage_series{stage="segmenting"} 5
stage_seconds{stage="segmenting",statistic="p50"} 1.5
stage_seconds{stage="segmenting",statistic="p90"} 2.5
stage_seconds{stage="segmenting",statistic="max"} 3.5
worker_ready{device="cpu"} 1
worker_ready{device="cuda:0"} 0
worker_busy{device="cpu"} 0
worker_busy{device="cuda:0"} 1
worker_restarts_total{device="cpu"} 7
worker_restarts_total{device="cuda:0"} 8
worker_resident_bytes{device="cpu"} 310500000
worker_resident_bytes{device="cuda:0"} 2048000000
associations 9
disk_free_bytes 123400000000
disk_total_bytes 500000000000
disk_refuses 0
"""


def test_every_metric_has_its_name_its_labels_and_its_value() -> None:
    text = text_of(snapshot_seen(gathering=(version_seen(),) * 11), health_seen())
    found = [line.removeprefix("medattn_edge_") for line in text.splitlines() if not line.startswith("#")]
    assert found == SAMPLES.split("\n")[1:-1]


def test_the_document_of_a_node_has_every_field_with_its_value() -> None:
    delivery = delivery_seen("pacs", DELIVERED, accepted=NOW - 1, attempts=2)
    seen = version_seen(deliveries=(delivery,))
    found = document(
        snapshot_seen(
            recent=(seen,), quarantined=(CHANNELLED,), undelivered=(), conflicted=CONFLICTED, gathering=(CHANNELLED,)
        ),
        health_seen(),
    )
    version: dict[str, Any] = {
        "key": "a" * 32,
        "version": 1,
        "state": "delivered",
        "modality": "CT",
        "instances": 3,
        "attempts": 1,
        "worker": "cpu",
        "reason": "",
        "detail": "",
        "times": {"last_received": NOW - 90},
        "study": "",
        "model": "",
        "channels": (),
        "volumes_ml": {},
    }
    told = {"destination": "pacs", "state": "delivered", "attempts": 2, "next_try": NOW + 30, "accepted": NOW - 1}
    channelled = version | {
        "key": "b" * 32,
        "state": "segmented",
        "model": "glioma",
        "deliveries": [],
        "channels": ({"channel": "T1", "key": "d" * 32, "version": 4},),
    }
    assert found == {
        "running": True,
        "ready": True,
        "why": "",
        "started": 900_000.25,
        "version": "9.9.0",
        "name": "reading-room-2",
        "site": "f" * 16,
        "draining": False,
        "workers": [
            {"device": "cpu", "ready": True, "busy": False, "pid": 4242, "restarts": 7, "rss_mb": 310.5},
            {"device": "cuda:0", "ready": False, "busy": True, "pid": None, "restarts": 8, "rss_mb": 2048.0},
        ],
        "models": [
            {"name": "lungs", "device": "cpu", "artifact": "onnx", "sha256": "5" * 64},
            {"name": "vessels", "device": "cuda:0", "artifact": "engine", "sha256": ""},
        ],
        "destinations": ["pacs", "shelf"],
        "associations": 9,
        "disk": {"total": 500_000_000_000, "free": 123_400_000_000, "refuses": False},
        "time": NOW,
        "states": {state.value: 200 + number for number, state in enumerate(State)},
        "deliveries": {"waiting": 300, "delivered": 301, "dead": 302},
        "objects": 401,
        "bytes": 402_000,
        "conflicts": 403,
        "attempts": 404,
        "delivery_retries": 405,
        "commitments": {"waiting": 601, "answered": 602, "dead": 603},
        "committed": 604,
        "stages": {
            "waiting": {"count": 0, "p50": None, "p90": None, "max": None},
            "segmenting": {"count": 5, "p50": 1.5, "p90": 2.5, "max": 3.5},
        },
        "recent": [version | {"deliveries": [told | {"reason": "no_connection"}]}],
        "quarantined": [channelled],
        "undelivered": [],
        "conflicted": [{"key": "c" * 32, "replaced": 2, "refused": 3, "last": NOW - 5}],
        "gathering": [channelled],
    }
    stopped = document(snapshot_seen(), None)
    assert set(found) - set(stopped) == {
        *("why", "started", "version", "name", "site", "draining", "workers", "models", "destinations"),
        *("associations", "disk"),
    }


# Alerts


def titles(alerts: list[Alert]) -> list[str]:
    return [one.title for one in alerts]


@pytest.mark.parametrize(
    ("why", "ready", "refuses", "codes"),
    [
        ("", True, False, []),
        ("", False, False, ["worker_not_ready"]),
        ("", True, True, ["disk_full"]),
        ("", False, True, ["worker_not_ready", "disk_full"]),
        ("starting", False, False, ["starting"]),
        ("draining", False, True, ["draining", "disk_full"]),
        ("worker_not_ready", False, True, ["worker_not_ready", "disk_full"]),
        ("disk_full", True, True, ["disk_full"]),
        ("disk_full", False, True, ["disk_full", "worker_not_ready"]),
    ],
)
def test_a_node_gives_one_reason_and_its_page_those_behind_it(
    why: str, ready: bool, refuses: bool, codes: list[str]
) -> None:
    disk = Disk(500_000_000_000, 3_250_000_000, refuses)
    workers = (WorkerSeen("cpu", ready, False, 1, 0, 0.0), WorkerSeen("cuda:0", True, False, 1, 0, 0.0))
    alerts = alerts_of(snapshot_seen(), health_seen(ready=not why, why=why, workers=workers, disk=disk))
    assert [one.reason.code for one in alerts] == codes
    for one in alerts:
        assert one.title == "Not ready"
        assert one.kind == ("passing" if one.reason.code in ("starting", "draining") else "bad")
        if one.reason.code == "disk_full":
            assert one.note == "3.2 of 500.0 GB are free."
        else:
            assert one.note == ("" if one.reason.code == "draining" else "Not ready: cpu.")
    assert count_actions(alerts) == len([one for one in codes if one not in ("starting", "draining")])


@pytest.mark.parametrize(("count", "more"), [(1, ""), (5, ""), (6, " and 1 more"), (8, " and 3 more")])
def test_an_alert_of_conflicts_names_five_series_and_counts_the_rest(count: int, more: str) -> None:
    keys = [f"{number:032x}" for number in range(count)]
    seen = (*(ConflictSeen(key, 2, 0, NOW) for key in keys), ConflictSeen("f" * 32, 0, 7, NOW))
    refused, replaced = alerts_of(snapshot_seen(conflicted=seen), health_seen(workers=()))
    assert (refused.reason.code, replaced.reason.code) == (CONFLICT, REPLACED)
    assert refused.title == "7 objects with known UIDs and other contents refused"
    assert refused.note == f"In the series {'f' * 32}."
    assert replaced.title == f"{2 * count} objects with known UIDs and other contents replaced others"
    assert replaced.note == f"In the series {', '.join(keys[:5])}{more}."


def test_deliveries_are_told_by_destination_and_reason_and_only_once_they_have_failed() -> None:
    undelivered = (
        version_seen("1" * 32, deliveries=(delivery_seen("pacs", WAITING, next_try=NOW + 50),)),
        version_seen("2" * 32, deliveries=(delivery_seen("pacs", WAITING, next_try=NOW + 20),)),
        version_seen("3" * 32, deliveries=(delivery_seen("pacs", WAITING, attempts=0, reason=""),)),
        version_seen("4" * 32, deliveries=(delivery_seen("pacs", WAITING, reason="no_answer"),)),
        version_seen("5" * 32, deliveries=(delivery_seen("shelf", DEAD, attempts=0, reason="folder_missing"),)),
        version_seen("6" * 32, deliveries=(delivery_seen("pacs", DELIVERED),)),
    )
    dead, first, second = alerts_of(snapshot_seen(undelivered=undelivered), health_seen(workers=()))
    assert (dead.title, dead.kind, [one.key[0] for one in dead.held]) == ("1 result for shelf given up", "bad", ["5"])
    assert dead.note == "Copies lie in the folder dead of the node."
    assert dead.command("") == ("medattn-edge node requeue", "5" * 32, "--config FILE")
    assert dead.command("a b") == ("medattn-edge node requeue", "5" * 32, "--config 'a b'")
    assert (first.title, [one.key[0] for one in first.held]) == ("2 results waiting for pacs", ["1", "2"])
    assert first.note == "Tried again by itself, next in 20 s; nothing is lost."
    assert (second.title, second.reason.code, second.kind) == ("1 result waiting for pacs", "no_answer", "waiting")
    assert first.command("node.toml") == ()


def test_a_command_is_for_one_series_or_for_a_key_and_for_what_can_be_tried_again() -> None:
    one, two = (version_seen(letter * 32, State.QUARANTINED, reason="crashed") for letter in "12")
    hole = version_seen("3" * 32, State.QUARANTINED, reason="missing_slice")
    crashed, missing = alerts_of(snapshot_seen(quarantined=(one, two, hole)), health_seen(workers=()))
    assert titles([crashed, missing]) == ["2 series in quarantine", "1 series in quarantine"]
    assert crashed.command("n.toml") == ("medattn-edge node requeue", "KEY", "--config n.toml")
    assert missing.command("n.toml") == ()
    assert Alert("Not ready", crashed.reason).command("n.toml") == ()


@pytest.mark.parametrize(
    ("code", "requeue", "says"),
    [
        ("unsupported_transfer_syntax", True, "once a decoder is there, requeue the series"),
        ("several_volumes", True, "set volume = N in the [[model]]"),
        ("no_such_volume", True, "set volume = N in the [[model]]"),
        ("missing_slice", False, "a series that is sent again and whole comes in as a new version"),
        ("crashed", True, ""),
        ("from_the_future", True, "look for it in the log of the node, then requeue the series"),
    ],
)
def test_a_series_in_quarantine_may_be_tried_again_where_that_can_help(code: str, requeue: bool, says: str) -> None:
    reason = of_quarantine(code)
    assert (reason.code, reason.requeue) == (code, requeue)
    assert says in reason.action


# The page


def test_a_sentence_begins_with_one_capital_and_keeps_the_rest() -> None:
    assert sentence("the SOP class is odd") == "The SOP class is odd."


def test_what_a_destination_lacks_is_counted_and_its_first_try_told() -> None:
    undelivered = tuple(
        version_seen(str(number) * 32, deliveries=(one,))
        for number, one in enumerate(
            [
                delivery_seen("pacs", WAITING, next_try=NOW + 50, reason=""),
                delivery_seen("pacs", WAITING, next_try=NOW + 20, reason="no_answer"),
                delivery_seen("pacs", DEAD, next_try=NOW + 5, reason="refused"),
                delivery_seen("gone", DEAD, reason="host_unknown"),
            ]
        )
    )
    text = page_of(snapshot_seen(undelivered=undelivered), health_seen(), frozenset())
    rows = text[text.index('id="deliveries"') :].split("</tbody>")[0].split("<tr")[2:]
    plain = [[re.sub("<.*?>", "", cell).strip() for cell in re.split("<t[dh].*?>", row)[1:]] for row in rows]
    assert plain == [
        ["pacs", "2", "1", "in 20 s", "no_answer"],
        ["shelf", "0", "0", "-", "-"],
        ["gone", "0", "1", "-", "host_unknown"],
    ]


def test_four_pictures_are_shown_and_five_series_of_an_alert() -> None:
    recent = tuple(version_seen(f"{number:032x}") for number in range(6))
    held = tuple(version_seen(f"{number:032x}", State.QUARANTINED, reason="crashed") for number in range(16, 23))
    snapshot = snapshot_seen(recent=recent, quarantined=held)
    shown = frozenset((one.key, one.version) for one in recent[1:])
    text = page_of(snapshot, health_seen(), shown)
    assert [f"/thumbnails/{one.key}-v1.png" in text for one in recent] == [False, True, True, True, True, False]
    assert "and 2 more" in text
    assert "200 more in quarantine are not listed" in text
    assert '<meta http-equiv="refresh" content="10">' in text


@pytest.mark.parametrize(
    ("times", "told", "word"),
    [
        ({"last_received": 90.0}, "10 s", "10 s ago"),
        ({"last_received": 101.0}, "0.0 s", "0.0 s ago"),  # a clock went back
        ({"last_received": 0.0}, "100 s", "100 s ago"),
        ({}, "-", "-"),
    ],
)
def test_how_long_the_last_object_is_here(times: dict[str, float], told: str, word: str) -> None:
    assert (since(version_seen(times=times), 100.0), ago(version_seen(times=times), 100.0)) == (told, word)


def test_the_time_of_work_needs_both_its_ends() -> None:
    running = version_seen(state=State.RUNNING, times={"claimed": 101.0})
    assert took(running, 100.0) == "0.0 s so far"
    assert took(version_seen(state=State.SEGMENTED, times={"segmented": 3.0}), 100.0) == "-"
    assert took(version_seen(state=State.SEGMENTED, times={"last_received": 3.0}), 100.0) == "-"
    assert took(version_seen(state=State.RUNNING, times={}), 100.0) == "-"
    assert [seconds(value) for value in (9.96, 171_000.0, 25_963_200.0, 26_049_600.0)] == [
        *("10.0 s", "48 h", "300 d", "302 d")
    ]
    assert until(99.0, 100.0) == "now"


def test_a_time_is_of_this_machine_with_its_zone_for_people_and_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    try:
        assert clock(0.0) == '<time datetime="1970-01-01T02:00:00+0200">1970-01-01 02:00:00 XYZ</time>'
    finally:
        monkeypatch.undo()
        time.tzset()
