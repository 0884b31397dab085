"""What lies on the disk is compared with what was written before it is used: damage is told, and never delivered."""

from __future__ import annotations

import pytest

from medattn_edge.scanner.store.custody import FilesLost
from medattn_edge.scanner.store.records import Fate
from medattn_edge.scanner.store.transitions import State
from tests.support.durable_node import Node


def flip(path) -> None:
    """One bit, with the size and the times as they were."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_object_that_was_damaged_in_the_spool_is_not_segmented_and_is_taken_when_it_is_sent_again(node: Node):
    job = node.job()
    flip(node.spool.incoming / job.key / job.names[0])
    with pytest.raises(FilesLost) as raised:
        node.custody.files(job)
    assert raised.value.reason == "object_damaged"
    [seen] = node.store.snapshot().quarantined
    assert seen.reason == "object_damaged"
    assert [path.name[:8] for path in node.spool.objects.iterdir()] == ["damaged-"]
    assert sorted(node.keep(1, number).fate for number in range(2)) == [Fate.DUPLICATE, Fate.NEW]
    node.pass_time(60)
    node.custody.queue_complete()
    again = node.custody.claim("worker-0")
    assert again is not None
    assert len(node.custody.files(again)) == 2


def test_a_node_that_ends_while_it_puts_damage_aside_does_not_segment_the_rest(node: Node, monkeypatch):
    job = node.job(count=3)
    flip(node.spool.incoming / job.key / job.names[0])

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(node.spool, "set_object_aside", kill)
    with pytest.raises(Killed):
        node.custody.files(job)
    monkeypatch.undo()
    node.restart()
    assert node.custody.claim("worker-0") is None
    assert node.store.snapshot().quarantined[0].reason == "object_damaged"


def test_damage_that_comes_before_the_next_start_is_found_all_the_same(node: Node):
    node.job()
    for path in (node.spool.incoming / node.key(1)).iterdir():
        flip(path)
    node.restart()
    job = node.custody.claim("worker-0")
    assert job is not None
    with pytest.raises(FilesLost, match="2 of 2"):
        node.custody.files(job)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_a_result_that_was_damaged_while_it_waited_is_made_again_and_not_delivered(node: Node, damage):
    job = node.job()
    node.segment(job, "pacs", "shelf")
    whole = (node.spool.result(job.key, 1) / "seg.dcm").read_bytes()
    damage(node.spool.result(job.key, 1) / "seg.dcm")
    first, second = node.custody.deliveries_due()
    assert node.custody.requeue_if_lost(first) is True
    assert node.custody.requeue_if_lost(second) is False
    assert node.custody.deliveries_due() == ()
    assert node.store.series.state_of(job.key) is State.QUEUED
    again = node.custody.claim("worker-0")
    assert again is not None
    node.segment(again, "pacs", "shelf")
    for delivery in node.custody.deliveries_due():
        assert node.custody.requeue_if_lost(delivery) is None
        [path] = node.custody.delivery_files(delivery)
        assert path.read_bytes() == whole


def test_a_database_of_before_there_were_hashes_gets_them_at_the_start(node: Node):
    job = node.job()
    with node.store.database.writing() as database:
        database.execute("UPDATE instances SET file_sha256 = ''")
    node.restart()
    again = node.custody.claim("worker-0")
    assert again is not None
    assert len(node.custody.files(again)) == 2
    flip(node.spool.incoming / job.key / job.names[0])
    with pytest.raises(FilesLost, match="1 of 2"):
        node.custody.files(again)
