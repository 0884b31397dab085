"""Rows at their limits: one object, byte, attempt or second less and more than a policy says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.scanner.store.disk import Watermark, folder_bytes
from medattn_edge.scanner.store.records import ConflictRefused, Fate, Policy
from medattn_edge.scanner.store.retention import DAY_S
from tests.support.durable_node import POLICY, Node, sample

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOMY = {"max_used_fraction": 1.0, "min_free": 0}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Node]]:
    """Nodes that are closed in the end."""
    nodes: list[Node] = []
    yield nodes
    for one in nodes:
        one.store.close()


def size_of(series: object, number: object, more: str = "") -> int:
    return len(sample(series, number, more)[0])


# Admission


def test_a_series_may_have_as_many_objects_and_bytes_as_the_policy_says_and_not_one_more(tmp_path, made):
    count = Node(tmp_path / "count", replace(POLICY, max_instances=3))
    size = Node(tmp_path / "size", replace(POLICY, max_bytes=3 * size_of(1, 1)))
    made += [count, size]
    for node, reason in ((count, "too_many_instances"), (size, "series_too_large")):
        for number in (1, 2, 3):
            assert node.keep(1, number).fate is Fate.NEW
        with pytest.raises(OutputError, match="at most") as raised:
            node.keep(1, 4)
        assert f"{node.policy.max_instances} and {node.policy.max_bytes} bytes" in raised.value.expected
        assert node.keep(1, 3).fate is Fate.DUPLICATE
        node.pass_time(60)
        assert node.custody.queue_complete().quarantined == (node.key(1),)
        assert node.store.snapshot().quarantined[0].reason == reason
    exact = Node(tmp_path / "exact", replace(POLICY, max_bytes=2 * size_of(1, 1) + 1))
    made.append(exact)
    exact.keep(1, 1)
    assert exact.keep(1, 2).fate is Fate.NEW
    with pytest.raises(OutputError):
        exact.keep(1, 3)


def test_one_object_is_replaced_as_often_as_the_policy_says_and_not_once_more(tmp_path, made):
    node = Node(tmp_path / "node", replace(POLICY, max_replacements=2))
    made.append(node)
    node.keep(1, 1)
    assert [node.keep(1, 1, more).fate for more in ("a", "b")] == [Fate.REPLACED] * 2
    with pytest.raises(ConflictRefused) as raised:
        node.keep(1, 1, "c")
    assert (raised.value.reason, raised.value.key) == ("too_many_contents", node.key(1))
    assert node.keep(1, 1, "b").fate is Fate.DUPLICATE
    seen = node.store.snapshot()
    assert (seen.conflicts, [(one.replaced, one.refused) for one in seen.conflicted]) == (3, [(2, 1)])


def test_a_replacement_may_fill_a_series_to_the_byte(tmp_path, made):
    whole = size_of(1, 1) + size_of(1, 1, "x")
    for limit, taken in ((whole, True), (whole - 1, False)):
        node = Node(tmp_path / str(limit), replace(POLICY, max_bytes=limit))
        made.append(node)
        node.keep(1, 1)
        if taken:
            assert node.keep(1, 1, "x").fate is Fate.REPLACED
        else:
            with pytest.raises(ConflictRefused) as raised:
                node.keep(1, 1, "x")
            assert raised.value.reason == "series_too_large"


def test_a_correction_is_refused_where_that_is_asked_for_and_the_first_stays(node):
    node.keep(1, 1)
    content, header = sample(1, 1, "corrected")
    with pytest.raises(ConflictRefused) as raised:
        node.custody.keep(content, header, "SCANNER", "refuse")
    assert raised.value.reason == "conflict"
    assert list(node.spool.objects.iterdir()) == []
    assert node.keep(1, 1).fate is Fate.DUPLICATE


@pytest.mark.parametrize("blank", ["series_uid", "sop_uid"])
def test_each_of_two_uids_may_not_be_blank(node, blank):
    data, header = sample(1, 1)
    with pytest.raises(ScanError, match="empty"):
        node.custody.keep(data, replace(header, **{blank: " "}))


def test_an_object_that_the_disk_refuses_is_missing_only_where_it_is_not_here(node):
    node.keep(1, 1)
    for number in (1, 2):
        node.custody.record_no_room(sample(1, number)[1], "SCANNER")
    node.pass_time(60)
    assert node.custody.queue_complete().quarantined == (node.key(1),)
    [seen] = node.store.snapshot().quarantined
    assert (seen.reason, seen.detail) == ("disk_full", "1 objects were sent and not taken")


def test_an_object_that_was_refused_is_forgotten_when_it_comes_and_its_series_goes_on(node):
    node.keep(1, 1)
    node.custody.record_refusal(sample(1, 2)[1], "truncated")
    node.keep(1, 2)
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(1),)


def test_a_full_disk_says_how_full_and_what_to_do(tmp_path, made):
    node = Node(tmp_path / "node", limits={**ROOMY, "quota": 2_000_000_000})
    made.append(node)
    node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=0.5, min_free=1_500_000_000))
    node.limits["quota"] = 1
    node.custody.configure(node.policy, Watermark(node.root, **node.limits))
    with pytest.raises(OutputError, match=r"is 100% full, 0\.0 GB are free"):
        node.keep(1, 1)


# Retention


def delivered(node: Node, series: object) -> str:
    node.segment(node.job(series), "pacs")
    [delivery] = node.store.deliveries.due()
    node.store.deliveries.record_delivered(delivery)
    return node.key(series)


def test_a_delivered_series_goes_at_the_end_of_its_days_and_not_a_second_sooner(node):
    for series in (1, 2):
        delivered(node, series)
    finished = node.now
    held = sum(folder_bytes(at / node.key(one)) for one in (1, 2) for at in (node.spool.incoming, node.spool.results))
    node.now = finished + 7 * DAY_S - 1
    assert node.custody.clean(7, 30).series == 1  # the first was finished a minute before
    node.now = finished + 7 * DAY_S
    assert node.custody.clean(7, 30).series == 1
    assert node.custody.clean(7, 30) == type(node.custody.clean(7, 30))(0, 0, 0)
    assert held > 0
    assert folder_bytes(node.spool.incoming) == folder_bytes(node.spool.results) == 0


def test_a_clean_up_counts_what_it_removed_to_the_byte(node):
    keys = [delivered(node, series) for series in (1, 2, 3)]
    held = sum(folder_bytes(at / key) for key in keys for at in (node.spool.incoming, node.spool.results))
    sizes = [7, 20]
    for size in sizes:
        path = node.custody.keep_unreadable(bytes(size), "cannot_read")
        os.utime(path, (node.now, node.now))
    node.pass_time(31 * DAY_S)
    found = node.custody.clean(7, 30)
    assert (found.series, found.objects, found.bytes) == (3, 2, held + 27)


def test_a_single_object_stays_for_its_days_and_an_unfinished_one_is_not_touched(node):
    path = node.custody.keep_unreadable(b"no DICOM", "cannot_read")
    (node.spool.objects / ".half.tmp").write_bytes(b"half")
    for one in node.spool.objects.iterdir():
        os.utime(one, (node.now, node.now))
    node.pass_time(30 * DAY_S)
    assert node.custody.clean(7, 30).objects == 0
    node.pass_time(1)
    assert node.custody.clean(7, 30).objects == 1
    assert not path.exists()
    assert (node.spool.objects / ".half.tmp").exists()


@pytest.mark.parametrize(("spare", "cleaned"), [(0.049, 1), (0.0501, 0)])
def test_a_disk_is_cleaned_before_it_refuses_work_with_a_twentieth_to_spare(tmp_path, made, spare, cleaned):
    node = Node(tmp_path / "node")
    made.append(node)
    delivered(node, 1)
    held = folder_bytes(node.root)
    mark = Watermark(node.root, max_used_fraction=1.0, min_free=0, quota=round(held / (1 - spare)))
    node.custody.configure(node.policy, mark)
    assert not node.custody.disk().refuses
    assert node.custody.clean(7, 30).series == cleaned


def test_what_was_cleaned_up_is_room_at_once(tmp_path, made):
    node = Node(tmp_path / "node", limits={**ROOMY, "quota": 10_000_000})
    made.append(node)
    path = node.custody.keep_unreadable(bytes(2_000_000), "cannot_read")
    os.utime(path, (node.now, node.now))
    before = node.custody.disk().free
    node.pass_time(31 * DAY_S)
    assert node.custody.clean(7, 30).bytes == 2_000_000
    assert node.custody.disk().free > before + 1_500_000


# Storage commitment


def test_pauses_of_an_answer_double_up_to_the_longest_and_are_counted(tmp_path, made):
    policy = Policy(quiet_s=60, retry_initial_s=10, retry_max_s=35, delivery_attempts=5)
    node = Node(tmp_path / "node", policy)
    made.append(node)
    requests = node.custody.commitments.requests
    assert requests.record("CT1", "2.25.1", [(CT, "1.2")], 9) == 1
    for attempts, whole in enumerate((10, 20, 35, 35)):
        [request] = requests.due("CT1")
        assert (request.attempts, request.duplicate, request.instances) == (attempts, False, ((CT, "1.2"),))
        again = requests.record_failure(request, "no_connection")
        assert again is not None
        assert whole / 2 <= again - node.now <= whole
        node.now = again - 0.001
        assert requests.due("CT1") == ()
        node.now = again
    [request] = requests.due("CT1")
    assert requests.record_failure(request, "no_connection") is None
    assert requests.due("CT1") == ()


def test_more_objects_than_one_statement_takes_are_looked_up_all_the_same(node):
    for number in (0, 1):
        node.keep(1, number)
    uids = [f"9.9.{number}" for number in range(999)] + ["1.2.3.1.0", "1.2.3.1.1"]
    found = node.custody.commitments.requests.held(uids)
    assert set(found) == {"1.2.3.1.0", "1.2.3.1.1"}
    [one] = found["1.2.3.1.0"]
    assert (one.key, one.sop_class, one.doubtful) == (node.key(1), CT, False)


def test_twenty_requests_are_answered_at_once_the_oldest_first(node):
    requests = node.custody.commitments.requests
    for number in range(22):
        requests.record("CT1", f"2.25.{number}", [(CT, "1.2")], 99)
        node.pass_time(1)
    assert [one.transaction_uid for one in requests.due("CT1")] == [f"2.25.{number}" for number in range(20)]
    requests.record("CT1", "2.25.0", [(CT, "1.2")], 99)  # asked again: its turn comes again
    assert requests.due("CT1")[0].transaction_uid == "2.25.1"


def test_one_uid_under_two_classes_is_committed_under_its_own(node):
    node.keep(1, 0)
    requests = node.custody.commitments.requests
    other = CT[:-1] + "4"
    requests.record("CT1", "2.25.1", [(CT, "1.2.3.1.0"), (other, "1.2.3.1.0")], 9)
    [request] = requests.due("CT1")
    found = node.custody.commitments.judge(request, 30, {CT})
    assert found.committed == ()
    assert dict(found.failed) == {(CT, "1.2.3.1.0"): 0x0119, (other, "1.2.3.1.0"): 0x0119}


def test_what_was_answered_is_remembered_for_as_long_as_a_delivered_series(node):
    requests = node.custody.commitments.requests
    for uid in ("2.25.1", "2.25.2"):
        requests.record("CT1", uid, [(CT, "9")], 9)
    [first, _] = requests.due("CT1")
    requests.record_answered(first, 0, 1)
    for days, left in ((14, 1), (14.001, 0)):
        node.now = 1_000_000.0 + days * DAY_S
        node.custody.clean(14, 14)
        assert node.custody.snapshot().commitments == {"waiting": 1, "answered": left, "dead": 0}
