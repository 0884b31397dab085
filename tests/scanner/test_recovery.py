"""The start after a crash: what was half done is finished or undone, and nothing that was acknowledged is lost."""

from __future__ import annotations

import pytest

from medattn_edge.scanner.store.records import Fate
from medattn_edge.scanner.store.recovery import Recovery
from medattn_edge.scanner.store.retention import DAY_S
from medattn_edge.scanner.store.transitions import DeliveryState, State
from tests.support.durable_node import sample


def test_a_clean_start_has_nothing_to_do(node):
    node.segment(node.job(1), "pacs")
    node.custody.quarantine(node.job(2), "missing_slice")
    node.keep(3, 1)
    assert node.restart() == Recovery(0, 0, 0, 0, 0, 0, 0)


def test_what_ran_is_queued_again_and_the_attempt_counted(node):
    job = node.job()
    assert node.restart().requeued == 1
    again = node.custody.claim("worker-0")
    assert (again.id, again.attempt) == (job.id, 2)
    assert not node.segment(job, "pacs")


def test_a_series_that_was_being_received_goes_on(node):
    node.keep(1, 1)
    node.pass_time(59)
    node.restart()
    assert node.custody.queue_complete().queued == ()
    assert node.keep(1, 2).version == 1
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(1),)


def test_an_object_without_a_row_gets_one(node):
    data, header = sample(1, 1)
    key = node.key(1)
    node.spool.keep(key, node.store.site.object_name(header.sop_uid), data)
    assert node.restart().adopted == 1
    assert node.keep(1, 1).fate is Fate.DUPLICATE
    assert node.store.series.usage(key) == (1, len(data))


def test_an_object_without_a_row_reopens_a_quarantined_series(node):
    job = node.job()
    node.custody.quarantine(job, "missing_slice")
    data, header = sample(1, "late")
    node.spool.keep(job.key, node.store.site.object_name(header.sop_uid), data)
    assert node.restart().adopted == 1
    assert node.store.series.state_of(job.key) is State.RECEIVING
    assert len(list((node.spool.incoming / job.key).iterdir())) == 3


@pytest.mark.parametrize("case", ["no DICOM", "another series's folder", "another size than on record"])
def test_an_object_that_cannot_be_adopted_is_put_aside(node, case):
    key, name = node.keep(1, 1).key, "0" * 32 + ".dcm"
    data, header = sample(2, 1)
    if case == "no DICOM":
        data = b"no DICOM"
    elif case == "another series's folder":
        name = node.store.site.object_name(header.sop_uid)
    else:
        [path] = (node.spool.incoming / key).iterdir()
        name, data = path.name, path.read_bytes()[:-1]
    (node.spool.incoming / key / name).write_bytes(data)
    recovery = node.restart()
    assert (recovery.adopted, recovery.unreadable) == (0, 1)
    [aside] = node.spool.objects.iterdir()
    assert aside.read_bytes() == data
    assert recovery.gone == (1 if case == "another size than on record" else 0)
    assert node.keep(1, 1).fate is (Fate.NEW if recovery.gone else Fate.DUPLICATE)


def test_rows_without_an_object_quarantine_what_waits_for_it_until_it_comes_again(node):
    job = node.job()
    next((node.spool.incoming / job.key).iterdir()).unlink()
    assert node.restart().gone == 1
    [seen] = node.store.snapshot().quarantined
    assert (seen.reason, seen.detail) == ("file_missing", "1 objects are not there any more")
    fates = [node.keep(1, number).fate for number in range(2)]
    assert sorted(fates) == [Fate.DUPLICATE, Fate.NEW]
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (job.key,)
    assert node.custody.claim("worker").version == 2


def test_a_result_that_is_not_there_is_made_again_and_not_sent_twice(node):
    job = node.job()
    node.segment(job, "pacs", "archive")
    node.store.deliveries.record_delivered(node.store.deliveries.due("pacs")[0])
    (node.spool.result(job.key, 1) / "seg.dcm").unlink()
    assert node.restart().results_lost == 1
    assert node.store.deliveries.due() == ()
    node.segment(node.custody.claim("worker"), "pacs", "archive")
    [delivery] = node.store.deliveries.due()
    assert delivery.destination == "archive"
    node.store.deliveries.record_delivered(delivery)
    assert node.store.series.state_of(job.key) is State.DELIVERED
    assert node.store.snapshot().deliveries[DeliveryState.DELIVERED] == 2


def test_a_result_that_is_made_again_has_the_images_that_it_had(node):
    node.segment(node.job(), "pacs")
    (node.spool.result(node.key(1), 1) / "seg.dcm").unlink()
    node.keep(1, "late")
    assert node.restart().results_lost == 1
    node.pass_time(60)
    node.custody.queue_complete()
    jobs = [node.custody.claim("worker"), node.custody.claim("worker")]
    assert [(job.version, len(job.names)) for job in jobs] == [(1, 2), (2, 3)]


def test_a_result_without_its_state_is_removed_and_made_again(node):
    job = node.job()
    folder = node.custody.working_folder(job)
    (folder / "seg.dcm").write_bytes(b"seg")
    node.spool.publish(folder, job.key, job.version)
    node.restart()
    assert not node.spool.result(job.key, job.version).exists()


def test_unfinished_files_and_folders_are_removed(node):
    job = node.job()
    node.custody.working_folder(job)
    (node.spool.incoming / job.key / ".x.tmp").write_bytes(b"half")
    (node.root / ".y.tmp").write_bytes(b"half")
    (node.spool.incoming / ".removed-z").mkdir()
    (node.spool.incoming / ".removed-z" / "a.dcm").write_bytes(b"")
    assert node.restart().unfinished == 4
    assert [path for path in node.root.rglob("*") if path.name.startswith(".")] == []


def test_a_quarantined_series_lies_in_quarantine_and_any_other_in_the_spool(node):
    first, second = node.job(1), node.job(2)
    node.store.jobs.quarantine(first, "missing_slice")  # the rows alone: killed before the files were moved
    node.spool.quarantine(second.key)  # the files alone
    node.restart()
    assert (node.spool.quarantined / first.key).is_dir()
    assert (node.spool.incoming / second.key).is_dir()


def test_a_clean_up_that_was_killed_between_files_and_rows_is_finished(node):
    node.segment(node.job())
    node.spool.set_aside(node.key(1))
    recovery = node.restart()
    assert (recovery.unfinished, recovery.gone) == (1, 2)
    assert node.store.series.state_of(node.key(1)) is State.DELIVERED
    node.keep(1, "late")
    node.pass_time(60)
    node.custody.queue_complete()
    assert node.store.snapshot().quarantined[0].reason == "cleaned_up"


def test_results_of_a_cleaned_series_do_not_come_back(node):
    node.segment(node.job())
    node.pass_time(8 * DAY_S)
    assert node.custody.clean(7, 30).series == 1
    assert node.restart() == Recovery(0, 0, 0, 0, 0, 0, 0)
    assert node.custody.clean(7, 30).series == 0


def test_a_lost_database_is_made_again_from_the_spool(node):
    node.segment(node.job(1), "pacs")
    node.custody.quarantine(node.job(2), "missing_slice")
    node.store.close()
    for path in node.root.glob("node.sqlite*"):
        path.unlink()
    node.open()
    assert node.restart().adopted == 4
    node.pass_time(60)
    assert set(node.custody.queue_complete().queued) == {node.key(1), node.key(2)}
    jobs = [node.custody.claim("worker"), node.custody.claim("worker")]
    assert [len(node.custody.files(job)) for job in jobs] == [2, 2]
