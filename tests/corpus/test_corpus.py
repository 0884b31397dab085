"""Scans as other people ship them: the committed table is today's, and whoever reads otherwise is found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from medattn_edge.process import Child
from tests.corpus.__main__ import PACKAGES, _judged, judge, packages
from tests.corpus.find import Candidate, find
from tests.corpus.readers import Reading, difference
from tests.corpus.table import VERDICTS, markdown
from tests.support import ROOT
from tests.support.dicom_phantoms import Stored, in_plane, real_ct, write_series
from tests.support.scans import write_nifti


def test_the_committed_table_is_what_the_packages_test_files_give_today(small_artifact: Path) -> None:
    assert [root.name for root in packages()] == list(PACKAGES)
    verdicts = list(judge(packages(), small_artifact))
    assert not [one for one in verdicts if one.verdict in ("crashed", "different")]
    assert {one.format for one in verdicts if one.verdict == "accepted"} >= {"dicom", "mgh", "nifti", "nrrd"}
    committed = (ROOT / "tests" / "corpus" / "table.md").read_text(encoding="utf-8")
    assert markdown(verdicts) == committed, "python -m tests.corpus > tests/corpus/table.md"


def test_every_format_and_way_to_store_it_is_accepted(tmp_path: Path, small_artifact: Path) -> None:
    """What no package ships: oblique and padded series, MONOCHROME1, several volumes, pictures, stacks, MetaImage."""
    import SimpleITK
    import tifffile
    from PIL import Image

    ct = in_plane(real_ct(), "oblique")
    write_series(tmp_path / "plain", ct.voxels, ct.affine, name="z", InstanceNumber=lambda index: 9 - index)
    padded = ct.voxels.copy()
    padded[:, :5] = -2000
    write_series(tmp_path / "padded", padded, ct.affine, SeriesInstanceUID="1.2.3.1", PixelPaddingValue=-2000)
    shown = {"stored": Stored(photometric="MONOCHROME1"), "SeriesInstanceUID": "1.2.3.6"}
    write_series(tmp_path / "shown", ct.voxels, ct.affine, **shown)
    mr, turned = ct.voxels - ct.voxels.min(), Stored(photometric="MONOCHROME1", signed=False, bits=12)
    write_series(tmp_path / "mr", mr, ct.affine, modality="MR", stored=turned, SeriesInstanceUID="1.2.3.2")
    write_series(tmp_path / "enhanced", ct.voxels, ct.affine, enhanced=True, SeriesInstanceUID="1.2.3.3")
    squeezed = {"transfer_syntax": JPEG2000Lossless, "SeriesInstanceUID": "1.2.3.4"}
    write_series(tmp_path / "jpeg", ct.voxels, ct.affine, **squeezed)
    for number in (1, 2):
        of = {"SeriesInstanceUID": "1.2.3.5", "TemporalPositionIdentifier": number, "modality": "MR"}
        of["SOPInstanceUID"] = lambda index, number=number: f"1.2.3.5.{number}.{index}"
        write_series(tmp_path / "times", mr + number, ct.affine, name=f"t{number}", **of)
    write_nifti(tmp_path / "scan.nii.gz", ct)
    image = SimpleITK.ReadImage(str(tmp_path / "scan.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.mha"), True)
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nrrd"), True)
    np.savez(tmp_path / "scan.npz", voxels=ct.voxels, affine=ct.affine)
    tifffile.imwrite(tmp_path / "stack.tif", mr.astype(np.uint16))
    Image.fromarray(mr[0].astype(np.uint8)).save(tmp_path / "grey.png")

    verdicts = {one.scan: one for one in judge([tmp_path], small_artifact)}
    series = {one.scan.split("/")[0]: one for one in verdicts.values() if one.format == "dicom"}
    assert {one.verdict for one in verdicts.values() if one.reason != "several_volumes"} == {"accepted"}, [
        one for one in verdicts.values() if one.verdict != "accepted"
    ]
    assert sum(one.reason == "several_volumes" for one in verdicts.values()) == 1
    assert set(series) == {"plain", "padded", "shown", "mr", "enhanced", "jpeg", "times"}
    assert series["times"].scan.endswith("volume 1")
    assert all(
        "as highdicom and SimpleITK" in series[name].detail for name in ("plain", "padded", "shown", "mr", "jpeg")
    )
    assert len(verdicts) == 14


@pytest.mark.parametrize(
    "damage",
    [
        "half a voxel",
        "flipped",
        "permuted frames",
        "one value",
        "scaled",
        "another size",
        "mirrored place",
        "not placed",
    ],
)
def test_whoever_reads_otherwise_is_found(damage: str) -> None:
    ct = in_plane(real_ct(), "oblique")
    right = Reading("another", ct.voxels, ct.affine)
    voxels, affine = ct.voxels.copy(), ct.affine.copy()
    match damage:
        case "half a voxel":
            affine[:3, 3] += affine[:3, 2] / 2
        case "flipped":
            voxels = voxels[:, ::-1]
        case "permuted frames":
            voxels = voxels[[0, 2, 4, 1, 3, 5]]
        case "one value":
            voxels[3, 7, 5] += 1
        case "scaled":
            affine[:3, :3] *= 1.001
        case "another size":
            voxels = voxels[:, :-1]
        case "mirrored place":
            affine[0] *= -1
    ours = Reading("ours", voxels, None if damage == "not placed" else affine)
    assert difference(ours, right)
    assert not difference(replace(ours, voxels=ct.voxels, affine=ct.affine), right)


def test_the_same_voxels_in_another_order_of_axes_are_the_same() -> None:
    ct = in_plane(real_ct(), "oblique")
    affine = ct.affine.copy()
    affine[:3, 3] += affine[:3, 1] * (ct.shape[1] - 1)
    affine[:3, 1] *= -1
    order = [2, 0, 1, 3]
    other = Reading("another", ct.voxels[:, ::-1].transpose(2, 0, 1), affine[:, order])
    assert difference(Reading("ours", ct.voxels, ct.affine), other) == ""


def test_a_difference_a_crash_and_a_file_that_no_other_reader_knows_are_counted(
    tmp_path: Path, small_artifact: Path
) -> None:
    child = Child("tests.corpus.judge", quiet=True)
    crashed = _judged(child, "corpus", Candidate("no files", "dicom", tmp_path), small_artifact)
    assert (crashed.verdict, crashed.detail[:10]) == ("crashed", "ValueError")
    # SimpleITK, by design, reads a picture of one bit as 0 and 255, and knows no bzip2 in NRRD.
    from PIL import Image

    Image.fromarray(real_ct().voxels[0] > 0).save(tmp_path / "bit.png")
    [one] = find(tmp_path)
    different = _judged(child, "corpus", one, small_artifact)
    child.close()
    assert different.verdict == "different"
    assert "SimpleITK" in different.detail
    text = markdown([crashed, different])
    assert text.index("## crashed") < text.index("## different")
    assert all(verdict in text.splitlines()[0] for verdict in VERDICTS)


def test_the_command_prints_one_document_and_ends_with_1_for_a_difference(tmp_path: Path, small_artifact: Path) -> None:
    from PIL import Image

    write_nifti(tmp_path / "scan.nii.gz", real_ct())
    Image.fromarray(real_ct().voxels[0] > 0).save(tmp_path / "bit.png")
    words = [sys.executable, "-m", "tests.corpus", "--network", str(small_artifact), "--json"]
    done = subprocess.run([*words, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["formats"]["nifti"] == {"accepted": 1, "refused": 0, "crashed": 0, "different": 0, "reasons": {}}
    assert {one["scan"]: one["verdict"] for one in document["scans"]} == {
        "scan.nii.gz": "accepted",
        "bit.png": "different",
    }
    done = subprocess.run([*words, str(tmp_path / "no")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
