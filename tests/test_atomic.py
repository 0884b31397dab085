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
