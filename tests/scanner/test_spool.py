"""Files: whole and durable before anything is acknowledged, refused above the watermark."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import stat
from dataclasses import replace

import pytest

from medattn_edge.errors import OutputError, ScanError, UsageError
from medattn_edge.scanner.store import disk
from medattn_edge.scanner.store.disk import Watermark, write_durably
from medattn_edge.scanner.store.records import Fate, Policy
from medattn_edge.scanner.store.transitions import State
from tests.support.durable_node import Node, sample


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Writing


def test_an_object_is_synced_and_then_named_and_then_its_folder_synced(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def told(*words, name=name, real=real):
            kind = name
            if name == "fsync":
                kind = "sync folder" if stat.S_ISDIR(os.fstat(words[0]).st_mode) else "sync file"
            done.append(kind)
            return real(*words)

        monkeypatch.setattr(os, name, told)
    assert write_durably(tmp_path / "a.dcm", b"12345") == 5
    assert done == ["sync file", "replace", "sync folder"]
    assert stat.S_IMODE((tmp_path / "a.dcm").stat().st_mode) == 0o600


def test_a_full_disk_leaves_nothing_behind_and_what_stood_there_stays(tmp_path, monkeypatch):
    write_durably(tmp_path / "a.dcm", b"first")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_durably(tmp_path / "a.dcm", b"second")
    assert names(tmp_path) == ["a.dcm"]
    assert (tmp_path / "a.dcm").read_bytes() == b"first"


def test_an_object_may_come_in_memory_or_staged(node):
    data, header = sample(1, 1)
    with node.custody.stage(io.BytesIO(data), len(data)) as staged:
        assert (staged.bytes, staged.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert node.custody.keep(staged, header).fate is Fate.NEW
    assert node.custody.keep(data, header).fate is Fate.DUPLICATE
    with node.custody.stage(io.BytesIO(data), len(data)) as staged:
        assert node.custody.keep(staged, header).fate is Fate.DUPLICATE
    [kept] = [path for path in node.spool.incoming.rglob("*") if path.is_file()]
    assert (kept.parent.name, kept.read_bytes()) == (node.key(1), data)


def test_a_staged_object_is_durable_before_it_is_named_and_no_half_of_one_stays(node, monkeypatch):
    data, header = sample(1, 1)
    done = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words, name=name, real=real: (done.append(name), real(*words))[1])
    with node.custody.stage(io.BytesIO(data), len(data)) as staged:
        assert done == ["fsync"]
        node.custody.keep(staged, header)
    broken = io.BytesIO(data)
    monkeypatch.setattr(broken, "read", lambda size: 1 / 0)
    with pytest.raises(ZeroDivisionError), node.custody.stage(broken, len(data)):
        pass
    assert [path.parent.name for path in node.spool.incoming.rglob("*") if path.is_file()] == [node.key(1)]


def test_no_file_name_and_no_folder_tells_a_uid_and_only_the_owner_may_read_them(node):
    node.segment(node.job(), "pacs")
    for path in node.root.rglob("*"):
        assert "1.2.3" not in path.name
        if path.parent != node.root:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.parent.parent.parent == node.spool.results
    assert stat.S_IMODE(node.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_object_without_a_uid_is_refused(node, blank):
    data, header = sample(1, 1)
    for broken in (replace(header, series_uid=blank), replace(header, sop_uid=blank)):
        with pytest.raises(ScanError, match="empty"):
            node.custody.keep(data, broken)
    assert names(node.spool.incoming) == []


def test_what_cannot_be_filed_is_kept_in_quarantine_under_its_reason(node):
    path = node.custody.keep_unreadable(b"no DICOM", "cannot_read")
    assert path.read_bytes() == b"no DICOM"
    assert path.name.startswith("cannot_read-")
    with pytest.raises(ValueError, match="code"):
        node.custody.keep_unreadable(b"no DICOM", "../../etc/passwd")


# Limits


def test_above_the_watermark_an_object_is_refused_and_its_series_not_segmented_without_it(tmp_path):
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 100_000_000})
    node.keep(1, 1)
    node.limits["quota"] = 1000
    node.custody.configure(node.policy, Watermark(node.root, **node.limits))
    with pytest.raises(OutputError, match="full"):
        node.keep(1, 2)
    assert node.keep(1, 1).fate is Fate.DUPLICATE  # takes no space
    node.pass_time(60)
    completion = node.custody.queue_complete()
    assert (completion.queued, completion.quarantined) == ((), (node.key(1),))
    [seen] = node.store.snapshot().quarantined
    assert (seen.reason, seen.detail) == ("disk_full", "1 objects were sent and not taken")
    with pytest.raises(UsageError, match="not whole"):
        node.store.repairs.requeue(node.key(1))
    node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=0))
    assert node.keep(1, 2).late
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(1),)
    assert len(node.custody.files(node.custody.claim("worker"))) == 2
    node.store.close()


@pytest.mark.parametrize(
    ("policy", "reason"),
    [(Policy(max_instances=2), "too_many_instances"), (Policy(max_bytes=150), "series_too_large")],
)
def test_more_than_a_series_may_have_is_refused_and_the_series_quarantined(tmp_path, policy, reason):
    node = Node(tmp_path / "node", policy)
    node.keep(1, 1)
    node.keep(1, 2)
    with pytest.raises(OutputError, match="more objects or bytes"):
        node.keep(1, 3)
    assert node.keep(2, 1).fate is Fate.NEW  # another series
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(2),)
    assert node.store.snapshot().quarantined[0].reason == reason
    assert names(node.spool.quarantined / node.key(1)) != []
    node.store.close()


def test_a_job_whose_late_image_was_refused_is_not_delivered_in_part(tmp_path):
    node = Node(tmp_path / "node", Policy(max_instances=2))
    job = node.job(count=2)
    with pytest.raises(OutputError):
        node.keep(1, "late")
    assert not node.segment(job, "pacs")
    node.custody.queue_complete()
    assert node.store.series.state_of(job.key) is State.QUARANTINED
    assert not (node.spool.incoming / job.key).exists()
    node.store.close()


def test_the_watermark_is_the_smaller_of_a_share_and_of_the_bytes_that_are_needed(tmp_path, monkeypatch):
    def usage(_):
        return type("Usage", (), {"total": 100_000, "free": 30_000})

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    for fraction, needed, reserve in ((0.75, 5_000, 5_000), (0.95, 10_000, 5_000), (0.69, 0, 0), (1.0, 9_000, 9_000)):
        mark = Watermark(tmp_path, max_used_fraction=fraction, min_free=needed)
        assert not mark.look(coming=29_999 - reserve).refuses
        assert mark.look(coming=30_001 - reserve).refuses
    assert Watermark(tmp_path, max_used_fraction=0.75, min_free=5_000).look().used_fraction == pytest.approx(0.7)


def test_a_quota_counts_what_the_folder_holds(tmp_path):
    mark = Watermark(tmp_path, max_used_fraction=1.0, min_free=0, quota=1000)
    (tmp_path / "a").write_bytes(bytes(600))
    assert (mark.look().free, mark.look(401).refuses, mark.look(400).refuses) == (400, True, False)
    mark.add(300)
    assert mark.look().free == 100
    (tmp_path / "a").unlink()
    mark.count_again()
    assert mark.look().free == 1000


@pytest.mark.parametrize(
    "wrong", [{"max_used_fraction": 0}, {"max_used_fraction": 75}, {"min_free": -1}, {"quota": 5_000_000_000}]
)
def test_a_watermark_that_would_refuse_everything_is_refused_itself(tmp_path, wrong):
    with pytest.raises(UsageError, match="expected"):
        Watermark(tmp_path, **wrong)


@pytest.mark.parametrize("wrong", [{"quiet_s": -1}, {"max_instances": 0}, {"max_wait_s": 1}, {"quiet_s": math.nan}])
def test_a_policy_under_which_nothing_would_happen_is_refused(wrong):
    with pytest.raises(UsageError, match="at least"):
        Policy(**wrong)


# Results and folders


def test_a_result_replaces_an_earlier_one_whole(node):
    folder = node.spool.working_folder(node.key(1), 1, 1)
    (folder / "seg.dcm").write_bytes(b"first")
    (folder / "left over").write_bytes(b"")
    node.spool.publish(folder, node.key(1), 1)
    folder = node.spool.working_folder(node.key(1), 1, 2)
    (folder / "seg.dcm").write_bytes(b"second")
    assert names(node.spool.publish(folder, node.key(1), 1)) == ["seg.dcm"]
    assert (node.spool.result(node.key(1), 1) / "seg.dcm").read_bytes() == b"second"
    assert not folder.exists()


def test_two_folders_of_one_series_become_one_and_the_first_object_stays(node):
    key = node.keep(1, 1).key
    [kept] = (node.spool.incoming / key).iterdir()
    copy = node.spool.quarantined / key
    copy.mkdir()
    (copy / kept.name).write_bytes(b"somebody's copy")
    (copy / "other.dcm").write_bytes(b"other")
    node.spool.restore(key)
    assert names(node.spool.incoming / key) == sorted([kept.name, "other.dcm"])
    assert kept.read_bytes() != b"somebody's copy"
    assert names(node.spool.objects) == [f"{key}-{kept.name}"]


def test_a_job_with_a_missing_object_says_so(node):
    job = node.job()
    next((node.spool.incoming / job.key).iterdir()).unlink()
    with pytest.raises(ScanError, match="1 of 2 objects"):
        node.custody.files(job)
