"""Stored words to values: every compression, sign, polarity, padding and rescaling."""

import logging
import threading
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.pixels import get_decoder

from medattn_edge.errors import InputError
from medattn_edge.installation import install_line
from medattn_edge.io.dicom.files import quiet
from medattn_edge.io.dicom.pixels import read_planes
from medattn_edge.io.dicom.volume import RefusedSeries, find_series, read_series
from tests.support.dicom_phantoms import LOSSLESS_JPEG, Stored, make_series, real_ct, save, write_series

NATIVE = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (*NATIVE, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, *LOSSLESS_JPEG)
LOSSY = {uid.JPEG2000: 120, uid.JPEGLSNearLossless: 2}
SCAN = real_ct()
TWELVE = Stored(intercept=-1024.0, signed=False, bits=12)


def series_of(folder):
    (series,) = find_series(folder)
    assert series.accepted, series
    return series


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda value: uid.UID(value).name)
@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("stored", [Stored(), TWELVE], ids=["16 bits signed", "12 bits unsigned"])
def test_lossless_compression_keeps_every_voxel(tmp_path, syntax, enhanced, stored):
    voxels = np.maximum(SCAN.voxels, -1024)
    write_series(tmp_path, voxels, SCAN.affine, enhanced=enhanced, transfer_syntax=syntax, stored=stored)
    found = read_series(series_of(tmp_path))
    assert np.array_equal(found.voxels, voxels)
    assert found.voxels.dtype == np.int16


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda value: value.name)
def test_lossy_compression_stays_near(tmp_path, syntax):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=syntax)
    found = read_series(series_of(tmp_path)).voxels.astype(int)
    assert 0 < np.abs(found - SCAN.voxels).max() <= LOSSY[syntax]


@pytest.mark.parametrize("syntax", LOSSLESS[4:], ids=lambda value: uid.UID(value).name)
def test_every_decoder_that_is_installed_gives_the_same_voxels(tmp_path, syntax):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=syntax)
    planes = series_of(tmp_path).frames
    names = get_decoder(syntax).available_plugins
    assert names
    for name in names:
        own = [replace(plane, storage=replace(plane.storage, plugin=name)) for plane in planes]
        assert np.array_equal(read_planes(own, "CT"), SCAN.voxels), name


def test_a_missing_decoder_is_refused_with_the_line_that_installs_it(tmp_path, monkeypatch):
    write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=uid.JPEG2000Lossless)
    monkeypatch.setattr(get_decoder(uid.JPEG2000Lossless), "_available", {})
    (series,) = find_series(tmp_path)
    assert series.reason == "unsupported_transfer_syntax"
    assert install_line("dicom-codecs") in series.detail
    with pytest.raises(RefusedSeries) as caught:
        read_series(series)
    assert caught.value.hint == install_line("dicom-codecs")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 13, 16])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_bits_above_the_stored_ones_mean_nothing(tmp_path, signed, bits, syntax):
    stored = Stored(intercept=0.0 if signed else -1024.0, signed=signed, bits=bits, dirt=True)
    voxels = np.maximum(SCAN.voxels, -1024)
    write_series(tmp_path, voxels, SCAN.affine, stored=stored, transfer_syntax=syntax)
    assert np.array_equal(read_series(series_of(tmp_path)).voxels, voxels)


def test_eight_bits_are_read(tmp_path):
    voxels = np.clip(SCAN.voxels // 8 + 128, 0, 255)
    for syntax in (uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        folder = tmp_path / syntax
        write_series(
            folder, voxels, SCAN.affine, modality="MR", stored=Stored(signed=False, bits=8), transfer_syntax=syntax
        )
        assert np.array_equal(read_series(series_of(folder)).voxels, voxels)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_turned_round_where_the_numbers_have_no_units(tmp_path, signed):
    stored = Stored(signed=signed, bits=12, photometric="MONOCHROME1")
    voxels = np.maximum(SCAN.voxels, 0 if not signed else -2048)
    write_series(tmp_path, voxels, SCAN.affine, modality="MR", stored=stored)
    assert np.array_equal(read_series(series_of(tmp_path)).voxels, voxels)


def test_monochrome1_does_not_change_hounsfield_units(tmp_path):
    """Rescaling gives HU by definition; the polarity says only how to show them."""
    write_series(tmp_path, SCAN.voxels, SCAN.affine, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_series(series_of(tmp_path)).voxels, SCAN.voxels)


def test_values_with_fractions_and_large_ones_are_float32(tmp_path):
    halves = SCAN.voxels / 2
    write_series(tmp_path / "half", halves, SCAN.affine, stored=Stored(slope=0.5))
    half = read_series(series_of(tmp_path / "half"))
    assert half.voxels.dtype == np.float32
    assert np.array_equal(half.voxels, halves)
    write_series(tmp_path / "wide", SCAN.voxels, SCAN.affine, stored=Stored(intercept=-1024.0))
    wide = read_series(series_of(tmp_path / "wide"))
    assert wide.voxels.dtype == np.float32
    assert np.array_equal(wide.voxels, SCAN.voxels)


def test_every_slice_has_its_own_rescaling(tmp_path):
    slopes = Stored(slope=[1.0, 2.0, 3.0, 1.5, 0.5, 1.0], intercept=[0.0, -10.0, 5.0, 0.0, 1.0, -1024.0])
    stored = np.arange(SCAN.voxels.size).reshape(SCAN.shape) % 1000
    slope, intercept = (np.array(values)[:, None, None] for values in (slopes.slope, slopes.intercept))
    voxels = stored * slope + intercept
    write_series(tmp_path, voxels, SCAN.affine, modality="PT", stored=slopes)
    assert np.array_equal(read_series(series_of(tmp_path)).voxels, voxels.astype(np.float32))


@pytest.mark.parametrize(
    ("signed", "value", "limit"),
    [(True, -2000, None), (True, 63536, None), (False, 63536, None), (True, -2000, -1990), (True, -1990, -2000)],
)
def test_padding_becomes_the_lowest_value_of_the_rest(tmp_path, signed, value, limit):
    stored = np.array(SCAN.voxels, dtype=np.int64) + (0 if signed else 1024)
    corner = np.zeros(SCAN.shape, dtype=bool)
    corner[:, :5, :5] = corner[2] = True  # and a slice of nothing else
    stored[corner] = (-2000 if limit is None else -1995) if signed else 63536
    intercept = 0.0 if signed else -1024.0
    datasets = make_series(stored + intercept, SCAN.affine, stored=Stored(intercept=intercept, signed=signed))
    for index, dataset in enumerate(datasets):
        dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
        save(tmp_path / str(index), dataset)
    found = read_series(series_of(tmp_path)).voxels
    assert np.array_equal(found[~corner], SCAN.voxels[~corner])
    assert (found[corner] == SCAN.voxels[~corner].min()).all()


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda value: uid.UID(value).name)
@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_off_never_becomes_a_volume(tmp_path, syntax, enhanced, share):
    path = write_series(tmp_path, SCAN.voxels, SCAN.affine, enhanced=enhanced, transfer_syntax=syntax)[-1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    reasons = [series.reason for series in find_series(tmp_path)]
    assert {"truncated", "unreadable"} & set(reasons)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, LOSSLESS_JPEG[1], uid.RLELossless])
def test_damaged_compressed_pixels_are_refused_or_read_when_they_are_decoded(tmp_path, syntax):
    path = write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=syntax)[2]
    whole = bytearray(path.read_bytes())
    start = len(whole) - 1000
    whole[start : start + 400] = b"\x5a" * 400
    path.write_bytes(whole)
    try:
        ended = str(read_series(series_of(tmp_path)).shape)
    except RefusedSeries as error:
        ended = error.reason
    assert ended in (str(SCAN.shape), "unreadable")


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    """A decoder reserves the memory that the codestream asks for."""
    for syntax, mark, place in (
        (uid.JPEG2000Lossless, b"\xff\x4f\xff\x51", 8),
        (uid.JPEGLSLossless, b"\xff\xf7", 5),
        (LOSSLESS_JPEG[1], b"\xff\xc3", 5),
    ):
        path = write_series(tmp_path / syntax, SCAN.voxels, SCAN.affine, transfer_syntax=syntax)[1]
        whole = bytearray(path.read_bytes())
        start = whole.index(mark, 1000) + place
        whole[start : start + 2] = b"\x7f\xff"
        path.write_bytes(whole)
        (series,) = find_series(tmp_path / syntax)
        assert (series.reason, "compressed frame" in series.detail) == ("unreadable", True)


def test_files_that_changed_after_they_were_found_are_refused(tmp_path):
    path = write_series(tmp_path, SCAN.voxels, SCAN.affine)[2]
    series = series_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(RefusedSeries, match="cannot be decoded"):
        read_series(series)
    path.unlink()
    with pytest.raises(InputError):
        read_series(series)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless])
def test_reading_takes_one_volume_and_a_few_slices(tmp_path, enhanced, syntax):
    voxels = np.tile(SCAN.voxels, (10, 4, 4))
    write_series(tmp_path, voxels, SCAN.affine, enhanced=enhanced, transfer_syntax=syntax)
    series = series_of(tmp_path)
    tracemalloc.start()
    found = read_series(series)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.voxels.nbytes + 16 * found.voxels[0].size * 4 + 2_000_000


def test_the_same_files_are_the_same_volume_whatever_their_order(tmp_path):
    for name, order in (("one", range(6)), ("two", (3, 1, 5, 0, 2, 4))):
        paths = write_series(tmp_path / name, SCAN.voxels, SCAN.affine)
        for new, old in enumerate(order):
            paths[old].rename(tmp_path / name / f"file{new}")
    one, two = (read_series(series_of(tmp_path / name)) for name in ("one", "two"))
    assert one.voxels.tobytes() == two.voxels.tobytes()
    assert one.affine.tobytes() == two.affine.tobytes()


def test_nothing_of_the_patient_is_logged_or_warned_of(tmp_path, caplog, capfd):
    """pydicom's own remarks quote the values that they are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, dataset in enumerate(make_series(SCAN.voxels, SCAN.affine)):
            dataset.add_new("FrameOfReferenceUID", "UI", "Phantom^Synthetic")
            dataset.add_new("PixelSpacing", "DS", ["1", "2"])
            dataset.add_new("SeriesDescription", "UI", "Phantom^Synthetic")
            save(tmp_path / str(index), dataset)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = find_series(tmp_path)
    assert [series.reason for series in found] == ["blank_uid"]
    assert not warned
    said = caplog.text + "".join(capfd.readouterr()) + repr(found) + "".join(series.detail for series in found)
    assert "Synthetic" not in said


def test_a_thread_that_reads_silences_itself_and_no_other_one():
    """`catch_warnings` in two threads would leave warnings off, or show one that quotes a name."""
    begun, ended = threading.Barrier(3), threading.Barrier(3)
    failed = []

    def read():
        with quiet():
            begun.wait()
            ended.wait()
            try:
                warnings.warn("Phantom^Synthetic", stacklevel=1)
                logging.getLogger("pydicom").warning("Phantom^Synthetic")
            except UserWarning as shown:
                failed.append(shown)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
    ended.wait()
    for thread in threads:
        thread.join()
    assert failed == []
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("name", sorted(path.name for path in TEST_FILES.glob("*.dcm")))
def test_foreign_files_are_read_or_refused_with_a_reason(name):
    """Files of many scanners and writers, some broken on purpose, that pydicom ships."""
    for series in find_series(TEST_FILES / name):
        if series.accepted:
            read_series(series)
        else:
            assert series.detail
