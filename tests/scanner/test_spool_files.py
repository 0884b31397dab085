"""The spool's folders: what is staged, kept, put aside, joined and published, each with its modes and names."""

from __future__ import annotations

import errno
import os
import stat
from io import BytesIO
from pathlib import Path

import pytest

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.scanner.store.disk import rename_durably
from medattn_edge.scanner.store.spool import Spool, measure
from tests.support.durable_node import Node
from tests.support.sync_trace import identity, traced

KEY = "0123456789abcdef0123456789abcdef"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "node")


def test_series_share_one_of_64_locks(spool: Spool) -> None:
    keys = [f"{number:08x}{'0' * 24}" for number in range(65)]
    assert len({id(spool.lock(key)) for key in keys[:64]}) == 64
    assert spool.lock(keys[64]) is spool.lock(keys[0])


def test_a_staged_object_that_nobody_keeps_is_removed_and_a_full_disk_is_ours_to_tell(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = os.urandom(2_500_000)
    with spool.stage(BytesIO(large)) as one:
        assert (one.bytes, one.path.read_bytes() == large, mode(one.path)) == (2_500_000, True, 0o600)
        assert measure(one) == measure(large) == measure(BytesIO(large))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"), spool.stage(BytesIO(b"object")):
            pass

    class Unreadable(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output") as raised, spool.stage(Unreadable()):
        pass
    assert not isinstance(raised.value, OutputError)
    assert list(spool.incoming.iterdir()) == []


def test_an_open_file_is_kept_from_its_start_wherever_it_stands(spool: Spool) -> None:
    file = BytesIO(b"object")
    file.seek(3)
    assert measure(file) == measure(b"object")
    file.seek(3)
    spool.keep(KEY, "a.dcm", file)
    assert (spool.incoming / KEY / "a.dcm").read_bytes() == b"object"


def test_an_object_that_is_put_aside_stays_for_as_long_as_one_that_comes_in_today(spool: Spool) -> None:
    spool.keep(KEY, "a.dcm", b"object")
    os.utime(spool.incoming / KEY / "a.dcm", (1.0, 1.0))
    spool.set_object_aside(KEY, "a.dcm", "replaced")
    spool.set_object_aside(KEY, "b.dcm", "replaced")
    [path] = spool.objects.iterdir()
    assert (path.name, path.read_bytes()) == (f"replaced-{KEY}-a.dcm", b"object")
    assert path.stat().st_mtime > 1e9
    assert not spool.has(KEY, "a.dcm")


def test_files_that_are_missing_are_counted_and_no_files_are_no_series(spool: Spool) -> None:
    for name in ("a", "b", "c"):
        spool.keep(KEY, name, b"object")
    assert [path.name for path in spool.files(KEY, ["b", "a"])] == ["b", "a"]
    (spool.incoming / KEY / "b").unlink()
    for names, told in ((["a", "b", "d"], "2 of 3"), ([], "0 of 0")):
        with pytest.raises(ScanError, match=f"{told} objects of the series"):
            spool.files(KEY, names)


def test_two_folders_of_a_series_are_joined_durably_and_the_empty_one_is_gone(spool: Spool) -> None:
    spool.keep(KEY, "a.dcm", b"first")
    copy = spool.quarantined / KEY
    copy.mkdir()
    (copy / "a.dcm").write_bytes(b"copy")
    (copy / "b.dcm").write_bytes(b"other")
    with traced() as trace:
        spool.restore(KEY)
    assert not copy.exists()
    assert {identity(one) for one in (spool.incoming / KEY, spool.quarantined, spool.objects)} <= set(trace.folders)
    assert (spool.objects / f"{KEY}-a.dcm").read_bytes() == b"copy"
    assert (spool.incoming / KEY / "a.dcm").read_bytes() == b"first"


def test_a_folder_to_work_in_is_empty_and_a_result_is_for_the_owner_alone(spool: Spool) -> None:
    for number in range(2):
        folder = spool.working_folder(KEY, 1, 1)
        assert list(folder.iterdir()) == []
        (folder / "seg.dcm").write_bytes(b"seg %d" % number)
        (folder / "maps").mkdir()
        (folder / "maps" / "a.nii").write_bytes(b"map")
        (folder / "seg.dcm").chmod(0o644)
        (folder / "maps" / "a.nii").chmod(0o664)
    target = spool.publish(folder, KEY, 1)
    assert target == spool.result(KEY, 1)
    assert [mode(target / name) for name in ("seg.dcm", "maps/a.nii")] == [0o600, 0o600]
    spool.remove_result(KEY, 2)
    assert target.is_dir()
    spool.remove_result(KEY, 1)
    assert not target.exists()
    spool.remove_results(KEY)
    spool.remove_results(KEY)
    assert list(spool.results.iterdir()) == []
    assert spool.set_aside(KEY) is None


def test_what_is_kept_counts_against_the_quota_once(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 10_000_000})
    before = node.custody.disk().free
    node.keep(1, 1)
    size = node.store.series.usage(node.key(1))[1]
    assert before - node.custody.disk().free == size > 0
    node.keep(1, 1)
    assert before - node.custody.disk().free == size
    path = node.custody.keep_unreadable(b"no DICOM", "cannot_read")
    assert before - node.custody.disk().free == size + 8
    assert path.name == f"cannot_read-{measure(b'no DICOM')[1][:16]}.dcm"
    node.store.close()


def test_a_rename_is_durable_in_both_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_bytes(b"")
    with traced() as trace:
        rename_durably(tmp_path / "a" / "x", tmp_path / "b" / "x")
    assert set(trace.folders) == {identity(tmp_path / "a"), identity(tmp_path / "b")}


def test_a_series_is_where_its_folder_is_and_comes_back_with_its_next_object(spool: Spool) -> None:
    assert spool.folder(KEY) == spool.incoming / KEY
    spool.keep(KEY, "a.dcm", b"first")
    spool.quarantine(KEY)
    spool.quarantine(KEY)
    assert (spool.folder(KEY), spool.has(KEY, "a.dcm")) == (spool.quarantined / KEY, True)
    assert spool.files(KEY, ["a.dcm"]) == (spool.incoming / KEY / "a.dcm",)
    spool.quarantine(KEY)
    spool.keep(KEY, "b.dcm", b"second")
    assert sorted(path.name for path in spool.folder(KEY).iterdir()) == ["a.dcm", "b.dcm"]
    assert (spool.folder(KEY), (spool.quarantined / KEY).exists()) == (spool.incoming / KEY, False)
    (spool.quarantined / KEY).mkdir()
    assert spool.folder(KEY) == spool.incoming / KEY
