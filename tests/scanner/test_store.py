"""Rows: what a series goes through, what is refused, and that nothing is counted twice or lost."""

from __future__ import annotations

import pytest

from medattn_edge.errors import UsageError
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.store.records import Fate, Policy
from medattn_edge.scanner.store.snapshot import spread_of
from medattn_edge.scanner.store.transitions import (
    DeliveryState,
    State,
    TransitionRefused,
)
from tests.support.durable_node import POLICY, Node


def rows(node, query, *values):
    with node.store.database.reading() as database:
        return [tuple(row) for row in database.execute(query, values)]


def states(node):
    return [State(state) for (state,) in rows(node, "SELECT state FROM versions ORDER BY id")]


# Receiving


def test_the_same_object_again_is_a_harmless_duplicate(node):
    assert node.keep(1, 1).fate is Fate.NEW
    again = node.keep(1, 1)
    assert (again.fate, again.version, node.store.series.usage(again.key)[0]) == (Fate.DUPLICATE, 1, 1)


def test_of_two_objects_with_one_uid_the_second_stays_and_the_first_is_in_quarantine(node):
    first = node.keep(1, 1)
    assert node.keep(1, 1, more="other pixels").fate is Fate.REPLACED
    assert node.keep(1, 1, more="other pixels").fate is Fate.DUPLICATE
    [kept] = (node.spool.incoming / first.key).iterdir()
    [aside] = node.spool.objects.iterdir()
    assert b"other pixels" in kept.read_bytes()
    assert b"other pixels" not in aside.read_bytes()
    assert aside.name.startswith(f"replaced-{first.key}-")
    assert node.store.snapshot().conflicts == 1


def test_a_digest_of_the_data_set_makes_other_file_meta_information_no_conflict(node):
    node.keep(1, 1, more="sent by A", sha256="d" * 64)
    assert node.keep(1, 1, more="sent by B", sha256="d" * 64).fate is Fate.DUPLICATE


def test_a_series_is_complete_after_quiet_time_and_not_before(node):
    node.keep(1, 1)
    node.pass_time(59)
    node.keep(1, 2)
    node.pass_time(59)
    assert node.custody.queue_complete().queued == ()
    node.pass_time(1)
    assert node.custody.queue_complete().queued == (node.key(1),)
    assert node.custody.queue_complete().queued == ()


def test_a_series_waits_for_an_open_association_but_not_for_ever(node):
    associations = Associations()
    first, second = associations.opened(), associations.opened()
    key = node.keep(1, 1).key
    for _ in range(3):
        associations.delivered(first, key)
    associations.delivered(second, key)
    associations.closed(first)
    associations.closed(first)
    node.pass_time(599)
    assert node.custody.queue_complete(associations.busy()).queued == ()
    associations.closed(second)
    assert (associations.busy(), associations.count) == (frozenset(), 0)
    associations.delivered(second, key)
    assert associations.busy() == frozenset()
    node.pass_time(1)
    assert node.custody.queue_complete({key}).queued == (key,)


def test_a_clock_that_is_set_back_holds_no_series(node):
    node.keep(1, 1)
    node.now -= 100_000
    assert node.custody.queue_complete().queued == ()
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(1),)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.QUARANTINED])
def test_a_late_image_replaces_a_version_that_has_no_result(node, state):
    job = node.job()
    if state is State.QUEUED:
        assert node.store.jobs.fail(job, "crashed") is State.QUEUED
    elif state is State.QUARANTINED:
        assert node.custody.quarantine(job, "missing_slice")
    late = node.keep(1, "late")
    assert (late.version, late.late, late.fate) == (2, True, Fate.NEW)
    assert states(node) == [State.SUPERSEDED, State.RECEIVING]
    assert not node.segment(job, "pacs")  # whoever still works on it delivers nothing
    assert not node.spool.result(job.key, 1).exists()
    node.pass_time(60)
    node.custody.queue_complete()
    again = node.custody.claim("worker-0")
    assert again is not None
    assert len(node.custody.files(again)) == 3


def test_a_late_image_leaves_a_result_and_its_delivery_alone(node):
    assert node.segment(node.job(), "pacs")
    node.keep(1, "late")
    assert states(node) == [State.SEGMENTED, State.RECEIVING]
    [delivery] = node.store.deliveries.due()
    node.store.deliveries.record_delivered(delivery)
    assert states(node) == [State.DELIVERED, State.RECEIVING]


def test_a_job_has_its_own_images_though_a_later_one_lies_beside_them(node):
    job = node.job(count=2)
    node.keep(1, "late")
    assert len(node.custody.files(job)) == 2
    assert not node.store.jobs.is_held(job)


# Working


def test_the_series_that_waits_for_longest_is_claimed_first_and_only_once(node):
    for series in (1, 2):
        node.keep(series, 1)
        node.pass_time(60)
        node.custody.queue_complete()
    jobs = [node.custody.claim("a"), node.custody.claim("b"), node.custody.claim("a")]
    assert [job and job.key for job in jobs] == [node.key(1), node.key(2), None]


def test_a_worker_takes_only_what_it_accepts(node):
    node.keep(1, 1)
    node.keep(2, 1)
    node.pass_time(60)
    node.custody.queue_complete()
    seen = []
    assert node.custody.claim("a", lambda job: seen.append((job.modality, job.calling_ae)) or False) is None
    assert seen == [("CT", "SCANNER")] * 2
    assert node.custody.claim("a", lambda job: job.key == node.key(2)).key == node.key(2)


def test_a_failed_series_is_tried_once_more_and_then_quarantined_with_its_files(node):
    first = node.job()
    assert node.custody.fail(first, "crashed", "signal 11") is State.QUEUED
    second = node.custody.claim("worker-0")
    assert (second.attempt, second.version) == (2, 1)
    assert node.custody.fail(first, "hung") is None  # told late about the first attempt
    assert not node.segment(first, "pacs")
    assert node.custody.fail(second, "hung") is State.QUARANTINED
    [seen] = node.store.snapshot().quarantined
    assert (seen.reason, seen.attempts, seen.instances) == ("hung", 2, 2)
    assert len(list((node.spool.quarantined / first.key).iterdir())) == 2
    assert not (node.spool.incoming / first.key).exists()


def test_a_reason_is_a_code_so_that_no_name_can_stand_in_it(node):
    job = node.job()
    with pytest.raises(ValueError, match="code"):
        node.store.jobs.fail(job, "Doe^John cannot be read")
    assert node.store.jobs.is_held(job)


def test_a_series_that_ends_the_node_too_often_is_quarantined(node):
    node.job()
    for _ in range(POLICY.interruptions):
        assert node.restart().requeued == 1
        assert node.custody.claim("worker-0") is not None
    assert node.restart().quarantined == 1
    [seen] = node.store.snapshot().quarantined
    assert seen.reason == "interrupted"


# Delivering


def test_a_version_is_delivered_when_every_destination_has_it(node):
    node.segment(node.job(), "pacs", "archive")
    first, second = node.store.deliveries.due()
    assert [output.name for output in first.outputs] == ["seg.dcm"]
    node.store.deliveries.record_delivered(first)
    assert states(node) == [State.SEGMENTED]
    with pytest.raises(TransitionRefused):
        node.store.deliveries.record_delivered(first)
    node.store.deliveries.record_delivered(second)
    assert states(node) == [State.DELIVERED]
    assert node.store.deliveries.due() == ()


def test_the_volumes_of_a_result_are_kept_until_the_result_is_lost(node):
    volumes = {"right_lung": 1234.5, 'a "quoted" name': 0.0}
    job = node.job()
    assert node.store.snapshot().recent[0].volumes_ml == {}
    node.segment(job, "pacs", volumes_ml=volumes)
    assert node.restart().requeued == 0
    assert node.store.snapshot().recent[0].volumes_ml == volumes
    (node.spool.result(job.key, job.version) / "seg.dcm").unlink()
    [delivery] = node.store.deliveries.due()
    assert node.custody.requeue_if_lost(delivery)
    assert node.store.snapshot().recent[0].volumes_ml == {}


def test_without_destinations_a_result_is_delivered_at_once(node):
    node.segment(node.job())
    assert states(node) == [State.DELIVERED]


def test_a_destination_is_tried_again_after_growing_pauses_and_then_dead(tmp_path):
    node = Node(tmp_path / "node", Policy(quiet_s=60, retry_initial_s=10, retry_max_s=40, delivery_attempts=6, seed=3))
    node.segment(node.job(), "pacs")
    pauses = []
    for _ in range(5):
        [delivery] = node.store.deliveries.due("pacs")
        next_try = node.store.deliveries.record_failure(delivery, "no_connection")
        pauses.append(next_try - node.now)
        assert node.store.deliveries.due("pacs") == ()
        node.now = next_try
    for pause, whole in zip(pauses, (10, 20, 40, 40, 40), strict=True):
        assert whole / 2 <= pause <= whole
    assert len(set(pauses)) == 5
    [delivery] = node.store.deliveries.due("pacs")
    assert node.store.deliveries.record_failure(delivery, "no_connection") is None
    assert states(node) == [State.FAILED]
    with pytest.raises(TransitionRefused):
        node.store.deliveries.record_failure(delivery, "no_connection")
    node.store.close()


def test_one_dead_destination_does_not_stop_another(node):
    node.segment(node.job(), "pacs", "archive")
    first, second = node.store.deliveries.due()
    node.store.deliveries.give_up(first, "refused")
    assert [one.destination for one in node.store.deliveries.due()] == ["archive"]
    node.store.deliveries.record_delivered(second)
    assert states(node) == [State.FAILED]
    assert node.store.repairs.requeue(node.key(1)) is State.SEGMENTED
    [again] = node.store.deliveries.due()
    assert (again.destination, again.attempts) == ("pacs", 0)
    node.store.deliveries.record_delivered(again)
    assert states(node) == [State.DELIVERED]


# For people


def test_an_operator_can_have_a_quarantined_series_tried_again(node):
    job = node.job()
    node.custody.quarantine(job, "no_route")
    assert node.store.repairs.requeue(job.key) is State.QUEUED
    again = node.custody.claim("worker-0")
    assert again.attempt == 2
    assert len(node.custody.files(again)) == 2
    assert not (node.spool.quarantined / job.key).exists()


@pytest.mark.parametrize("key", ["0" * 32, None])
def test_there_is_nothing_to_try_again_of_an_unknown_or_delivered_series(node, key):
    node.segment(node.job())
    with pytest.raises(UsageError, match="expected"):
        node.store.repairs.requeue(key or node.key(1))


def test_the_snapshot_tells_where_the_time_went(node):
    for series in range(3):
        job = node.job(series)
        node.pass_time(10 + series)
        node.segment(job, "pacs")
        [delivery] = node.store.deliveries.due()
        node.pass_time(5)
        node.store.deliveries.record_delivered(delivery)
    seen = node.store.snapshot(recent=2)
    assert [one.key for one in seen.recent] == [node.key(2), node.key(1)]
    assert (seen.states[State.DELIVERED], seen.deliveries[DeliveryState.DELIVERED], seen.instances) == (3, 3, 6)
    segmenting = seen.stages["segmenting"]
    assert (segmenting.count, segmenting.p50, segmenting.p90, segmenting.max) == (3, 11, 12, 12)
    assert (seen.stages["completing"].p50, seen.stages["delivering"].max, seen.stages["whole"].max) == (60, 5, 77)
    assert "1.2.3" not in repr(seen)
    assert "CHEST" not in repr(seen)


def test_percentiles_are_values_that_occurred():
    assert spread_of([5, 1, 2, 3, 4, 6, 7, 8, 9, 100]) == (spread_of(range(1, 10)).__class__)(10, 5, 9, 100)
    assert spread_of([]).count == 0


def test_twenty_series_are_shown_unless_more_are_asked_for(node):
    for series in range(22):
        node.keep(series, 1)
    assert len(node.custody.snapshot().recent) == len(node.store.snapshot().recent) == 20
    assert len(node.custody.snapshot(21).recent) == 21
