"""Delivered series go after a while, or when the disk fills; nothing else ever does."""

from __future__ import annotations

from medattn_edge.scanner.store import disk
from medattn_edge.scanner.store.disk import Watermark
from medattn_edge.scanner.store.retention import DAY_S
from medattn_edge.scanner.store.transitions import State


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def delivered(node, series):
    node.segment(node.job(series), "pacs")
    [delivery] = node.store.deliveries.due()
    node.store.deliveries.record_delivered(delivery)
    return node.key(series)


def test_delivered_series_are_removed_after_a_while_and_others_never(node):
    done = delivered(node, 1)
    node.custody.quarantine(node.job(2), "missing_slice")
    node.segment(node.job(3), "pacs")
    node.store.deliveries.give_up(node.store.deliveries.due()[0], "refused")
    node.segment(node.job(4), "pacs")
    node.keep(5, 1)
    before = names(node.root)
    node.pass_time(7 * DAY_S - 500)
    assert node.custody.clean(7, 30).series == 0
    assert names(node.root) == before
    node.pass_time(1000 * DAY_S)
    cleaned = node.custody.clean(7, 30)
    assert (cleaned.series, cleaned.bytes > 100) == (1, True)
    assert not (node.spool.incoming / done).exists()
    assert not (node.spool.results / done).exists()
    assert len(names(node.spool.incoming)) == 5
    assert len(names(node.spool.results)) == 4
    assert len(names(node.spool.quarantined)) == 2
    assert node.store.series.state_of(done) is State.DELIVERED


def test_a_full_disk_removes_the_oldest_delivered_series_first(node):
    keys = []
    for series in range(3):
        keys.append(delivered(node, series))
        node.pass_time(10)
    held = disk.folder_bytes(node.root)
    node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=0, quota=int(held * 1.01)))
    assert node.custody.clean(7, 30).series >= 1
    assert not (node.spool.incoming / keys[0]).exists()


def test_a_late_image_alone_makes_no_whole_series_of_one_that_was_cleaned_up(node):
    key = delivered(node, 1)
    node.pass_time(8 * DAY_S)
    assert node.custody.clean(7, 30).series == 1
    assert node.keep(1, "late").version == 2
    node.pass_time(60)
    assert node.custody.queue_complete().quarantined == (key,)
    assert node.store.snapshot().quarantined[0].reason == "cleaned_up"
    for number in range(2):
        node.keep(1, number)  # all of it again
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (key,)
    assert len(node.custody.files(node.custody.claim("worker"))) == 3


def test_single_objects_leave_quarantine_after_a_month(node):
    path = node.custody.keep_unreadable(b"no DICOM", "cannot_read")
    node.now = path.stat().st_mtime + 29 * DAY_S
    assert node.custody.clean(7, 30).objects == 0
    node.pass_time(2 * DAY_S)
    assert node.custody.clean(7, 30).objects == 1
    assert not path.exists()
