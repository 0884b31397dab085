"""The watched folder: each file is taken once, when nobody writes to it any more, or put aside with a reason."""

from __future__ import annotations

import filecmp
import io
import json
import os
import shutil
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from medattn_edge.errors import OutputError  # noqa: E402
from medattn_edge.scanner.config.node_config import Watch  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.receive.objects import header_of  # noqa: E402
from medattn_edge.scanner.receive.watch import Watcher  # noqa: E402
from medattn_edge.scanner.store.disk import Watermark  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_medium, write_series  # noqa: E402
from tests.support.durable_node import Node  # noqa: E402

WORDS = ("watch", "unparsable", "truncated", "blank_uid", "series_too_large")


class Watched:
    """A watcher and what it sees. `look` looks until nothing new is whole."""

    def __init__(self, node: Node, folder: Path, **changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.node, self.folder, self._text = node, folder, io.StringIO()
        watch = Watch(folder, **{"poll_s": 0.02, "settle_s": 0.0, **changes})
        self.watcher = Watcher(watch, node.custody, Log(self._text, allow=WORDS), lambda: node.now)

    def look(self) -> int:
        return self.watcher.look() + self.watcher.look()

    @property
    def reasons(self) -> list[str]:
        lines = map(json.loads, self._text.getvalue().splitlines())
        return [line["reason"] for line in lines if line["event"] == "refused"]

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def kept(self) -> int:
        return len(list(self.node.spool.incoming.rglob("*.dcm")))

    def aside(self) -> list[str]:
        return sorted(path.name for path in self.node.spool.objects.iterdir())


def series(folder: Path, slices: int = 3, **changes: Any) -> list[Path]:
    scan = real_ct(slices, 16, 16)
    return write_series(folder, scan.voxels, scan.affine, **changes)


@pytest.fixture
def watched(node: Node, tmp_path: Path) -> Watched:
    return Watched(node, tmp_path / "incoming")


def test_every_file_is_taken_once_and_stays_where_it_is(watched):
    files = series(watched.folder / "below")
    (watched.folder / "README.txt").write_text("no object")
    assert watched.look() == 3
    assert watched.look() == 0
    assert (watched.kept(), watched.aside(), watched.reasons) == (3, [], [])
    assert all(path.exists() for path in files)
    watched.node.pass_time(60)
    assert len(watched.node.custody.queue_complete().queued) == 1


def test_what_was_taken_is_remembered_over_a_restart_without_the_names_of_files(watched):
    series(watched.folder, name="Zyxwvut^Testpatient")
    (watched.folder / "rubbish.dcm").write_bytes(b"Zyxwvut")
    assert watched.look() == 3
    memory = watched.node.root / "watched.json"
    assert len(json.loads(memory.read_text())) == 4
    assert "zyx" not in memory.read_text().lower() + watched.text.lower()
    assert watched.node.restart(header_of).unreadable == 0
    again = Watched(watched.node, watched.folder)
    assert again.look() == 0
    assert again.reasons == []


def test_a_memory_that_is_lost_or_damaged_means_duplicates_and_no_more(watched):
    series(watched.folder)
    assert watched.look() == 3
    (watched.node.root / "watched.json").write_text("{not json")
    assert Watched(watched.node, watched.folder).look() == 3
    assert (watched.kept(), watched.aside()) == (3, [])


def test_a_file_that_grows_is_not_taken_before_it_is_whole(node, tmp_path):
    watched = Watched(node, tmp_path / "incoming", settle_s=0.3)
    [source] = series(tmp_path / "source", 1)
    whole, target = source.read_bytes(), watched.folder / "a.dcm"
    for end in range(0, len(whole), len(whole) // 6):
        target.write_bytes(whole[:end])
        assert watched.look() == 0
        node.pass_time(0.2)
    target.write_bytes(whole)
    assert watched.look() == 0
    node.pass_time(0.2)
    assert watched.look() == 0
    node.pass_time(0.2)
    assert watched.look() == 1
    assert (watched.kept(), watched.reasons) == (1, [])


@pytest.mark.parametrize("years", [-5, 5])
def test_a_copy_with_times_of_another_clock_is_taken_all_the_same(watched, years):
    [path] = series(watched.folder, 1)
    moment = time.time() + years * 31_000_000
    os.utime(path, (moment, moment))
    assert watched.watcher.look() == 0  # it is new to us, however old it looks
    assert watched.watcher.look() == 1


def test_hidden_files_are_left_alone_until_they_get_their_names(watched):
    [path] = series(watched.folder, 1)
    hidden = path.rename(path.with_name(".slice.dcm.part"))
    assert watched.look() == 0
    hidden.rename(path)
    assert watched.look() == 1


def test_a_file_that_changes_after_it_was_taken_is_looked_at_again(watched):
    series(watched.folder, 1)
    assert watched.look() == 1
    series(watched.folder, 1, SeriesDescription="another one")
    assert watched.look() == 1
    assert [name[:9] for name in watched.aside()] == ["replaced-"]


def test_what_cannot_be_filed_goes_to_quarantine_once_with_its_reason(watched):
    first, second = series(watched.folder, 2)
    blank = pydicom.dcmread(second)
    blank.SeriesInstanceUID = ""
    blank.save_as(second)
    (watched.folder / "rubbish.dcm").write_bytes(b"nothing")
    (watched.folder / "cut.dcm").write_bytes(first.read_bytes()[:-50])
    first.unlink()
    assert watched.look() == 0
    assert watched.look() == 0
    assert sorted(watched.reasons) == ["blank_uid", "truncated", "unparsable"]
    assert [name.rpartition("-")[0] for name in watched.aside()] == sorted(watched.reasons)
    assert len(json.loads((watched.node.root / "watched.json").read_text())) == 3


def test_a_series_of_which_a_file_is_cut_off_is_not_segmented_in_part(watched):
    files = series(watched.folder)
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-50])
    assert watched.look() == 2
    watched.node.pass_time(60)
    assert len(watched.node.custody.queue_complete().quarantined) == 1
    files[2].write_bytes(whole)
    assert watched.look() == 1
    watched.node.pass_time(60)
    assert len(watched.node.custody.queue_complete().queued) == 1


def test_files_are_removed_when_that_is_wanted_but_only_what_is_durable(node, tmp_path):
    watched = Watched(node, tmp_path / "incoming", after="remove")
    series(watched.folder)
    (watched.folder / "rubbish.dcm").write_bytes(b"nothing")
    (watched.folder / "letter.txt").write_text("not ours")
    assert watched.look() == 3
    assert [path.name for path in watched.folder.iterdir()] == ["letter.txt"]
    assert (watched.kept(), len(watched.aside())) == (3, 1)


def test_a_disk_that_takes_nothing_leaves_the_files_for_later(tmp_path):
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 500})
    watched = Watched(node, tmp_path / "incoming", after="remove")
    files = series(watched.folder)
    with pytest.raises(OutputError):
        watched.look()
    assert all(path.exists() for path in files)
    node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=0))
    assert watched.look() == 3
    assert watched.kept() == 3
    node.store.close()


def test_a_series_of_which_the_disk_takes_only_a_part_is_not_segmented_in_part(tmp_path):
    node = Node(tmp_path / "node")
    watched = Watched(node, tmp_path / "incoming")
    first, *rest = series(watched.folder)
    hidden = [path.rename(path.with_name(f".{path.name}")) for path in rest]
    assert watched.look() == 1
    node.custody.configure(node.policy, Watermark(node.root, max_used_fraction=1.0, min_free=0, quota=500))
    for path in hidden:
        path.rename(path.with_name(path.name.removeprefix(".")))
    with pytest.raises(OutputError):
        watched.look()
    os.utime(first)  # looked at again: what is here already is not missing
    with pytest.raises(OutputError):
        watched.look()
    node.pass_time(60)
    assert len(node.custody.queue_complete().quarantined) == 1
    [seen] = node.store.snapshot().quarantined
    assert (seen.reason, seen.detail) == ("disk_full", "1 objects were sent and not taken")
    node.store.close()


def test_a_large_file_is_taken_piece_by_piece(watched):
    """Many times larger than what may be in memory at once."""
    [path] = series(watched.folder, 1)
    large = pydicom.dcmread(path)
    large.NumberOfFrames = 1
    large.PixelData = bytes(64_000_000)
    large.save_as(path)
    del large
    tracemalloc.start()
    try:
        assert watched.look() == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
    [kept] = watched.node.spool.incoming.rglob("*.dcm")
    assert filecmp.cmp(kept, path, shallow=False)


def test_a_medium_is_taken_without_the_list_of_its_files(watched, tmp_path):
    shutil.copytree(write_medium(series(tmp_path / "source"), tmp_path / "medium").parent, watched.folder / "medium")
    assert watched.look() == 3
    assert (watched.kept(), watched.aside(), watched.reasons) == (3, [], [])


def test_a_file_that_cannot_be_read_is_told_once_and_taken_when_it_can(watched):
    path = watched.folder / "slice.dcm"
    path.symlink_to("/proc/self/mem")  # a file that not even root reads from its start
    for _ in range(3):
        assert watched.look() == 0
    assert watched.text.count("watch_unreadable") == 1
    path.unlink()
    series(watched.folder, 1)
    assert watched.look() == 1


def test_a_file_larger_than_a_series_may_be_is_not_even_read(watched):
    with (watched.folder / "huge.dcm").open("wb") as file:
        file.truncate(watched.node.policy.max_bytes + 1)
    assert watched.look() == 0
    assert watched.reasons == ["series_too_large"]


def test_a_pipe_or_a_device_in_the_folder_is_never_opened(watched):
    os.mkfifo(watched.folder / "pipe.dcm")
    assert watched.look() == 0


def test_a_folder_that_vanishes_is_told_once_and_watched_again_when_it_is_back(watched):
    watched.folder.rmdir()
    for _ in range(3):
        assert watched.look() == 0
    assert watched.text.count("watch_missing") == 1
    series(watched.folder)
    assert watched.look() == 3


def test_it_runs_in_a_thread_until_it_is_told_to_end(watched):
    stopping = threading.Event()
    thread = threading.Thread(target=watched.watcher.run, args=(stopping,))
    thread.start()
    series(watched.folder)
    end = time.monotonic() + 10
    while watched.kept() < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()
