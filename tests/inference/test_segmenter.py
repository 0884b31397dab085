"""One line of Python: an artifact that is called with whatever a scan may come as."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import medattn_edge as me
from medattn_edge.backends import open_session
from medattn_edge.errors import GeometryError, ScanError, UsageError
from medattn_edge.inference.segmenter import Segmenter
from medattn_edge.io import Scan, read_volume
from medattn_edge.release import generate_key, write_release


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, small_artifact: Path) -> Path:
    """A NIfTI scan of uneven sizes and spacing whose axes run to the right, to the front and to the head."""
    with open_session(small_artifact) as session:
        channels = session.spec.in_channels
    rng, affine = np.random.default_rng(0), np.diag((2.0, 3.0, 4.0, 1.0))
    affine[:3, 3] = (-40, 7, 90)
    voxels = rng.normal(size=(40, 36, 5, channels)[: 3 if channels == 1 else 4]).astype(np.float32)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(image, path)
    return path


def test_a_path_a_scan_a_volume_an_image_and_an_array_are_segmented_alike(small_artifact: Path, scan: Path) -> None:
    volume = read_volume(scan)
    with me.load(small_artifact) as network:
        expected = network(scan)
        found = [network(one) for one in (str(scan), Scan(scan), volume, nibabel.load(scan))]
    for one in found:
        np.testing.assert_array_equal(one.labels.voxels, expected.labels.voxels)
        np.testing.assert_array_equal(one.labels.affine, expected.labels.affine)
        assert one.volumes_ml == expected.volumes_ml
    assert set(expected.volumes_ml) == set(expected.names[1:])
    assert expected.labels.voxels.any()


def test_an_array_lies_as_it_says_and_its_spacing_gives_the_millilitres(small_artifact: Path, scan: Path) -> None:
    voxels = read_volume(scan).oriented("LPS").voxels
    with me.load(small_artifact) as network:
        expected, found = network(scan), network(voxels, spacing=(4, 3, 2), probabilities=True)
    np.testing.assert_array_equal(found.labels.voxels, expected.labels.oriented("LPS").voxels)
    assert found.volumes_ml == pytest.approx(expected.volumes_ml)
    assert found.probabilities is not None
    assert found.probabilities.voxels.shape == (len(found.names), *voxels.shape[-3:])
    np.testing.assert_array_equal(found.labels.affine[:3, :3], [[0, 0, 2], [0, 3, 0], [4, 0, 0]])


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (np.zeros((5, 36, 40)), {}, "spacing None"),
        (np.zeros((5, 36, 40)), {"spacing": (1, 1)}, "three spacings"),
        (np.zeros((5, 36, 40)), {"spacing": (1, 0, 1)}, "three spacings"),
        (np.zeros((5, 36, 40)), {"spacing": (1, float("nan"), 1)}, "three spacings"),
        ([[1, 2]], {}, "list as a scan"),
        (None, {}, "NoneType as a scan"),
        ("scan", {"spacing": (1, 1, 1)}, "leave spacing out"),
    ],
)
def test_what_is_no_scan_is_refused(small_artifact: Path, given: Any, more: dict[str, Any], message: str) -> None:
    with me.load(small_artifact) as network, pytest.raises(UsageError, match=message):
        network(given, **more)


def test_an_image_in_memory_is_held_to_its_forms_as_a_file_is(small_artifact: Path, scan: Path) -> None:
    image: Any = nibabel.load(scan)
    image.header.set_qform(np.diag((5.0, 5.0, 5.0, 1.0)), code=1)
    with me.load(small_artifact) as network, pytest.raises(GeometryError, match="sform"):
        network(image)


def test_an_image_of_a_file_that_is_cut_off_is_named_as_the_file_is(
    small_artifact: Path, scan: Path, tmp_path: Path
) -> None:
    whole: Any = nibabel.load(scan)
    plain = tmp_path / "scan.nii"
    nibabel.save(whole, plain)
    plain.write_bytes(plain.read_bytes()[:-100])
    with me.load(small_artifact) as network, pytest.raises(ScanError, match=r"scan\.nii cannot be read"):
        network(nibabel.load(plain))


def test_a_release_is_opened_and_its_copy_is_gone_in_the_end(
    small_artifact: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography", reason="the extra release is not installed")
    release, copies = tmp_path / "release", tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    write_release([small_artifact], release)
    network = me.load(release)
    assert len(list(copies.iterdir())) == 1
    assert network(scan).labels.voxels.any()
    network.close()
    generate_key(tmp_path / "key")
    with pytest.raises(me.MedattnError, match="not signed"):
        me.load(release, trusted=tmp_path / "key.pub")
    with pytest.raises(UsageError, match="without a release"):
        me.load(small_artifact, trusted=tmp_path / "key.pub")
    assert list(copies.iterdir()) == []


def test_the_session_is_closed_with_it(small_artifact: Path, scan: Path) -> None:
    session = open_session(small_artifact)
    with Segmenter(session) as network:
        network(scan)
    with pytest.raises(me.MedattnError):
        session.run(np.zeros((1, session.spec.in_channels, *session.spec.patch), np.float32))


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medattn_edge", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("medattn-edge ")
