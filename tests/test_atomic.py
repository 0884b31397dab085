"""A file appears whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from medattn_edge.atomic import naming_full_disk, replacing, sync
from medattn_edge.errors import OutputError


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError


def test_a_new_file_appears_when_the_block_ends(tmp_path):
    with replacing(tmp_path / "labels.nii.gz") as temporary:
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "labels.nii.gz").exists()
    assert (tmp_path / "labels.nii.gz").read_bytes() == b"whole"


def test_writers_that_look_at_the_suffix_see_the_same_one(tmp_path):
    with replacing(tmp_path / "labels.nii.gz") as temporary:
        assert temporary.name.endswith(".labels.nii.gz")
        assert temporary.parent == tmp_path


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "labels.npz"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_that_the_umask_gives(tmp_path):
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "labels.npz") as temporary:
            temporary.write_bytes(b"whole")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "labels.npz").stat().st_mode) == 0o640


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(OutputError, match="mkdir -p"), replacing(tmp_path / "nowhere" / "labels.npz"):
        pass


def test_a_name_that_the_file_system_refuses_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / ("x" * 250 + ".npz")):
        pass


def test_a_folder_in_the_place_of_the_file_is_an_output_error(tmp_path):
    path = tmp_path / "labels.npz"
    path.mkdir()
    with pytest.raises(OutputError, match="cannot write"), replacing(path) as temporary:
        temporary.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_that_fails_inside_the_block_keeps_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "labels.npz"):
        (tmp_path / "other").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_is_an_output_error(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(OutputError, match="No space left"),
        replacing(tmp_path / "labels.npz"),
        full.open("wb", buffering=0) as device,
    ):
        device.write(b"whole")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_stays_one_and_its_target_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "v1.bin", tmp_path / "labels.npz"
    target.write_bytes(b"old")
    link.symlink_to("data/v1.bin")
    with replacing(link) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".labels.npz")
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_what_is_not_there_yet_makes_it_and_one_into_no_folder_is_refused(tmp_path):
    (tmp_path / "new").symlink_to(tmp_path / "v1.bin")
    with replacing(tmp_path / "new") as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / "v1.bin").read_bytes() == b"whole"
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "v1.bin")
    with pytest.raises(OutputError, match="nowhere"), replacing(tmp_path / "lost"):
        pass
    assert (tmp_path / "lost").is_symlink()


def test_an_error_while_a_link_is_written_leaves_link_and_target(tmp_path):
    target, link = tmp_path / "v1.bin", tmp_path / "labels.npz"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(ZeroDivisionError):
        write_half(link)
    assert link.is_symlink()
    assert link.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_link_keeps_its_target_when_an_error_comes(tmp_path):
    target, link = tmp_path / "v1.bin", tmp_path / "labels.npz"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(ZeroDivisionError):
        write_half(link)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.npz", "v1.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES])
def test_an_error_of_a_library_is_one_of_the_disk_when_that_takes_no_more(tmp_path, monkeypatch, code):
    """A megabyte is tried: libraries in C say seldom why they failed."""
    tried = []

    def full(descriptor):
        tried.append(os.fstat(descriptor).st_size)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    is_full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    with pytest.raises(OutputError if is_full else ZeroDivisionError) as caught:
        write_half(tmp_path / "labels.npz")
    assert tried == [4 + (1 << 20)]
    if is_full:
        assert os.strerror(code) in caught.value.found
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError if is_full else ZeroDivisionError), naming_full_disk(tmp_path / "t", tmp_path / "a"):
        raise ZeroDivisionError


def test_an_error_that_says_already_what_is_wrong_is_not_asked_of_the_disk(tmp_path, monkeypatch):
    said = OutputError("mine", expected="nothing", hint="nothing")
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("the disk was tried"))
    with pytest.raises(OutputError, match="mine"), replacing(tmp_path / "a.npz"):
        raise said
    with pytest.raises(OutputError, match="mine"), naming_full_disk(tmp_path / "t", tmp_path / "a"):
        raise said
    assert list(tmp_path.iterdir()) == []


def open_files():
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def test_a_synced_file_is_closed_again(tmp_path, monkeypatch):
    before = open_files()
    sync(tmp_path)
    assert open_files() == before

    def fails(descriptor):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        sync(tmp_path)
    assert open_files() == before
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before


@pytest.mark.parametrize("place", ["the file", "its folder", "another", "none"])
def test_an_error_of_a_file_is_ours_when_it_is_about_our_file(tmp_path, place):
    path = tmp_path / "a.npz"
    names = {"the file": path, "its folder": tmp_path, "another": tmp_path / "b.npz", "none": None}
    wanted = OSError if place == "another" else OutputError
    with pytest.raises(wanted) as caught, replacing(path):
        raise OSError(errno.EACCES, "Permission denied", *([os.fspath(names[place])] if names[place] else []))
    assert isinstance(caught.value, OutputError) is (place != "another")


def test_an_error_without_a_text_of_the_system_is_told_in_its_own_words(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*: in its own words"), replacing(tmp_path / "a.npz"):
        raise OSError("in its own words")
