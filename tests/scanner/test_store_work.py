"""Deliveries, letters, attempts and what is shown of them: counted, in order, and to the second."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.errors import MedattnError
from medattn_edge.scanner.store.dead_letters import write_letter
from medattn_edge.scanner.store.records import ConflictRefused, Delivery, Output, code
from medattn_edge.scanner.store.snapshot import Spread, spread_of
from medattn_edge.scanner.store.transitions import DeliveryState, State
from tests.support.durable_node import POLICY, Node, sample


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Node]]:
    """Nodes that are closed in the end."""
    nodes: list[Node] = []
    yield nodes
    for one in nodes:
        one.store.close()


# Deliveries and letters


def test_a_delivery_that_has_no_letter_yet_counts_its_last_attempt_again(node):
    delivery = Delivery(1, "k" * 32, 1, "pacs", 4, (Output("seg", "seg.dcm"),))
    assert delivery.without_last_attempt() == replace(delivery, attempts=3)


def test_a_letter_says_when_and_of_what_to_the_second(node):
    node.segment(node.job(), "disk")
    [delivery] = node.store.deliveries.due()
    folder = node.spool.result(delivery.key, 1)
    os.utime(folder, (86_400.0, 86_400.0))
    outputs = (*delivery.outputs, Output("sc", "gone.dcm"))
    path = write_letter(node.spool.layout, replace(delivery, attempts=2, outputs=outputs), "refused", 90_061.0)
    assert json.loads((path / "letter.json").read_text()) == {
        "series": delivery.key,
        "version": 1,
        "destination": "disk",
        "reason": "refused",
        "attempts": 3,
        "segmented": "1970-01-02T00:00:00+00:00",
        "died": "1970-01-02T01:01:01+00:00",
        "files": ["seg.dcm"],
        "next": f"medattn-edge node requeue {delivery.key}",
    }
    node.spool.remove_result(delivery.key, 1)
    path = write_letter(node.spool.layout, delivery, "refused", 0.0)
    told = json.loads((path / "letter.json").read_text())
    assert (told["segmented"], told["files"], told["attempts"]) == (None, [], 1)


def test_a_delivery_is_given_up_with_its_last_attempt_and_not_before(node):
    node.segment(node.job(), "pacs")
    for attempt in range(1, POLICY.delivery_attempts + 1):
        [delivery] = node.store.deliveries.due("pacs")
        assert delivery.attempts == attempt - 1
        again = node.custody.fail_delivery(delivery, "no_connection")
        assert (again is None) == (attempt == POLICY.delivery_attempts)
        [seen] = node.store.snapshot().recent[0].deliveries
        assert (seen.attempts, seen.reason, seen.state is DeliveryState.DEAD) == (
            attempt,
            "no_connection",
            again is None,
        )
        node.now = again or node.now
    assert node.store.snapshot().retries == POLICY.delivery_attempts


def test_so_many_deliveries_are_due_at_once_the_longest_waiting_first(node):
    for series in range(3):
        node.segment(node.job(series, 1), "pacs")
    for limit in (1, 2, 3, 100):
        found = node.custody.deliveries_due("pacs", limit)
        assert [one.key for one in found] == [node.key(series) for series in range(min(limit, 3))]
    assert node.custody.deliveries_due("elsewhere") == ()


# Work


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_series_is_tried_again_as_often_as_the_policy_says(tmp_path, made, retries):
    node = Node(tmp_path / "node", replace(POLICY, retries=retries))
    made.append(node)
    job = node.job()
    for attempt in range(1, retries + 1):
        assert job.attempt == attempt
        assert node.custody.fail(job, "crashed", "once") is State.QUEUED
        job = node.custody.claim("worker-0")
    assert node.custody.fail(job, "crashed", "for good") is State.QUARANTINED
    [seen] = node.store.snapshot().quarantined
    assert (seen.attempts, seen.detail) == (retries + 1, "for good")


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_series_may_end_a_node_as_often_as_the_policy_says(tmp_path, made, allowed):
    node = Node(tmp_path / "node", replace(POLICY, interruptions=allowed))
    made.append(node)
    node.job()
    for _ in range(allowed):
        found = node.restart()
        assert (found.requeued, found.quarantined) == (1, 0)
        assert node.custody.claim("worker-0") is not None
    found = node.restart()
    assert (found.requeued, found.quarantined) == (0, 1)
    assert node.store.snapshot().quarantined[0].detail == f"the node ended {allowed + 1} times while this ran"


# What is shown


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        ([4.0], Spread(1, 4.0, 4.0, 4.0)),
        ([4.0, 2.0], Spread(2, 2.0, 4.0, 4.0)),
        ([3.0, 1.0, 2.0], Spread(3, 2.0, 3.0, 3.0)),
        (list(map(float, range(11))), Spread(11, 5.0, 9.0, 10.0)),
        (list(map(float, range(20))), Spread(20, 9.0, 17.0, 19.0)),
    ],
)
def test_a_percentile_is_of_the_nearest_rank(values, spread):
    assert spread_of(values) == spread


def test_of_no_values_there_is_no_spread():
    empty = spread_of([])
    assert empty.count == 0
    assert all(math.isnan(value) for value in (empty.p50, empty.p90, empty.max))


def test_a_clock_that_was_set_back_makes_no_negative_time(node):
    job = node.job()
    node.pass_time(-500)
    node.segment(job)
    assert node.store.snapshot().stages["segmenting"] == Spread(1, 0.0, 0.0, 0.0)


def test_a_fresh_node_shows_nothing_but_zeros(node):
    seen = node.store.snapshot()
    counts = (seen.instances, seen.bytes, seen.conflicts, seen.attempts, seen.retries, seen.committed)
    assert counts == (0, 0, 0, 0, 0, 0)
    assert seen.commitments == {"waiting": 0, "answered": 0, "dead": 0}
    assert set(seen.states.values()) == set(seen.deliveries.values()) == {0}
    assert (seen.recent, seen.quarantined, seen.undelivered, seen.conflicted, seen.gathering) == ((), (), (), (), ())


@pytest.mark.parametrize(
    ("text", "taken"),
    [("a", True), ("a" * 48, True), ("a" * 49, False), ("", False), ("1a", False), ("a_1", True), ("A", False)],
)
def test_a_code_has_at_most_48_letters_digits_and_underscores(text, taken):
    if taken:
        assert code(text) == text
    else:
        with pytest.raises(ValueError, match="at most 48"):
            code(text)


def test_an_object_on_record_is_known_by_its_hash_and_its_name(node):
    node.keep(1, 1, sha256="d" * 64)
    name = node.store.site.object_name("1.2.3.1.1")
    assert node.store.series.known(node.key(1), "1.2.3.1.1") == ("d" * 64, name)
    assert node.store.series.known(node.key(1), "1.2.3.1.2") is None
    assert node.store.series.usage(node.key(1)) == (1, len(sample(1, 1)[0]))
    assert node.store.series.usage(node.key(2)) == (0, 0)
    assert node.store.series.state_of(node.key(2)) is None
    assert isinstance(ConflictRefused("conflict", "k"), MedattnError)
