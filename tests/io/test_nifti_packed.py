"""NIfTI in .bz2 and .zst is the NIfTI that was compressed; damaged is refused; nothing is written so."""

from __future__ import annotations

import bz2
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import MissingDependency, ScanError, UsageError
from medattn_edge.installation import install_line
from medattn_edge.io import format_of, read_volume, write_labels
from medattn_edge.volume import Volume

LABELS = Volume(
    np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.uint8), np.diag([3.0, 2, 1, 1])[[2, 1, 0, 3]]
)


def zstd() -> Callable[[bytes], bytes]:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return pytest.importorskip(name, reason="the extra zstd is not installed").compress  # type: ignore[no-any-return]


@pytest.fixture(params=[".nii.bz2", ".nii.zst"])
def packed(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    return request.param, bz2.compress if request.param == ".nii.bz2" else zstd()


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    write_labels(tmp_path / "plain.nii", LABELS, ["background"])
    return (tmp_path / "plain.nii").read_bytes()


def test_it_is_the_scan_that_was_compressed(
    tmp_path: Path, plain: bytes, packed: tuple[str, Callable[[bytes], bytes]]
) -> None:
    suffix, compress = packed
    (tmp_path / f"scan{suffix}").write_bytes(compress(plain))
    volume = read_volume(tmp_path / f"scan{suffix}")
    assert np.array_equal(volume.voxels, LABELS.voxels)
    assert np.array_equal(volume.affine, read_volume(tmp_path / "plain.nii").affine)


def test_damaged_and_cut_off_is_refused(
    tmp_path: Path, plain: bytes, packed: tuple[str, Callable[[bytes], bytes]]
) -> None:
    suffix, compress = packed
    whole, path = compress(plain), tmp_path / f"scan{suffix}"
    for data in (b"", b"no scan", whole[: len(whole) // 2], compress(plain[:400]), b"\0" * len(whole)):
        path.write_bytes(data)
        with pytest.raises(ScanError, match="scan"):
            read_volume(path)


def test_it_is_only_read(tmp_path: Path, packed: tuple[str, Callable[[bytes], bytes]]) -> None:
    with pytest.raises(UsageError, match="is only read"):
        write_labels(tmp_path / f"labels{packed[0]}", LABELS, ["background"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "extra"), [(".nii.zst", "zstd"), (".mha", "itk"), (".tif", "tiff"), (".mgz", "nifti")]
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, suffix: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(b"whatever")
    package = format_of(path).packages[-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency) as raised:
        read_volume(path)
    assert raised.value.hint == install_line(extra)
