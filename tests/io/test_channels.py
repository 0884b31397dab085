"""Several scans become the channels of one network: in its order, by name, and never in a wrong one silently."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError, UsageError
from medattn_edge.io import ChannelScan, Scan, as_scan, read_channels, read_volume, write_labels, write_maps
from medattn_edge.spec import ModelSpec
from tests.support.sessions import make_spec, make_volume

NAMES = ("t1", "t1ce", "t2", "flair")
VOXELS = np.random.default_rng(0).integers(0, 200, (4, 3, 6, 5)).astype(np.uint8)


def spec(names: tuple[str, ...] = NAMES, channels: int = 4) -> ModelSpec:
    plain = make_spec((4, 4), channels=channels).to_json()
    return ModelSpec.from_json({**plain, "channels": list(names)})


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """case_t1.nrrd, case_t1ce.nrrd, ... of which each has other voxels."""
    paths = [tmp_path / f"case_{name}.nrrd" for name in NAMES]
    for path, voxels in zip(paths, VOXELS, strict=True):
        write_labels(path, make_volume(voxels, (4.0, 1.5, 1.25)), ["background"])
    return paths


def joined(*parts: object) -> str:
    return "+".join(map(str, parts))


def test_paths_are_the_channels_in_their_order(scans: list[Path]) -> None:
    for given in (scans, joined(*scans), [joined(*scans[:2]), joined(*scans[2:])]):
        scan = as_scan(given)
        assert isinstance(scan, ChannelScan)
        assert scan.paths == tuple(scans)
        assert scan.files == tuple(scans)
        assert np.array_equal(scan.read().voxels, VOXELS)
    volume = read_channels(scans, spec())
    assert np.array_equal(volume.voxels, VOXELS)
    assert volume.spacing == (4.0, 1.5, 1.25)
    assert as_scan(scans).assignment(spec()) == tuple(f"{name} <- case_{name}.nrrd" for name in NAMES)
    assert as_scan(scans).described(spec()) == joined(*(f"{name}=case_{name}.nrrd" for name in NAMES))


def test_names_put_the_channels_into_the_networks_order_whatever_is_given_first(scans: list[Path]) -> None:
    order = [2, 0, 3, 1]
    given = [f"{NAMES[index]}={scans[index]}" for index in order]
    assert np.array_equal(as_scan(joined(*given)).read().voxels, VOXELS[order])
    volume = read_channels(given, spec())
    assert np.array_equal(volume.voxels, VOXELS)
    assert as_scan(given).assignment(spec())[0] == "t1 <- case_t1.nrrd"


def test_labels_lie_on_the_first_that_was_given(scans: list[Path]) -> None:
    """Whose axes the others follow, and the permutation of the channels does not change that."""
    write_labels(scans[3], make_volume(VOXELS[3], (4.0, 1.5, 1.25)).oriented("RAS"), ["background"])
    given = [f"flair={scans[3]}", *(f"{name}={path}" for name, path in zip(NAMES, scans[:3], strict=False))]
    volume = read_channels(given, spec())
    assert np.array_equal(volume.affine, read_volume(scans[3]).affine)
    assert np.array_equal(volume.to_lps().voxels, VOXELS)


def test_a_file_whose_name_says_another_channel_is_refused_until_it_is_named(scans: list[Path]) -> None:
    swapped = [scans[1], scans[0], *scans[2:]]
    with pytest.raises(UsageError, match=r"case_t1ce\.nrrd would be the channel t1") as raised:
        read_channels(swapped, spec())
    hint = raised.value.hint
    assert hint == joined(*(f"{name}={path}" for name, path in zip(NAMES, scans, strict=True)))
    assert np.array_equal(read_channels([hint], spec()).voxels, VOXELS)
    named = [f"{name}={path}" for name, path in zip(NAMES, swapped, strict=True)]
    assert np.array_equal(read_channels(named, spec()).voxels, VOXELS[[1, 0, 2, 3]])
    assert np.array_equal(read_channels(swapped, spec(())).voxels, VOXELS[[1, 0, 2, 3]])  # nothing to hold it to


def test_a_name_that_says_its_own_channel_and_another_is_taken(scans: list[Path], tmp_path: Path) -> None:
    session = tmp_path / "ses-t1_flair.nrrd"
    shutil.copy(scans[3], session)
    assert np.array_equal(read_channels([*scans[:3], session], spec()).voxels, VOXELS)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_another_number_of_scans_is_refused_with_the_channels(scans: list[Path], tmp_path: Path, count: int) -> None:
    shutil.copy(scans[0], tmp_path / "fifth.nrrd")
    given = [*scans, tmp_path / "fifth.nrrd"][:count]
    with pytest.raises((UsageError, ScanError)) as raised:
        read_channels(given, spec())
    assert "t1, t1ce, t2, flair" in str(raised.value)
    with pytest.raises((UsageError, ScanError)):
        read_channels(given, spec(()))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".npz"])
def test_a_file_of_several_volumes_is_their_channels(tmp_path: Path, suffix: str) -> None:
    maps = make_volume(VOXELS.astype(np.float32), (4.0, 1.5, 1.25))
    path = tmp_path / f"all{suffix}"
    write_maps(path, maps, NAMES)
    volume = read_channels([path], spec())
    assert np.array_equal(volume.voxels, maps.voxels)
    assert np.allclose(volume.affine, maps.affine)
    assert as_scan(path).assignment(spec()) == tuple(
        f"{n} <- volume {i} of all{suffix}" for i, n in enumerate(NAMES, 1)
    )
    with pytest.raises(ScanError, match="4 channel"):
        read_channels([path], spec(("a", "b"), 2))


def test_the_fourth_axis_of_nifti_is_as_nibabel_has_it(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(-9, 9, (5, 6, 3, 4)).astype(np.int16)
    for shape in ((5, 6, 3, 4), (5, 6, 3, 1, 4)):
        image = nibabel.Nifti1Image(stored.reshape(shape), np.diag([1.25, 1.5, 4, 1]))
        image.set_sform(image.affine, 1)
        nibabel.save(image, tmp_path / "all.nii.gz")
        volume = read_volume(tmp_path / "all.nii.gz")
        assert volume.voxels.shape == (4, 3, 6, 5)
        assert all(np.array_equal(volume.voxels[n], stored[..., n].T) for n in range(4))
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 3, 2, 4), np.int16), np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(ScanError, match=r"\(5, 6, 3, 2, 4\)"):
        read_volume(tmp_path / "two.nii")


def test_grids_that_differ_are_refused_or_resampled_when_that_is_asked_for(scans: list[Path]) -> None:
    write_labels(scans[2], make_volume(VOXELS[2], (4.0, 1.5, 1.3)), ["background"])
    with pytest.raises(GeometryError, match=r"case_t2\.nrrd is not on the grid of case_t1\.nrrd: spacing 4x1\.5x1\.3"):
        read_channels(scans, spec())
    scan = as_scan(scans, resample_to_first=True)
    volume = scan.read_for(spec())
    assert np.array_equal(volume.voxels[[0, 1, 3]], VOXELS[[0, 1, 3]])
    (note,) = scan.notes()
    assert note.startswith("case_t2.nrrd was resampled linearly")
    assert scan.described(spec()).endswith("flair=case_flair.nrrd, resampled to the first")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["t1={0}", "{1}", "{2}", "{3}"], "a name for each of them"),
        (["t1={0}", "t1={1}", "{2}", "{3}"], "a name for each of them"),
        (["t1={0}", "t1ce={0}", "t2={2}", "flair={3}"], "comes twice"),
        (["t1={0}", "t1c={1}", "t2={2}", "flair={3}"], "scans for t1, t1ce, t2, flair"),
    ],
)
def test_names_that_cannot_be_followed_are_refused(scans: list[Path], parts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_channels([part.format(*scans) for part in parts], spec())


def test_names_for_a_network_without_any_are_refused(scans: list[Path]) -> None:
    with pytest.raises(UsageError, match="channels without names"):
        read_channels([f"{name}={path}" for name, path in zip(NAMES, scans, strict=True)], spec(()))


def test_a_path_that_is_there_is_one_path_whatever_is_in_its_name(tmp_path: Path, scans: list[Path]) -> None:
    for name in ("a+b.nrrd", "t1=x.nrrd", "t1=a+t2=b.nrrd"):
        shutil.copy(scans[0], tmp_path / name)
        scan = as_scan(tmp_path / name)
        assert type(scan) is Scan
        assert np.array_equal(scan.read().voxels, VOXELS[0])
    with pytest.raises(ScanError, match=r"c\+d.nrrd does not exist"):
        as_scan(tmp_path / "c+d.nrrd").read()
    with pytest.raises(ScanError, match=r"d\.nrrd does not exist"):
        as_scan(joined(scans[0], tmp_path / "d.nrrd")).read()


def test_several_series_of_dicom_are_channels_and_the_first_is_what_a_segmentation_refers_to(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import write_series

    grid = make_volume(VOXELS[0].astype(np.int16), (4.0, 1.5, 1.25))
    for number, name in enumerate(("t1", "t2")):
        voxels = VOXELS[number].astype(np.int16)
        uids = {"SeriesInstanceUID": f"1.2.3.{number}", "FrameOfReferenceUID": "1.2.4"}
        write_series(tmp_path / name, voxels, grid.affine, name=name, **uids)
    scan = as_scan(joined(tmp_path / "t1", tmp_path / "t2"))
    assert np.array_equal(scan.read_for(spec(("t1", "t2"), 2)).voxels, VOXELS[:2])
    assert scan.series is not None
    assert scan.series.hash == Scan(tmp_path / "t1").series.hash  # type: ignore[union-attr]
    assert len(scan.files) == 6
    with pytest.raises(UsageError, match="--series"):
        as_scan([tmp_path / "t1", tmp_path / "t2"], "ab")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatientID": "PHANTOM-2"}, "other_patient"),
        ({"FrameOfReferenceUID": "1.2.5"}, "other_frame_of_reference"),
        ({"FrameOfReferenceUID": None}, "other_frame_of_reference"),
    ],
)
def test_series_of_two_patients_or_in_two_systems_of_coordinates_are_no_channels(
    tmp_path: Path, changes: dict[str, str | None], reason: str
) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from medattn_edge.io.dicom.reasons import RefusedSeries
    from tests.support.dicom_phantoms import write_series

    grid = make_volume(VOXELS[0].astype(np.int16), (4.0, 1.5, 1.25))
    for number, name in enumerate(("t1", "t2")):
        uids = {"SeriesInstanceUID": f"1.2.3.{number}", "FrameOfReferenceUID": "1.2.4", **(changes if number else {})}
        write_series(tmp_path / name, VOXELS[number].astype(np.int16), grid.affine, name=name, **uids)
    for resample in (False, True):
        with pytest.raises(RefusedSeries) as caught:
            as_scan(joined(tmp_path / "t1", tmp_path / "t2"), resample_to_first=resample).read()
        assert caught.value.reason == reason
        assert caught.value.detail.startswith("t2 has another")
        assert "PHANTOM" not in caught.value.message
    scan = as_scan(tmp_path / "t1")
    assert scan.series is not None
    assert "PHANTOM" not in repr(scan.series)


def test_scans_that_have_been_found_are_channels_in_their_order_and_another_one_is_another_identity(
    tmp_path: Path, scans: list[Path]
) -> None:
    network = spec(("t1", "t2"), 2)
    found = ChannelScan({"first": Scan(scans[0]), "second": Scan(scans[1])})
    assert np.array_equal(found.read_for(network).voxels, VOXELS[:2])
    identities = {found.identity(network), as_scan(joined(*scans[:2])).identity(network)}
    assert len(identities) == 1  # whatever they are called
    turned = ChannelScan({"first": Scan(scans[1]), "second": Scan(scans[0])})
    other = ChannelScan({"first": Scan(scans[0]), "second": Scan(scans[2])})
    resampled = ChannelScan({"first": Scan(scans[0]), "second": Scan(scans[1])}, resample_to_first=True)
    assert len(identities | {one.identity(network) for one in (turned, other, resampled)}) == 4


def test_a_network_without_names_for_its_channels_is_told_how_many_scans_it_wants(scans: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"2 scans for a network of 4 channel\(s\): channel 1, channel 2") as raised:
        as_scan(scans[:2]).assignment(spec(()))
    assert raised.value.hint == "SCAN+SCAN+SCAN+SCAN"
    with pytest.raises(UsageError) as raised:
        as_scan(scans[:2]).assignment(spec())
    assert raised.value.hint == "t1=SCAN+t1ce=SCAN+t2=SCAN+flair=SCAN"
    assert as_scan(scans).assignment(spec(()))[3] == "channel 4 <- case_flair.nrrd"


@pytest.mark.parametrize("option", ["series", "geometry", "volume"])
def test_a_choice_of_one_scan_is_none_of_several(scans: list[Path], option: str) -> None:
    value: dict[str, Any] = {option: 1 if option == "volume" else "sform"}
    with pytest.raises(UsageError, match=f"--{option} with 2 scans"):
        as_scan(scans[:2], **value)
    with pytest.raises(UsageError, match=f"--{option} with 1 scans"):
        as_scan(f"t1={scans[0]}", **value)
    with pytest.raises(UsageError, match="no scan"):
        as_scan([])


def test_of_two_choices_the_first_one_is_named_in_error_and_hint(scans: list[Path]) -> None:
    with pytest.raises(UsageError, match="--geometry with 2 scans") as raised:
        as_scan(scans[:2], geometry="sform", volume=2)
    assert raised.value.hint == "leave --geometry out"


def test_scans_of_one_name_in_two_folders_are_called_by_their_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        grid = make_volume(VOXELS[0], (4.0, 1.5, 1.25 if folder == "one" else 1.3))
        write_labels(tmp_path / folder / "scan.nrrd", grid, ["background"])
    with pytest.raises(GeometryError) as raised:
        as_scan([tmp_path / "one" / "scan.nrrd", tmp_path / "two" / "scan.nrrd"]).read()
    assert raised.value.found.startswith(f"{tmp_path / 'two' / 'scan.nrrd'} is not on the grid of {tmp_path / 'one'}")
    for order in ([0, 1], [1, 0]):
        scan = as_scan([f"{'ab'[at]}={tmp_path / ('one', 'two')[at] / 'scan.nrrd'}" for at in order])
        assert isinstance(scan, ChannelScan)
        assert re.fullmatch(r"channels=[0-9a-f]{16}", scan.identity(spec(("a", "b"), 2)))
