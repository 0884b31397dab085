"""Which series become a volume, where it lies in the patient, and the reason why the others are refused."""

import itertools

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medattn_edge.io.dicom.volume import RefusedSeries, find_series, read_series
from medattn_edge.reasons import SERIES_REASONS
from tests.support.dicom_phantoms import CLASSES, Stored, in_plane, make_series, real_ct, save, write_series

PLANES = ("axial", "coronal", "sagittal", "oblique")
SCAN = real_ct()
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


def only(folder):
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_labelled_point_of_the_patient_is_the_same_voxel(tmp_path, plane, enhanced, modality):
    scan = in_plane(SCAN, plane)
    write_series(tmp_path, scan.voxels, scan.affine, enhanced=enhanced, modality=modality)
    found = read_series(only(tmp_path))
    assert found.shape == scan.shape or found.shape[1:] == scan.shape[1:]
    for index in itertools.product(*(range(0, size, 5) for size in scan.shape)):
        there = found.index(scan.point(*index))
        nearest = tuple(np.rint(there).astype(int))
        assert np.allclose(there, nearest, atol=1e-4)
        assert found.voxels[nearest] == scan.voxels[index]


@pytest.mark.parametrize("enhanced", [False, True])
def test_spacing_comes_from_positions_and_not_from_thickness(tmp_path, enhanced):
    changes = {} if enhanced else {"SliceThickness": "99", "SpacingBetweenSlices": "77"}
    write_series(tmp_path, SCAN.voxels, SCAN.affine, enhanced=enhanced, **changes)
    series = only(tmp_path)
    assert series.spacing_mm == pytest.approx((4.0, 1.5, 1.25))
    assert series.slices == len(SCAN.voxels)
    assert read_series(series).spacing == pytest.approx((4.0, 1.5, 1.25))


def test_the_instance_number_and_the_names_of_files_mean_nothing(tmp_path):
    paths = write_series(tmp_path, SCAN.voxels, SCAN.affine, InstanceNumber=lambda index: str(50 - index))
    for path, new in zip(paths, ("c", "a", "f", "b", "e", "d"), strict=True):
        path.rename(tmp_path / new)
    series = only(tmp_path)
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)
    assert [file.name for file in series.files] == ["c", "a", "f", "b", "e", "d"]


def test_slices_that_were_stored_from_the_head_down_are_sorted_along_the_normal(tmp_path):
    turned = np.array(SCAN.affine)
    turned[:3, 3] += turned[:3, 0] * (len(SCAN.voxels) - 1)
    turned[:3, 0] *= -1
    write_series(tmp_path, SCAN.voxels[::-1], turned)
    found = read_series(only(tmp_path))
    assert np.array_equal(found.voxels, SCAN.voxels)
    assert np.allclose(found.affine, SCAN.affine)


@pytest.mark.parametrize("enhanced", [False, True])
def test_every_slice_names_its_file_frame_and_instance(tmp_path, enhanced):
    paths = write_series(tmp_path, SCAN.voxels, SCAN.affine, enhanced=enhanced)
    series = only(tmp_path)
    assert [frame.frame for frame in series.frames] == (list(range(6)) if enhanced else [0] * 6)
    assert [frame.path for frame in series.frames] == (paths * 6 if enhanced else paths)
    assert len({frame.sop_instance_uid for frame in series.frames}) == (1 if enhanced else 6)
    assert series.files == tuple(paths)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_an_enhanced_image_is_the_single_frame_one(tmp_path, modality):
    slopes = Stored(slope=[1.0, 2.0, 0.5, 1.0, 0.25, 4.0], intercept=-1024.0)
    voxels = SCAN.voxels // 4 * 4
    for name, enhanced in (("single", False), ("enhanced", True)):
        write_series(tmp_path / name, voxels, SCAN.affine, modality=modality, enhanced=enhanced, stored=slopes)
    single, enhanced = (read_series(only(tmp_path / name)) for name in ("single", "enhanced"))
    assert np.array_equal(single.voxels, voxels)
    assert np.array_equal(enhanced.voxels, voxels)
    assert enhanced.voxels.dtype == single.voxels.dtype
    assert np.array_equal(enhanced.affine, single.affine)


def test_frames_in_any_order_are_sorted_by_position(tmp_path):
    (dataset,) = make_series(SCAN.voxels, SCAN.affine, enhanced=True)
    order = [3, 0, 5, 1, 4, 2]
    dataset.PerFrameFunctionalGroupsSequence = Sequence([dataset.PerFrameFunctionalGroupsSequence[i] for i in order])
    dataset.PixelData = SCAN.voxels[order].astype("<i2").tobytes()
    save(tmp_path / "scan", dataset)
    assert np.array_equal(read_series(only(tmp_path)).voxels, SCAN.voxels)


def refused_folder(reason, folder):
    """A folder whose one series has to be refused for this reason."""
    voxels, affine = SCAN.voxels, SCAN.affine
    tilted, uneven = np.array(affine), np.array(affine)
    tilted[:3, 0] += (0, 1.2, 0)
    places = {
        "duplicate_position": [0, 1, 2, 2, 4, 5],
        "missing_slice": [0, 1, 2, 4, 5, 6],
        "non_uniform_spacing": [0, 1, 2, 3.3, 4, 5],
    }

    def position(index):
        return [f"{value:.6f}" for value in uneven[:3, 3] + places[reason][index] * uneven[:3, 0]]

    def beside(index):
        return [f"{value:.6f}" for value in affine[:3, 3] + index * affine[:3, 0] + (3.0 * (index == 2), 0, 0)]

    simple = {
        "blank_uid": {"SeriesInstanceUID": ""},
        "localizer": SCOUT,
        "mosaic": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]},
        "mixed_orientation": {
            "ImageOrientationPatient": lambda i: [1, 0, 0, 0, 1, 0] if i != 2 else [0, 1, 0, 0, 0, 1]
        },
        "mixed_series": {"ImageType": lambda i: SCOUT["ImageType"] if i == 0 else ["ORIGINAL", "PRIMARY", "AXIAL"]},
        "no_geometry": {"ImagePositionPatient": None},
        "no_rescale": {"RescaleSlope": None},
        "rgb": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        "several_volumes": {"TemporalPositionIdentifier": lambda i: str(i % 2)},
        "too_large": {"Rows": 65535, "Columns": 65535},
        "unsupported_modality": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"},
        "unsupported_pixels": {"HighBit": 11},
        "shifted_slice": {"ImagePositionPatient": beside},
    }
    if reason in places:
        write_series(folder, voxels, affine, ImagePositionPatient=position)
    elif reason in simple:
        write_series(folder, voxels, affine, **simple[reason])
    elif reason == "gantry_tilt":
        write_series(folder, voxels, tilted)
    elif reason == "single_slice":
        write_series(folder, voxels[:1], affine)
    elif reason == "unsupported_transfer_syntax":
        mpeg2 = b"1.2.840.10008.1.2.4.100\0"
        for path in write_series(folder, voxels, affine, transfer_syntax="1.2.840.10008.1.2.4.80"):
            whole = path.read_bytes().replace(b"UI\x16\x001.2.840.10008.1.2.4.80", b"UI\x18\x00" + mpeg2)
            start = whole.index(b"\x02\0\0\0UL\x04\0") + 8
            length = int.from_bytes(whole[start : start + 4], "little") + 2
            path.write_bytes(whole[:start] + length.to_bytes(4, "little") + whole[start + 4 :])
    elif reason == "not_an_image":
        report = make_series(voxels[:1], affine, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")[0]
        for keyword in ("Rows", "PixelData"):
            del report[keyword]
        save(folder / "report", report)
    elif reason in ("unreadable", "truncated"):
        path = write_series(folder, voxels, affine)[3]
        whole = path.read_bytes()
        path.write_bytes(whole[:-100] if reason == "truncated" else whole[:132] + bytes(len(whole) - 132))
    else:
        pytest.fail(f"no phantom for {reason}")


# These are of a list, of what was asked for, and of several series together.
OF_MORE = {"missing_file", "no_such_volume", "no_frame_of_reference", "other_patient", "other_frame_of_reference"}


@pytest.mark.parametrize("reason", sorted(set(SERIES_REASONS) - OF_MORE))
def test_every_reason_has_a_series_that_is_refused_for_it(tmp_path, reason):
    refused_folder(reason, tmp_path)
    found = find_series(tmp_path)
    assert reason in [series.reason for series in found]
    series = next(series for series in found if series.reason == reason)
    assert not series.accepted
    assert series.detail
    assert series.spacing_mm is None
    with pytest.raises(RefusedSeries) as caught:
        read_series(series)
    assert caught.value.reason == reason
    assert caught.value.hint
    assert "Phantom^Synthetic" not in str(caught.value) + repr(series)
    assert series.series_instance_uid == "" or series.series_instance_uid not in str(caught.value) + repr(series)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"Rows": 20, "PixelData": bytes(20 * 36 * 2)}, "mixed_series"),
        ({"PixelSpacing": ["2", "2"]}, "mixed_series"),
        ({"RescaleType": "US"}, "mixed_series"),
        ({"FrameOfReferenceUID": "1.2.3"}, "mixed_series"),
        ({"StudyInstanceUID": "1.2.3"}, "mixed_series"),
        ({"PatientID": "PHANTOM-2"}, "mixed_series"),
        ({"SOPClassUID": CLASSES["PT", False], "Modality": "PT"}, "mixed_series"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "mixed_series"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "mixed_series"),
        ({"SOPInstanceUID": ""}, "blank_uid"),
        ({"SOPInstanceUID": "1"}, "blank_uid"),
        ({"RescaleSlope": "0"}, "no_rescale"),
        ({"RescaleType": "Z_EFF"}, "no_rescale"),
        ({"PixelSpacing": ["0", "1"]}, "no_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no_geometry"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "no_geometry"),
        ({"ImagePositionPatient": [1, 2]}, "no_geometry"),
        ({"BitsStored": 0}, "unsupported_pixels"),
        ({"PixelData": bytes(40 * 36 * 2 + 199) + b"\1"}, "unsupported_pixels"),
        ({"PixelData": bytes(40 * 36 * 2 + 5000)}, "unsupported_pixels"),
        ({"PixelData": bytes(200)}, "truncated"),
        ({"PixelData": None}, "truncated"),
        ({"Modality": "MR"}, "unsupported_modality"),
    ],
)
def test_one_odd_slice_refuses_its_series(tmp_path, odd, reason):
    *rest, last = make_series(SCAN.voxels, SCAN.affine)
    for keyword, value in odd.items():
        if value is None:
            del last[keyword]
        else:
            setattr(last, keyword, value)
    for index, dataset in enumerate([*rest, last]):
        save(tmp_path / f"{index}.dcm", dataset)
    series = only(tmp_path)
    wanted = "mixed_series" if reason == "unsupported_modality" else reason
    assert series.reason == wanted, series


def test_a_scout_under_the_same_series_is_seen_even_where_it_calls_itself_a_slice(tmp_path):
    """The position of such a one once changed a spacing by a sixth, without a word."""
    scout = np.array(SCAN.affine)
    scout[:3, 3] -= 1.5 * scout[:3, 0]
    uid = generate_uid(entropy_srcs=["one"])
    write_series(tmp_path, SCAN.voxels, SCAN.affine, SeriesInstanceUID=uid)
    write_series(tmp_path, SCAN.voxels[:1], scout, SeriesInstanceUID=uid, SOPInstanceUID="1.2.3", name="scout")
    assert only(tmp_path).reason == "non_uniform_spacing"


def test_two_frames_at_one_place_two_stacks_and_a_missing_frame_are_refused(tmp_path):
    def enhanced(change):
        (dataset,) = make_series(SCAN.voxels, SCAN.affine, enhanced=True)
        change(dataset.PerFrameFunctionalGroupsSequence)
        return only(save(tmp_path / "one", dataset)).reason

    def stack(groups):
        groups[5].FrameContentSequence[0].StackID = "2"

    def time(groups):
        groups[5].FrameContentSequence[0].TemporalPositionIndex = 2

    def place(groups):
        groups[5].PlanePositionSequence = groups[4].PlanePositionSequence

    assert enhanced(stack) == "several_volumes"
    assert enhanced(time) == "several_volumes"
    assert enhanced(place) == "duplicate_position"
    assert enhanced(lambda groups: groups.pop()) == "unreadable"
    assert enhanced(lambda groups: groups[2].pop("PlanePositionSequence")) == "no_geometry"
    assert enhanced(lambda groups: None) is None


def test_positions_rounded_to_two_decimals_are_still_equal_distances(tmp_path):
    affine = np.array(SCAN.affine)
    affine[:3, 0] *= 0.625 / 4
    write_series(
        tmp_path,
        SCAN.voxels,
        affine,
        ImagePositionPatient=lambda i: [f"{value:.2f}" for value in affine[:3, 3] + i * affine[:3, 0]],
    )
    assert only(tmp_path).spacing_mm == pytest.approx((0.625, 1.5, 1.25), abs=0.005)


def test_a_tenth_of_a_degree_of_tilt_stays_in_the_affine(tmp_path):
    affine = np.array(SCAN.affine)
    affine[1, 0] += 0.004
    write_series(tmp_path, SCAN.voxels, affine)
    assert np.allclose(read_series(only(tmp_path)).affine, affine, atol=1e-6)


def test_two_series_in_one_folder_are_two(tmp_path):
    for name in ("one", "two"):
        uid = generate_uid(entropy_srcs=[name])
        write_series(tmp_path, SCAN.voxels, SCAN.affine, name=name, SeriesInstanceUID=uid)
    found = find_series(tmp_path)
    assert [series.accepted for series in found] == [True, True]
    assert len({series.hash for series in found}) == 2


def test_a_slice_that_belongs_to_nobody_is_one_refused_entry_for_its_folder(tmp_path):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, SeriesInstanceUID="")
    series = only(tmp_path)
    assert (series.reason, series.slices, series.hash) == ("blank_uid", 6, "")


def test_a_table_of_values_instead_of_a_slope_is_refused(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [1, 0, 16], b"\0\0"
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    write_series(tmp_path, SCAN.voxels, SCAN.affine, ModalityLUTSequence=Sequence([table]))
    assert only(tmp_path).reason == "no_rescale"


def test_pixel_data_that_is_filled_up_with_zeros_is_whole(tmp_path):
    """As in pydicom's MR_small_padded.dcm."""
    for index, dataset in enumerate(make_series(SCAN.voxels, SCAN.affine)):
        dataset.PixelData += bytes(128)
        save(tmp_path / f"{index}.dcm", dataset)
    assert np.array_equal(read_series(only(tmp_path)).voxels, SCAN.voxels)


def test_a_series_without_a_frame_of_reference_is_a_volume(tmp_path):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, FrameOfReferenceUID=None)
    assert np.array_equal(read_series(only(tmp_path)).voxels, SCAN.voxels)
    write_series(tmp_path / "one", SCAN.voxels, SCAN.affine, FrameOfReferenceUID=lambda i: "" if i == 2 else "1.2.3")
    (mixed,) = find_series(tmp_path / "one")
    assert mixed.reason == "mixed_series"
