"""Files, folders, locks and the watermark: modes, limits, and that nothing stays open or is counted twice."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import sha256 as file_sha256
from medattn_edge.errors import OutputError, UsageError
from medattn_edge.scanner.store.disk import (
    Disk,
    Watermark,
    as_output_error,
    folder_bytes,
    hide_folder,
    locked,
    make_folder,
    make_root,
    only_for_owner,
    remove_folder,
    sync_folder,
    write_durably,
)
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.spool import Spool
from tests.support.sync_trace import identity, traced

KEY = "0123456789abcdef0123456789abcdef"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "node")


# Folders and modes


@pytest.mark.parametrize("before", [0o700, 0o710, 0o701, 0o740, 0o704, 0o720, 0o755, 0o777])
def test_a_root_that_is_there_is_for_its_owner_alone_from_now_on(tmp_path: Path, before: int) -> None:
    root = tmp_path / "node"
    root.mkdir()
    root.chmod(before)
    make_root(root)
    assert mode(root) == 0o700


def test_a_root_and_its_parents_are_made_and_their_names_are_synced(tmp_path: Path) -> None:
    root = tmp_path / "srv" / "edge" / "node"
    with traced() as trace:
        make_root(root)
    assert mode(root) == 0o700
    assert trace.problems() == []
    assert {identity(one) for one in (tmp_path, tmp_path / "srv", tmp_path / "srv" / "edge")} == set(trace.folders)


def test_a_root_that_cannot_be_made_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot make .*/file/node: Not a directory") as raised:
        make_root(tmp_path / "file" / "node")
    assert raised.value.hint == f"ls -ld {tmp_path}/file"
    with pytest.raises(OutputError, match="File exists"):
        make_root(tmp_path / "file")


def test_a_folder_is_made_once_and_what_is_in_it_stays(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    (tmp_path / "a" / "b").write_bytes(b"")
    make_folder(tmp_path / "a")
    assert (mode(tmp_path / "a"), [path.name for path in (tmp_path / "a").iterdir()]) == (0o700, ["b"])
    with pytest.raises(FileNotFoundError):
        make_folder(tmp_path / "c" / "d")


@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o604, 0o610, 0o601, 0o644])
def test_a_file_for_its_owner_keeps_what_is_in_it(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "node.sqlite"
    if before is not None:
        path.write_bytes(b"rows")
        path.chmod(before)
    only_for_owner(path)
    assert (mode(path), path.read_bytes()) == (0o600, b"" if before is None else b"rows")
    with pytest.raises(OutputError, match="cannot write"):
        only_for_owner(tmp_path / "gone" / "node.sqlite")


def test_what_is_hidden_takes_the_place_of_what_was_hidden_before(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / content).write_bytes(b"")
        hidden = hide_folder(tmp_path / "a")
    assert hidden == tmp_path / ".removed-a"
    assert [path.name for path in hidden.iterdir()] == ["second"]
    (tmp_path / "a").mkdir()
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_names_the_path_and_the_cause(tmp_path: Path) -> None:
    for error, told in ((OSError(errno.EROFS, "Read-only file system"), "Read-only"), (OSError("odd"), "odd")):
        with pytest.raises(OutputError, match=rf"cannot write .*/a: {told}") as raised, as_output_error(tmp_path / "a"):
            raise error
        assert raised.value.hint == f"df -h {tmp_path}"
    with pytest.raises(ZeroDivisionError), as_output_error(tmp_path / "a"):
        raise ZeroDivisionError


@pytest.mark.parametrize("data", [b"12345", bytearray(b"12345"), memoryview(b"12345"), BytesIO(b"12345")])
def test_bytes_of_every_kind_are_written_and_counted(tmp_path: Path, data: Any) -> None:
    assert write_durably(tmp_path / "a", data) == 5
    assert (tmp_path / "a").read_bytes() == b"12345"


# Locks


def test_a_lock_is_held_for_the_block_and_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    with locked(path, wait=False):
        assert mode(path) == 0o600
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        entered = threading.Event()

        def wait_for_it() -> None:
            with locked(path, wait=True):
                entered.set()

        waiting = threading.Thread(target=wait_for_it, daemon=True)
        waiting.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    waiting.join(10)
    with locked(path, wait=False):
        pass
    with pytest.raises(OutputError, match="cannot write") as raised, locked(tmp_path / "gone" / "lock", wait=False):
        pass
    assert raised.value.hint == f"ls -ld {tmp_path}/gone"


# Nothing stays open


def staged(spool: Spool) -> None:
    with spool.stage(BytesIO(b"object")) as one:
        spool.keep(KEY, "a.dcm", one)


def published(spool: Spool) -> None:
    folder = spool.working_folder(KEY, 1, 1)
    (folder / "seg.dcm").write_bytes(b"seg")
    spool.publish(folder, KEY, 1)


OPENING: list[Callable[[Spool], object]] = [
    lambda spool: sync_folder(spool.root),
    lambda spool: only_for_owner(spool.root / "new"),
    lambda spool: write_durably(spool.root / "a", b"data"),
    lambda spool: _lock(spool.root / "lock"),
    lambda spool: site_key(spool.root / "site.key"),
    lambda spool: file_sha256(spool.root / "whole"),
    staged,
    published,
]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _lock(path: Path) -> None:
    with locked(path, wait=True):
        pass


@pytest.mark.parametrize("act", OPENING)
def test_no_file_stays_open(spool: Spool, act: Callable[[Spool], object]) -> None:
    (spool.root / "whole").write_bytes(b"whole")
    before = open_files()
    act(spool)
    assert open_files() == before


# The watermark


class Usage:
    """What a disk says of itself; a third of what is not free is for root alone."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free, self.used = total, free, (total - free) * 2 // 3


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def say(total: int, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(total, free))

    return say


@pytest.mark.parametrize(
    ("fraction", "min_free", "room"),
    [(0.75, 1_000, 1_000), (0.75, 1_000_000, 25_000), (1.0, 1_000, 1_000), (0.5, 60_000, 50_000), (1.0, 0, 0)],
)
def test_what_stays_free_is_told_to_the_byte(
    tmp_path: Path, usage: Any, fraction: float, min_free: int, room: int
) -> None:
    """room: that has to stay free of 100,000 bytes."""
    mark = Watermark(tmp_path, max_used_fraction=fraction, min_free=min_free)
    usage(100_000, room)
    assert mark.look() == Disk(100_000, room, False)
    assert mark.look(1).refuses
    usage(100_000, room + 7)
    assert [mark.look(coming).refuses for coming in (6, 7, 8)] == [False, False, True]


def test_of_a_quota_and_a_disk_the_smaller_counts(tmp_path: Path, usage: Any) -> None:
    (tmp_path / "a").write_bytes(bytes(600))
    mark = Watermark(tmp_path, max_used_fraction=1.0, min_free=0, quota=1000)
    usage(100_000, 50_000)
    assert mark.look() == Disk(1000, 400, False)
    usage(100_000, 300)
    assert mark.look() == Disk(1000, 300, False)
    usage(100_000, 50_000)
    assert Watermark(tmp_path, max_used_fraction=1.0, min_free=0, quota=500).look() == Disk(500, 0, False)
    assert Watermark(tmp_path, max_used_fraction=1.0, min_free=1, quota=500).look() == Disk(500, 0, True)


def test_a_quota_is_counted_again_after_more_than_half_a_minute(
    tmp_path: Path, usage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage(100_000, 50_000)
    now = [1000.0]
    mark = Watermark(tmp_path, max_used_fraction=1.0, min_free=0, quota=1000)
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now[0])
        found = [mark.look().free]
        mark.add(10)
        mark.add(20)
        (tmp_path / "a").write_bytes(bytes(600))
        for later in (1000.0, 1030.0, 1030.5):
            now[0] = later
            found.append(mark.look().free)
    assert found == [1000, 970, 970, 400]


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({"max_used_fraction": 1.0}, False),
        ({"max_used_fraction": 1.001}, True),
        ({"max_used_fraction": 0.001}, False),
        ({"max_used_fraction": 0.0}, True),
        ({"min_free": 0}, False),
        ({"min_free": -1}, True),
        ({"min_free": 0, "quota": 1}, False),
        ({"min_free": 0, "quota": 0}, True),
        ({"min_free": 10, "quota": 11}, False),
        ({"min_free": 10, "quota": 10}, True),
        ({"min_free": 10, "quota": 9}, True),
    ],
)
def test_limits_that_would_refuse_everything_are_refused_and_no_others(
    tmp_path: Path, limits: dict[str, Any], refused: bool
) -> None:
    if not refused:
        assert Watermark(tmp_path, **limits)
        return
    with pytest.raises(UsageError) as raised:
        Watermark(tmp_path, **limits)
    assert raised.value.expected.startswith(("a fraction", "fewer than the quota"))


def test_the_used_fraction_is_of_the_whole_disk_and_a_disk_without_a_size_is_full() -> None:
    assert [Disk(*of, False).used_fraction for of in ((200, 50), (200, 200), (200, 0), (0, 0))] == [0.75, 0.0, 1.0, 1.0]


def test_a_file_that_is_deleted_while_a_folder_is_counted_is_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_bytes(bytes(30))
    (tmp_path / "here").write_bytes(bytes(12))
    assert folder_bytes(tmp_path) == 42
    found = list(os.walk(tmp_path))
    monkeypatch.setattr(os, "walk", lambda folder: [(at, inside, ["gone", *names]) for at, inside, names in found])
    assert folder_bytes(tmp_path) == 42
