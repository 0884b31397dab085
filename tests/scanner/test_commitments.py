"""Storage commitment on record: what a node promises to keep, what it does not, and that it keeps it."""

from __future__ import annotations

import os

import pytest

from medattn_edge.scanner.store.commitments import Judgement
from tests.support.durable_node import Node, sample

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
DAY = 86_400.0


def record(node: Node, *instances: tuple[str, str], uid: str = "2.25.1", requester: str = "CT1", waiting: int = 9):
    return node.custody.commitments.requests.record(requester, uid, instances, waiting)


def judge(node: Node, *instances: tuple[str, str], keep_days: float = 30, uid: str = "2.25.1") -> Judgement:
    record(node, *instances, uid=uid)
    request = node.custody.commitments.requests.due("CT1")[-1]
    judgement = node.custody.commitments.judge(request, keep_days, {CT})
    node.custody.commitments.requests.record_answered(request, len(judgement.committed), len(judgement.failed))
    return judgement


def delivered(node: Node, series: int = 1) -> None:
    assert node.segment(node.job(series), "pacs")
    [delivery] = node.custody.deliveries_due("pacs")
    node.custody.record_delivered(delivery)


def test_what_is_here_is_committed_and_the_rest_fails_each_with_its_reason(node):
    for number in range(4):
        node.keep(1, number)
    [damaged] = [one for one in node.spool.incoming.rglob("*.dcm") if b"1.2.3.1.3" in one.read_bytes()]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    found = judge(
        node, (CT, "1.2.3.1.0"), (CT, "1.2.3.1.1"), (MR, "1.2.3.1.2"), (CT, "1.2.3.1.3"), (CT, "9.9"), (MR, "9.8")
    )
    assert found.committed == ((CT, "1.2.3.1.0"), (CT, "1.2.3.1.1"))
    assert dict(found.failed) == {
        (MR, "1.2.3.1.2"): 0x0119,
        (CT, "1.2.3.1.3"): 0x0110,
        (CT, "9.9"): 0x0112,
        (MR, "9.8"): 0x0122,
    }
    assert node.custody.snapshot().committed == 2


def test_an_object_that_is_not_there_any_more_is_not_committed(node):
    node.keep(1, 0)
    [path] = node.spool.incoming.rglob("*.dcm")
    path.unlink()
    assert dict(judge(node, (CT, "1.2.3.1.0")).failed) == {(CT, "1.2.3.1.0"): 0x0110}
    assert node.custody.snapshot().committed == 0


def test_an_object_whose_last_content_was_refused_is_not_committed(node):
    node.keep(1, 0)
    content, header = sample(1, 0, "corrected")
    with pytest.raises(Exception, match="conflict"):
        node.custody.keep(content, header, "SCANNER", "refuse")
    assert dict(judge(node, (CT, "1.2.3.1.0")).failed) == {(CT, "1.2.3.1.0"): 0x0110}


def test_a_series_in_quarantine_is_kept_and_committed(node):
    job = node.job()
    assert node.custody.quarantine(job, "missing_slice")
    assert len(judge(node, (CT, "1.2.3.1.0"), (CT, "1.2.3.1.1")).committed) == 2


def test_a_transaction_uid_in_use_for_something_else_is_a_duplicate(node):
    node.keep(1, 0)
    assert record(node, (CT, "1.2.3.1.0")) == record(node, (CT, "1.2.3.1.0"))
    assert record(node, (CT, "1.2.3.1.0"), requester="CT2") != record(node, (CT, "1.2.3.1.1"))
    requests = node.custody.commitments.requests
    first, second = requests.due("CT1")
    [other] = requests.due("CT2")
    assert [one.duplicate for one in (first, second, other)] == [False, True, True]
    found = node.custody.commitments.judge(other, 30, {CT})
    assert (found.committed, dict(found.failed)) == ((), {(CT, "1.2.3.1.0"): 0x0131})


def test_a_request_that_was_answered_is_answered_again_when_it_comes_again(node):
    node.keep(1, 0)
    for _ in range(2):
        assert judge(node, (CT, "1.2.3.1.0")).failed == ()
    assert node.custody.snapshot().commitments == {"waiting": 0, "answered": 1, "dead": 0}


def test_no_more_than_so_many_requests_wait(node):
    assert record(node, (CT, "1"), uid="2.25.1", waiting=1)
    assert record(node, (CT, "1"), uid="2.25.2", waiting=1) is None
    assert record(node, (CT, "1"), uid="2.25.1", waiting=1)


def test_a_request_outlives_a_crash_and_is_tried_again_with_longer_pauses_until_it_is_given_up(node):
    record(node, (CT, "1.2.3.1.0"))
    node.restart()
    requests = node.custody.commitments.requests
    pauses = []
    for _ in range(2):
        [request] = requests.due("CT1")
        again = requests.record_failure(request, "no_connection")
        assert again is not None
        assert not requests.due("CT1")
        pauses.append(again - node.now)
        node.pass_time(pauses[-1])
        node.restart()
        requests = node.custody.commitments.requests
    assert pauses[1] > pauses[0] > 0
    [request] = requests.due("CT1")
    assert requests.record_failure(request, "no_connection") is None
    assert not requests.due("CT1")
    assert node.custody.snapshot().commitments["dead"] == 1


def test_a_clock_that_was_set_back_holds_no_answer(node):
    record(node, (CT, "1"))
    node.pass_time(-10 * DAY)
    assert node.custody.commitments.requests.due("CT1")


def test_what_was_promised_stays_as_long_as_was_promised_however_full_the_disk_is(node):
    delivered(node)
    assert len(judge(node, (CT, "1.2.3.1.0")).committed) == 1
    node.limits |= {"max_used_fraction": 1e-9, "min_free": 1 << 60}  # short of room at every look
    node.restart()
    node.pass_time(29 * DAY)
    assert node.custody.clean(1, 1).series == 0
    assert len(list(node.spool.incoming.rglob("*.dcm"))) == 2
    node.pass_time(1 * DAY)
    assert node.custody.clean(1, 1).series == 1
    assert node.custody.snapshot().committed == 0


def test_without_a_promise_the_same_series_goes(node):
    delivered(node)
    node.pass_time(2 * DAY)
    assert node.custody.clean(1, 1).series == 1


def test_a_promise_that_is_given_again_counts_from_then_on_and_never_gets_shorter(node):
    delivered(node)
    judge(node, (CT, "1.2.3.1.0"))
    node.pass_time(20 * DAY)
    judge(node, (CT, "1.2.3.1.0"), uid="2.25.2")
    judge(node, (CT, "1.2.3.1.0"), uid="2.25.3", keep_days=1)
    node.pass_time(29 * DAY)
    assert node.custody.clean(1, 1).series == 0
    node.pass_time(1 * DAY)
    assert node.custody.clean(1, 1).series == 1


def test_a_promised_object_that_was_corrected_since_stays_in_quarantine(node):
    node.keep(1, 0)
    node.keep(1, 1)
    judge(node, (CT, "1.2.3.1.0"))
    for number in (0, 1):
        node.keep(1, number, "corrected")
    for path in node.spool.objects.iterdir():
        os.utime(path, (node.now, node.now))
    node.pass_time(29 * DAY)
    node.custody.clean(14, 14)
    [kept] = node.spool.objects.iterdir()
    assert b"1.2.3.1.0" in kept.read_bytes()
    node.pass_time(2 * DAY)
    node.custody.clean(14, 14)
    assert not list(node.spool.objects.iterdir())


def test_what_was_answered_is_forgotten_after_a_while_and_what_waits_never(node):
    judge(node, (CT, "9"))
    record(node, (CT, "8"), uid="2.25.2")
    node.pass_time(20 * DAY)
    node.custody.clean(14, 14)
    assert node.custody.snapshot().commitments == {"waiting": 1, "answered": 0, "dead": 0}
