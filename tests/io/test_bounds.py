"""A small file never asks for gigabytes, whatever its format; and a flipped bit never gives other voxels."""

import bz2
import gzip
import importlib
import io
import struct
import tracemalloc
import zipfile
import zlib

import nrrd
import numpy as np
import pytest

from medattn_edge.errors import GeometryError, InputError, ScanError
from medattn_edge.io import read_volume, write_labels
from medattn_edge.io.nifti import ZSTD
from medattn_edge.volume import Volume
from tests.support.dicom_phantoms import make_series, save

zstd = importlib.import_module(ZSTD)
AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 100, (6, 7, 8)).astype(np.uint8)
HEADER = (
    "NRRD0005\ntype: uint8\ndimension: 3\nspace: LPS\nsizes: {sizes}\nspace directions: (1,0,0) (0,1,0) (0,0,3)\n"
    "space origin: (0,0,0)\nencoding: {encoding}\nendian: little\n{more}\n"
)


def nrrd_file(path, data, sizes="8 7 6", encoding="gzip", more=""):
    path.write_bytes(HEADER.format(sizes=sizes, encoding=encoding, more=more).encode() + data)
    return path


def npz_file(path, content, name="voxels.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def npy_header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def nifti_file(path, pack, sizes):
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((1, 1, 1))
    header.set_sform(np.eye(4), 1)
    header.set_qform(np.eye(4), 1)
    header["dim"][:4], header["vox_offset"], header["magic"] = (3, *sizes), 352, b"n+1"
    header.set_data_dtype(np.uint8)
    path.write_bytes(pack(header.binaryblock + bytes(4) + bytes(1 << 20)))
    return path


def mgh_file(path, sizes, behind=0):
    header = struct.pack(">7ih", 1, *sizes, 0, 0, 1) + struct.pack(">3f", 1, 1, 1)
    header += struct.pack(">9f", 1, 0, 0, 0, 1, 0, 0, 0, 1) + bytes(12)
    path.write_bytes(gzip.compress(header.ljust(284, b"\0") + bytes(1 << 20) + bytes(behind), 1))
    return path


def mha_file(path, data, sizes="8 7 6", more="CompressedData = True\n"):
    text = f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{more}TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    text += f"Offset = 0 0 0\nElementSpacing = 1 1 3\nDimSize = {sizes}\nElementType = MET_UCHAR\n"
    path.write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + data)
    return path


def tiff_file(path, packed):
    """One strip of deflated bytes under a header of 8 x 8."""
    import tifffile

    tifffile.imwrite(path, np.arange(64, dtype=np.uint8).reshape(8, 8), compression="zlib")
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["StripByteCounts"].valueoffset
        where = file.pages[0].tags["StripOffsets"].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, where, len(data))
    struct.pack_into("<I", data, place, len(packed))
    path.write_bytes(data + packed)
    return path


def tiff_of_many_pixels(path):
    import tifffile

    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    with tifffile.TiffFile(path) as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    data = bytearray(path.read_bytes())
    for place in places:
        struct.pack_into("<I", data, place, 60_000)
    path.write_bytes(data)
    return path


BOMBS = {
    "nii.gz of many voxels": lambda p: nifti_file(p / "a.nii.gz", gzip.compress, (2000, 2000, 1000)),
    "nii.bz2 of many voxels": lambda p: nifti_file(p / "a.nii.bz2", bz2.compress, (2000, 2000, 1000)),
    "nii.zst of many voxels": lambda p: nifti_file(p / "a.nii.zst", zstd.compress, (2000, 2000, 1000)),
    "nii.gz that goes on": lambda p: nifti_file(p / "a.nii.gz", lambda b: gzip.compress(b + bytes(9 << 20)), (4, 4, 4)),
    "mgz of many voxels": lambda p: mgh_file(p / "a.mgz", (2000, 2000, 1000, 1)),
    "mgz that goes on": lambda p: mgh_file(p / "a.mgz", (4, 4, 4, 1), 256 << 20),
    "mha of many voxels": lambda p: mha_file(p / "a.mha", zlib.compress(bytes(1 << 20)), "2000 2000 1000"),
    "mha of many raw voxels": lambda p: mha_file(p / "a.mha", b"", "2000 2000 1000", ""),
    "mha that goes on": lambda p: mha_file(p / "a.mha", zlib.compress(bytes(256 << 20), 1)),
    "tiff of many pixels": lambda p: tiff_of_many_pixels(p / "a.tif"),
    "tiff of a strip that goes on": lambda p: tiff_file(p / "a.tif", zlib.compress(bytes(256 << 20), 1)),
    "nrrd of many voxels": lambda p: nrrd_file(p / "a.nrrd", gzip.compress(bytes(1 << 20)), "2000 2000 1000"),
    "nrrd of more than a scan": lambda p: nrrd_file(p / "a.nrrd", b"", "4000 4000 4000", "raw"),
    "nrrd in gzip that goes on": lambda p: nrrd_file(p / "a.nrrd", gzip.compress(bytes(256 << 20), 1)),
    "nrrd in bzip2 that goes on": lambda p: nrrd_file(p / "a.nrrd", bz2.compress(bytes(256 << 20), 1), encoding="bz2"),
    "nrrd of skipped lines": lambda p: nrrd_file(
        p / "a.nrrd", bytes(336), encoding="raw", more="line skip: 100000000000\n"
    ),
    "nrrd of skipped bytes": lambda p: nrrd_file(p / "a.nrrd", bytes(336), encoding="raw", more="byte skip: 999999\n"),
    "npz of many voxels": lambda p: npz_file(p / "a.npz", npy_header((1000, 1000, 900)) + bytes(1 << 20)),
    "npz of more than a scan": lambda p: npz_file(p / "a.npz", npy_header((4000, 4000, 4000), "|u1")),
    "npz of a great affine": lambda p: npz_file(p / "a.npz", npy_header((60_000, 60_000)), "affine.npy"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_small_file_promises_is_refused_before_it_is_reserved(tmp_path, name):
    path = BOMBS[name](tmp_path)
    assert path.stat().st_size < 3 << 20
    tracemalloc.start()
    try:
        with pytest.raises(
            ScanError, match=r"promises|behind its voxels|in front of its voxels|becomes more|more bytes of voxels"
        ):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_label_map_that_shrinks_a_thousandfold_is_no_bomb(tmp_path):
    empty = Volume(np.zeros((40, 512, 512), np.uint8), AFFINE)
    for name in ("labels.nii.gz", "labels.nrrd", "labels.npz"):
        write_labels(tmp_path / name, empty, ["background"])
        assert (tmp_path / name).stat().st_size * 500 < empty.voxels.nbytes
        assert read_volume(tmp_path / name).shape == empty.shape


@pytest.mark.parametrize(
    "kind", ["int8", "unsigned char", "short", "uint16_t", "signed int", "long long", "float", "double"]
)
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text"])
def test_every_type_and_encoding_of_nrrd_is_read(tmp_path, kind, encoding):
    code = {
        "int8": "i1",
        "unsigned char": "u1",
        "short": "<i2",
        "uint16_t": "<u2",
        "signed int": "<i4",
        "long long": "<i8",
    }
    values = VOXELS.astype(code.get(kind, {"float": "<f4", "double": "<f8"}.get(kind)))
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding)
    data = pack(values.tobytes()) if pack else " ".join(map(str, values.ravel())).encode()
    path = nrrd_file(tmp_path / "a.nrrd", data, encoding=encoding)
    path.write_bytes(path.read_bytes().replace(b"type: uint8", f"type: {kind}".encode()))
    assert np.array_equal(read_volume(path).voxels, VOXELS)
    assert np.array_equal(nrrd.read(str(path), index_order="C")[0], VOXELS)


def compressed(path, name):
    if name == "bzip2":
        return nrrd_file(path / "a.nrrd", bz2.compress(VOXELS.tobytes()), encoding="bzip2")
    if name == "stored":
        np.savez(path / "a.npz", voxels=VOXELS, affine=AFFINE)
        return path / "a.npz"
    if name in ("mha", "gzipped mha"):
        data = zlib.compress(VOXELS.tobytes()) if name == "mha" else gzip.compress(VOXELS.tobytes())
        return mha_file(path / "a.mha", data)
    if name == "mgz":
        import nibabel

        nibabel.MGHImage(VOXELS.T, np.eye(4)).to_filename(path / "a.mgz")
        return path / "a.mgz"
    write_labels(path / f"a.{name}", Volume(VOXELS, AFFINE), ["a"])
    return path / f"a.{name}"


@pytest.mark.parametrize("name", ["nii.gz", "nrrd", "bzip2", "npz", "stored", "mgz", "mha", "gzipped mha"])
def test_no_flipped_bit_behind_the_header_gives_other_voxels(tmp_path, name):
    path = compressed(tmp_path, name)
    whole = path.read_bytes()
    ends = {".nrrd": b"\n\n", ".mha": b"LOCAL\n"}
    start = whole.rfind(ends[path.suffix]) + len(ends[path.suffix]) if path.suffix in ends else 20
    bits, refused = np.random.default_rng(1), 0
    for place in range(start, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(bits.integers(8))
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_volume(path).voxels, VOXELS), place
        except (ScanError, GeometryError):
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("name", ["nii.gz", "nrrd", "bzip2", "mgz", "mha"])
@pytest.mark.parametrize("lost", [1, 4, 8])
def test_a_check_sum_that_is_cut_off_is_noticed(tmp_path, name, lost):
    path = compressed(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(path)


def rle_file(path, fragments):
    from pydicom.encaps import encapsulate

    (dataset, *_) = make_series(np.zeros((1, 16, 16), np.int16), AFFINE)
    dataset.PixelData = encapsulate(fragments, has_bot=False)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    return save(path, dataset)


def test_rle_that_becomes_more_than_its_frame_is_refused_before_it_is_decoded(tmp_path):
    from medattn_edge.io.dicom.volume import find_series

    header = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
    run = b"\x81\x00"  # two bytes that become 128
    (series,) = find_series(rle_file(tmp_path / "long.dcm", [header + run * 50_000]))
    assert series.reason == "too_large"
    (series,) = find_series(rle_file(tmp_path / "many.dcm", [header + run * 100] * 3))
    assert series.reason == "unreadable"
    assert "fragments" in series.detail
