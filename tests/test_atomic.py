"""A file appears whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from medattn_edge.atomic import replacing
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
