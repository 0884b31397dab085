"""Whichever call fails, it is told, what stood there stays, and nothing half-written is left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medattn_edge.atomic import replacing
from medattn_edge.errors import MedattnError, OutputError
from tests.support.publishers import ALL, Place, new_place
from tests.support.sync_trace import RENAMES


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path)


class Stop:
    """Lets so many calls through and fails the next one, as a full disk does."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int) -> None:
        self.left, self.failed = calls, ""
        for name in ("fsync", *RENAMES):
            patch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name, real):
        def call(*arguments, **more):
            if name == "mkdir" and Path(arguments[0]).is_dir():
                return real(*arguments, **more)  # to fail here is no harm: the folder is there
            self.left -= 1
            if self.left == -1:
                self.failed = name
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **more)

        return call


def temporary_files(folder: Path) -> list[str]:
    """Half-written files; in a folder whose own name starts with a dot, a start removes them."""
    hidden = [path for path in folder.rglob(".*") if path.is_file() and ".tmp" in path.name]
    return [str(path.relative_to(folder)) for path in hidden if not path.parent.name.startswith(".")]


def failing(publisher: Callable[[Place], Path], place: Place, calls: int) -> str:
    """Which call of a publisher failed; "" when it has no more."""
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop(patch, calls)
        told = False
        try:
            publisher(place)
        except (OSError, MedattnError):
            told = True
    assert told is bool(stop.failed), f"{stop.failed or 'nothing'} failed"
    return stop.failed


@pytest.mark.parametrize("publisher", [one for _, one in ALL], ids=lambda one: one.__name__)
def test_whichever_call_fails_is_told_and_leaves_no_temporary_file(publisher, tmp_path):
    seen = []
    while True:
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        failed = failing(publisher, new_place(folder), len(seen))
        assert temporary_files(folder) == [], f"after {failed}, call {len(seen) + 1}"
        if not failed:
            break
        seen.append(failed)
    assert "fsync" in seen


@pytest.mark.parametrize("calls", [0, 1])
def test_a_whole_file_that_fails_leaves_the_old_one_and_no_temporary_file(calls, tmp_path):
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        stop = Stop(patch, calls)
        with pytest.raises(OutputError, match="No space left"), replacing(path) as temporary:
            temporary.write_bytes(b"new")
    assert stop.failed == ("fsync", "replace")[calls]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_staged_object_that_nobody_keeps_is_removed(place):
    with place.file.open("rb") as file, place.spool.stage(file) as staged:
        assert staged.path.is_file()
    assert not staged.path.exists()
    with pytest.raises(ZeroDivisionError), place.file.open("rb") as file, place.spool.stage(file) as staged:
        raise ZeroDivisionError
    assert not staged.path.exists()
