"""Which files of a folder are DICOM and how much of one is read: each limit itself, and the next value."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")


from medattn_edge.io.dicom import files  # noqa: E402
from medattn_edge.io.dicom.reasons import RefusedSeries  # noqa: E402
from tests.support.data_sets import reason_of  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402

SCAN = real_ct(3, 12, 10)


@pytest.mark.parametrize(("count", "reason"), [(3, ""), (4, "too_large")])
def test_a_folder_has_so_many_files_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, reason: str
) -> None:
    monkeypatch.setattr(files, "MOST_FILES", 3)
    for number in range(count):
        (tmp_path / f"{number}.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("not one of them")
    assert reason_of(lambda: files.listing(tmp_path)) == reason
    if not reason:
        assert files.listing(tmp_path).ignored == 1


@pytest.mark.parametrize(
    ("size", "cut", "reason"), [(5000, 0, ""), (5001, 0, "too_large"), (5000, 1, "truncated"), (0, 0, "")]
)
def test_a_deflated_data_set_becomes_no_more_than_its_bound(
    monkeypatch: pytest.MonkeyPatch, size: int, cut: int, reason: str
) -> None:
    monkeypatch.setattr(files, "MOST_INFLATED", 5000)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(bytes(size)) + packer.flush()
    file = io.BytesIO(b"in front" + packed[: len(packed) - cut])
    assert reason_of(lambda: files.check_inflated(file, 8)) == reason


def test_a_deflated_data_set_of_many_blocks_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    for bound, reason in ((3 << 20, ""), ((3 << 20) - 1, "too_large")):
        monkeypatch.setattr(files, "MOST_INFLATED", bound)
        assert reason_of(lambda: files.check_inflated(io.BytesIO(packed), 0)) == reason
    with pytest.raises(RefusedSeries, match="more than 2 MB"):
        files.check_inflated(io.BytesIO(packed), 0)


@pytest.mark.parametrize("length", [19, 20, 24, 28])
def test_two_elements_are_what_a_bare_data_set_is_known_by(length: int) -> None:
    """Two heads of eight bytes, and four of the first value: 20 are needed."""
    head = b"\x08\x00\x05\x00\x04\x00\x00\x001.2\0" + b"\x08\x00\x08\x00\x04\x00\x00\x001.2\0"
    assert files.without_preamble(head[:length]) == (length >= 20)


@pytest.mark.parametrize("vr", [b"UI", b"CS", b"OB", b"OW", b"UN", b"SQ", b"UT"])
def test_explicit_elements_have_short_lengths_or_none_that_is_looked_behind(vr: bytes) -> None:
    short = b"\x08\x00\x05\x00" + vr + b"\x04\x001.2\0" + b"\x08\x00\x08\x00CS\x02\x00A " + bytes(8)
    assert files.without_preamble(short) == (vr in (b"UI", b"CS"))


@pytest.mark.parametrize(
    ("second", "taken"),
    [((8, 6), True), ((8, 5), False), ((8, 4), False), ((2, 9), False), ((9, 6), False), ((0x10, 6), False)],
)
def test_elements_ascend_within_the_first_groups(second: tuple[int, int], taken: bool) -> None:
    head = b"\x08\x00\x05\x00\x04\x00\x00\x001.2\0" + bytes((second[0], 0, second[1], 0)) + b"\x04\x00\x00\x001.2\0"
    assert files.without_preamble(head) is taken


@pytest.mark.parametrize("magic", [b"\x00\x05\x16\x07", b"\x00\x05\x16\x00"])
def test_both_kinds_of_files_that_macos_leaves_are_left_out(tmp_path: Path, magic: bytes) -> None:
    write_series(tmp_path, SCAN.voxels, SCAN.affine)
    for name in ("._a.dcm", "._b.dcm"):
        (tmp_path / name).write_bytes(magic + bytes(100))
    (tmp_path / "empty.dcm").touch()
    listed = files.listing(tmp_path)
    assert listed.notes == ("2 AppleDouble files of macOS left out", "1 empty files left out")
    assert (len(listed.files), listed.ignored) == (3, 3)
    (tmp_path / "b.dcm").write_bytes(magic + bytes(100))
    assert len(files.listing(tmp_path).files) == 4  # its name says nothing of macOS


def test_whether_a_file_is_dicom_is_asked_of_files_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM")
    assert files.is_dicom(tmp_path / "a")
    assert not files.is_dicom(tmp_path)
    assert not files.is_dicom(tmp_path / "gone")
    (tmp_path / "a").write_bytes(bytes(127) + b"DICM")
    assert not files.is_dicom(tmp_path / "a")
    (tmp_path / "a").write_bytes(bytes(128) + b"DICT")
    assert not files.is_dicom(tmp_path / "a")
