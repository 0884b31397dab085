"""Several volumes in one series: named by what tells them apart, one taken by its number, never mixed."""

import struct

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medattn_edge.errors import UsageError
from medattn_edge.io import read_volume
from medattn_edge.io.dicom.volume import RefusedSeries, choose_series, read_series, search
from tests.support.dicom_phantoms import make_series, real_ct, save, write_series

SCAN = real_ct(4, 12, 10)
UID = generate_uid(entropy_srcs=["several"])


def write_volumes(folder, changes, shift=0.0, **common):
    """Interleaved: one series of as many volumes as there are changes, each with other voxels; their voxels."""
    several = []
    for number, change in enumerate(changes):
        affine = np.array(SCAN.affine)
        affine[:3, 3] += number * shift * affine[:3, 0]
        voxels = SCAN.voxels + number
        write_series(
            folder,
            voxels,
            affine,
            name=f"v{number}",
            **{"SeriesInstanceUID": UID, "FrameOfReferenceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
            | {"SOPInstanceUID": lambda i, n=number: f"1.2.{n + 1}.{i + 1}"}
            | common
            | change,
        )
        several.append(voxels)
    return several


def only(folder, volume=0):
    (series,) = search(folder, volume).series
    return series


KINDS = {
    "ImageType": [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]],
    "ComplexImageComponent": ["MAGNITUDE", "PHASE"],
    "TemporalPositionIdentifier": ["1", "2", "10"],
    "EchoNumbers": ["1", "2"],
    "EchoTime": ["2.3", "4.6", "11.5"],
    "DiffusionBValue": [0.0, 50.0, 800.0],
    "DiffusionGradientOrientation": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
    "ConvolutionKernel": ["B30f", "B70f"],
    "KVP": ["80", "140"],
}
ORDERS = {
    "TriggerTime": ["0", "40.5", "120"],
    "NominalPercentageOfCardiacPhase": [5.0, 75.0],
    "FrameReferenceTime": ["100", "2000"],
    "InversionTime": ["100", "180", "1000"],
    "FlipAngle": ["3", "15"],
    "RepetitionTime": ["500", "4000"],
    "AcquisitionNumber": ["1", "2", "10"],
    "AcquisitionDateTime": ["20200101120000", "20200101120100"],
    "AcquisitionTime": ["115940", "120001"],
    "ContentTime": ["115940", "120001"],
    "InstanceNumber": ["1", "2", "11"],
}


@pytest.mark.parametrize("keyword", [*KINDS, *ORDERS])
def test_volumes_at_the_same_positions_are_named_and_taken_by_number(tmp_path, keyword):
    values = (KINDS | ORDERS)[keyword]
    several = write_volumes(tmp_path, [{keyword: value} for value in values])
    series = only(tmp_path)
    assert series.reason == "several_volumes"
    assert keyword in series.detail
    assert f"{len(values)} volumes of 4 slices each" in series.detail
    assert "copies" not in series.hint
    assert "--volume" in series.hint
    for number, voxels in enumerate(several, start=1):
        assert np.array_equal(read_volume(tmp_path, volume=number).voxels, voxels)
    assert only(tmp_path, len(values) + 1).reason == "no_such_volume"


@pytest.mark.parametrize("shift", [0.5, 0.01, 1.0])
@pytest.mark.parametrize("keyword", KINDS)
def test_interleaved_kinds_are_never_one_volume_wherever_they_lie(tmp_path, keyword, shift):
    values = KINDS[keyword][:2]
    # With a shift of one whole step the second volume would go on where the first ends.
    several = write_volumes(
        tmp_path, [{keyword: value} for value in values], shift * (len(SCAN.voxels) if shift == 1 else 1)
    )
    series = only(tmp_path)
    assert (series.reason, keyword in series.detail) == ("several_volumes", True)
    assert np.array_equal(read_series(only(tmp_path, 2)).voxels, several[1])


@pytest.mark.parametrize("keyword", ORDERS)
def test_a_time_of_its_own_for_each_slice_is_still_one_volume(tmp_path, keyword):
    value = (KINDS | ORDERS)[keyword][0]
    whole = isinstance(value, str) and value.isdigit()
    step = (lambda i: str(int(value) + i)) if whole else (lambda i: type(value)(float(value) + i))
    write_series(tmp_path, SCAN.voxels, SCAN.affine, **{keyword: step})
    assert np.array_equal(read_series(only(tmp_path)).voxels, SCAN.voxels)


def test_an_echo_time_that_is_rounded_in_two_ways_is_one(tmp_path):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, modality="MR", EchoTime=lambda i: ("2.3", "2.300001")[i % 2])
    assert only(tmp_path).accepted


def test_two_attributes_make_a_volume_of_each_pair(tmp_path):
    pairs = [(echo, time) for echo in ("2.3", "4.6") for time in ("1", "2", "3")]
    several = write_volumes(tmp_path, [{"EchoTime": echo, "AcquisitionNumber": time} for echo, time in pairs])
    series = only(tmp_path)
    assert "6 volumes" in series.detail
    assert "EchoTime (2.3, 4.6) and AcquisitionNumber" in series.detail
    for number, voxels in enumerate(several, start=1):
        assert np.array_equal(read_series(only(tmp_path, number)).voxels, voxels)


def test_a_volume_that_is_not_whole_is_not_made_up(tmp_path):
    write_volumes(tmp_path, [{"InstanceNumber": str(number)} for number in range(3)])
    (tmp_path / "v1_0002.dcm").unlink()
    for volume in (0, 2):
        series = only(tmp_path, volume)
        assert series.reason == "several_volumes"
        assert "2 to 3 slices" in series.detail


def test_copies_are_still_copies(tmp_path):
    write_volumes(tmp_path, [{}, {}])
    assert only(tmp_path).reason == "duplicate_position"
    write_volumes(tmp_path / "same", [{"SOPInstanceUID": lambda i: f"1.2.{i}"}] * 2)
    assert only(tmp_path / "same").reason == "duplicate_position"


@pytest.mark.parametrize(
    "tag",
    [
        (0x0019100C, "SIEMENS MR HEADER", "IS", "0", "1000"),
        (0x00431039, "GEMS_PARM_01", "IS", [0, 8, 0, 0], [10**9 + 800, 8, 0, 0]),
    ],
)
def test_a_vendors_own_b_value_tells_volumes_apart(tmp_path, tag):
    number, creator, kind, *values = tag
    datasets = []
    for place, value in enumerate(values):
        for index, dataset in enumerate(
            make_series(SCAN.voxels + place, SCAN.affine, modality="MR", SeriesInstanceUID=UID)
        ):
            dataset.SOPInstanceUID = f"1.2.{place + 1}.{index + 1}"
            dataset.add(DataElement((number >> 16 << 16) | 0x10, "LO", creator))
            dataset.add(DataElement(number, kind, value))
            datasets.append(dataset)
    for index, dataset in enumerate(datasets):
        save(tmp_path / f"{index}.dcm", dataset)
    assert "DiffusionBValue" in only(tmp_path).detail
    assert np.array_equal(read_series(only(tmp_path, 2)).voxels, SCAN.voxels + 1)


def write_enhanced(path, modality, change):
    """One enhanced object of two volumes, whose frames alternate; change(item of a frame, volume)."""
    both = np.repeat(SCAN.voxels, 2, axis=0)
    both[1::2] += 1
    (dataset,) = make_series(both, SCAN.affine, modality=modality, enhanced=True)
    for frame, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = SCAN.affine[:3, 3] + frame // 2 * SCAN.affine[:3, 0]
        item.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.6f}" for value in place]
        change(item, frame % 2)
    return save(path, dataset)


def macro(sequence, keyword, values):
    def change(item, volume):
        if sequence == "FrameContentSequence":
            setattr(item.FrameContentSequence[0], keyword, values[volume])
            return
        inner = Dataset()
        setattr(inner, keyword, values[volume])
        setattr(item, sequence, Sequence([inner]))

    return change


def direction(item, volume):
    outer, inner = Dataset(), Dataset()
    inner.DiffusionGradientOrientation = [1.0, 0.0, 0.0] if volume else [0.0, 1.0, 0.0]
    outer.DiffusionGradientDirectionSequence = Sequence([inner])
    item.MRDiffusionSequence = Sequence([outer])


FRAMES = {
    "StackID": ("MR", macro("FrameContentSequence", "StackID", ["1", "2"])),
    "TemporalPositionIndex": ("CT", macro("FrameContentSequence", "TemporalPositionIndex", [1, 2])),
    "EffectiveEchoTime": ("MR", macro("MREchoSequence", "EffectiveEchoTime", [2.3, 4.6])),
    "DiffusionBValue": ("MR", macro("MRDiffusionSequence", "DiffusionBValue", [0.0, 800.0])),
    "DiffusionGradientDirectionSequence": ("MR", direction),
    "ComplexImageComponent": ("MR", macro("MRImageFrameTypeSequence", "ComplexImageComponent", ["MAGNITUDE", "PHASE"])),
    "FrameType": ("CT", macro("CTImageFrameTypeSequence", "FrameType", [["A", "B"], ["A", "C"]])),
    "ConvolutionKernel": ("CT", macro("CTReconstructionSequence", "ConvolutionKernel", ["B30f", "B70f"])),
    "KVP": ("CT", macro("CTXRayDetailsSequence", "KVP", [80.0, 140.0])),
    "NominalCardiacTriggerDelayTime": (
        "MR",
        macro("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", [0.0, 40.0]),
    ),
    "TemporalPositionTimeOffset": ("MR", macro("TemporalPositionSequence", "TemporalPositionTimeOffset", [0.0, 4.0])),
    "InversionTimes": ("MR", macro("MRModifierSequence", "InversionTimes", [100.0, 900.0])),
    "FlipAngle": ("MR", macro("MRTimingAndRelatedParametersSequence", "FlipAngle", [3.0, 15.0])),
    "FrameAcquisitionNumber": ("CT", macro("FrameContentSequence", "FrameAcquisitionNumber", [1, 2])),
    "the number of the frame": ("CT", lambda item, volume: None),
}


@pytest.mark.parametrize("keyword", FRAMES)
def test_frames_of_an_enhanced_object_too(tmp_path, keyword):
    modality, change = FRAMES[keyword]
    path = write_enhanced(tmp_path / "one.dcm", modality, change)
    assert only(path).reason == "several_volumes"
    assert keyword in only(path).detail
    found = [read_series(only(path, number)).voxels for number in (1, 2)]
    assert sorted(int((voxels - SCAN.voxels).max()) for voxels in found) == [0, 1]
    assert all(np.ptp(voxels - SCAN.voxels) == 0 for voxels in found)


def test_the_choice_is_recorded_and_a_geometry_is_none(tmp_path):
    write_volumes(tmp_path, [{"EchoTime": "2"}, {"EchoTime": "4"}])
    series = choose_series(tmp_path, volume=2)
    assert (series.volume, series.slices, len(series.files)) == (2, 4, 4)
    with pytest.raises(RefusedSeries, match="several_volumes"):
        choose_series(tmp_path)
    with pytest.raises(UsageError, match="NIfTI"):
        read_volume(tmp_path, geometry="sform")


def csa(count):
    """A CSA header of one element (Siemens' second version), as nibabel documents it."""
    value = f"{count}\0".encode() if count else b""
    body = b"NumberOfImagesInMosaic".ljust(64, b"\0") + struct.pack("<l4slll", 1, b"US\0\0", 3, 6, 77)
    for text in [value] + [b""] * 5:
        body += struct.pack("<4l", len(text), len(text), 77, len(text)) + text.ljust(-(-len(text) // 4) * 4, b"\0")
    return b"SV10\4\3\2\1" + struct.pack("<LL", 1, 77) + body


def private(group, creator, element, kind, value):
    def add(dataset):
        dataset.add(DataElement((group << 16) | 0x10, "LO", creator))
        dataset.add(DataElement((group << 16) | element, kind, value))

    return add


@pytest.mark.parametrize(
    "mark",
    [
        lambda dataset: setattr(dataset, "ImageType", ["DERIVED", "PRIMARY", "MOSAIC"]),
        private(0x0019, "SIEMENS MR HEADER", 0x100A, "US", 36),
        private(0x0029, "SIEMENS CSA HEADER", 0x1010, "OB", csa(36)),
    ],
)
def test_a_mosaic_is_known_by_any_of_its_marks(tmp_path, mark):
    for index, dataset in enumerate(make_series(SCAN.voxels, SCAN.affine, modality="MR")):
        mark(dataset)
        save(tmp_path / f"{index}.dcm", dataset)
    assert only(tmp_path).reason == "mosaic"


@pytest.mark.parametrize("number", [0x100A, 0x100C])
def test_a_private_element_of_another_vendor_tells_nothing(tmp_path, number):
    for index, dataset in enumerate(make_series(SCAN.voxels, SCAN.affine, modality="MR")):
        private(0x0019, "ANOTHER VENDOR", number, "US", 36 + index)(dataset)
        save(tmp_path / f"{index}.dcm", dataset)
    assert only(tmp_path).accepted


def test_siemens_slices_are_no_mosaic(tmp_path):
    for index, dataset in enumerate(make_series(SCAN.voxels, SCAN.affine, modality="MR")):
        private(0x0029, "SIEMENS CSA HEADER", 0x1010, "OB", csa(0))(dataset)
        save(tmp_path / f"{index}.dcm", dataset)
    assert only(tmp_path).accepted
