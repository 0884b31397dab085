"""What every format keeps: the grid, the values, the side of the patient, and the file that was there before."""

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, InputError, MissingDependency, OutputError, ScanError, UsageError
from medattn_edge.installation import install_line
from medattn_edge.io import format_of, formats, read_labels, read_volume, write_labels, write_maps
from medattn_edge.volume import Volume

NAMES = ["background", "right lung", "left lung", "heart"]
LOSSY = (".jpg", ".jpeg")
SUFFIXES = [suffix for form in formats() if form.write_labels for suffix in form.suffixes if suffix not in LOSSY]
MAPS = [suffix for form in formats() if form.write_maps for suffix in form.suffixes]
MM = [suffix for suffix in MAPS if not suffix.endswith(LOSSY)]
PICTURE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def oblique(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """Steps of 5, 0.8 and 0.6 mm, turned out of the axes, in any axis order and direction."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[list(order)] @ np.diag(flips) @ np.diag((5.0, 0.8, 0.6))
    affine[:3, 3] = (-120.5, 33.25, -871.125)
    return affine


GRIDS = {
    "scanner": np.array([[0, 0, 0.7, -180.0], [0, 0.7, 0, -160], [2.5, 0, 0, -900], [0, 0, 0, 1]]),
    "sheared": np.array([[0, 0.1, 0.7, -180.0], [0.5, 0.7, 0, -160], [2.5, 0, 0, -900], [0, 0, 0, 1]]),
} | {
    f"oblique {''.join('DHW'[axis] for axis in order)} {flips}": oblique(order, flips)
    for order, flips in zip(
        itertools.cycle(itertools.permutations(range(3))), itertools.product((1, -1), repeat=3), strict=False
    )
}


def labels_for(suffix: str, affine: np.ndarray) -> Volume:
    """Labels 0..3 without any symmetry; a single slice without millimetres for a picture."""
    voxels = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    return Volume(voxels, affine) if suffix in MM else Volume(voxels[:1], PICTURE, calibrated=False)


def cases() -> list[tuple[str, str]]:
    return [(suffix, grid) for suffix in SUFFIXES for grid in (GRIDS if suffix in MM else ["scanner"])]


@pytest.mark.parametrize(("suffix", "grid"), cases())
def test_labels_come_back_with_their_values_on_the_same_grid(tmp_path, suffix, grid):
    labels = labels_for(suffix, GRIDS[grid])
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels, NAMES)
    back = read_labels(path)
    assert np.array_equal(back.voxels, labels.voxels)
    assert back.voxels.dtype == np.uint8
    assert back.calibrated == labels.calibrated
    assert np.allclose(back.affine, labels.affine, rtol=0, atol=1e-4)
    assert np.array_equal(back.like(labels).voxels, labels.voxels)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("suffix", "grid"), cases())
def test_every_labelled_point_stays_in_its_place_in_the_patient(tmp_path, suffix, grid):
    labels = labels_for(suffix, GRIDS[grid])
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels, NAMES)
    back = read_labels(path).to_lps()
    for index in np.argwhere(labels.voxels):
        there = back.index(labels.point(*index))
        nearest = tuple(np.rint(there).astype(int))
        assert np.allclose(there, nearest, atol=1e-3)
        assert back.voxels[nearest] == labels.voxels[tuple(index)]


@pytest.mark.parametrize("suffix", MM)
def test_labels_turned_to_lps_are_written_on_that_grid(tmp_path, suffix):
    """Flips and permutations leave views with odd strides: the bytes must follow."""
    labels = labels_for(suffix, oblique((2, 0, 1), (-1, 1, -1)))
    turned = labels.to_lps()
    write_labels(tmp_path / f"labels{suffix}", turned, NAMES)
    back = read_labels(tmp_path / f"labels{suffix}").like(labels)
    assert np.array_equal(back.voxels, labels.voxels)
    assert np.array_equal(back.affine, labels.affine)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".png"])
def test_labels_above_255_come_back(tmp_path, suffix):
    labels = labels_for(suffix, GRIDS["scanner"])
    labels = labels.with_voxels(labels.voxels.astype(np.int64) * 300)
    write_labels(tmp_path / f"labels{suffix}", labels, NAMES)
    back = read_labels(tmp_path / f"labels{suffix}")
    assert np.array_equal(back.voxels, labels.voxels)
    assert back.voxels.dtype == np.uint16


@pytest.mark.parametrize("suffix", [suffix for suffix in MAPS if not suffix.startswith(".nii")])
def test_maps_come_back_as_float32_channels(tmp_path, suffix):
    maps = Volume(np.random.default_rng(0).random((2, 4, 5, 6)), GRIDS["scanner"])
    write_maps(tmp_path / f"maps{suffix}", maps, ["background", "lung"])
    back = read_volume(tmp_path / f"maps{suffix}")
    assert np.array_equal(back.voxels, maps.voxels.astype(np.float32))
    assert back.voxels.dtype == np.float32
    assert np.allclose(back.affine, maps.affine, rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_labels_are_the_same_bytes(tmp_path, suffix):
    labels = labels_for(suffix, GRIDS["scanner"])
    for name in ("one", "two"):
        write_labels(tmp_path / f"{name}{suffix}", labels, NAMES)
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path, suffix):
    labels = labels_for(suffix, GRIDS["scanner"])
    path = tmp_path / f"LABELS{suffix.upper()}"
    write_labels(path, labels, NAMES)
    assert np.array_equal(read_labels(path).voxels, labels.voxels)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_a_scan_error(tmp_path, suffix, share):
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels_for(suffix, GRIDS["scanner"]), NAMES)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ScanError) as caught:
        read_volume(path)
    assert caught.value.hint


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels_for(suffix, GRIDS["scanner"]), NAMES)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(80):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 400), 4):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        # Anything but the family of unusable input, a crash above all, fails the test.
        with contextlib.suppress(InputError):
            read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_file(tmp_path, suffix):
    """A limit on the size of files, in a process of its own, is a disk that is full half way through."""
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(b"old")
    script = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from medattn_edge.errors import OutputError
from medattn_edge.io import write_labels
from medattn_edge.volume import Volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
voxels = np.random.default_rng(0).integers(0, 4, (1, 500, 600)).astype(np.uint8)
labels = Volume(voxels, np.array({PICTURE.tolist()}), calibrated={suffix in MM})
try:
    write_labels(Path(sys.argv[1]), labels, ["a", "b", "c", "d"])
except OutputError as error:
    assert "previous file" in error.expected and "df -h" in error.hint
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_folder_is_an_output_error(tmp_path, suffix):
    with pytest.raises(OutputError, match="mkdir"):
        write_labels(tmp_path / "no" / f"labels{suffix}", labels_for(suffix, GRIDS["scanner"]), NAMES)


@pytest.mark.parametrize("suffix", SUFFIXES + list(LOSSY))
def test_a_missing_file_names_the_one_that_was_probably_meant(tmp_path, suffix):
    (tmp_path / f"patient01{suffix}").write_bytes(b"")
    with pytest.raises(ScanError, match="does not exist") as caught:
        read_volume(tmp_path / f"patient1{suffix}")
    assert caught.value.hint == str(tmp_path / f"patient01{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, suffix):
    form = format_of(Path(f"x{suffix}"))
    path = tmp_path / f"labels{suffix}"
    write_labels(path, labels_for(suffix, GRIDS["scanner"]), NAMES)
    for package in form.packages:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependency) as caught:
            read_volume(path)
        assert caught.value.hint == install_line(form.extra)


@pytest.mark.parametrize("suffix", MM)
def test_only_archives_take_what_has_no_millimetres(tmp_path, suffix):
    labels = Volume(np.ones((1, 4, 5), dtype=np.uint8), PICTURE, calibrated=False)
    if suffix == ".npz":
        write_labels(tmp_path / "labels.npz", labels, NAMES)
        assert not read_labels(tmp_path / "labels.npz").calibrated
    else:
        with pytest.raises(UsageError, match="positions in mm"):
            write_labels(tmp_path / f"labels{suffix}", labels, NAMES)


def test_a_missing_file_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(ScanError, match="does not exist either"):
        read_volume(tmp_path / "no" / "scan.nrrd")


def test_a_folder_without_dicom_files_is_refused(tmp_path):
    with pytest.raises(ScanError, match="is a folder"):
        read_volume(tmp_path)


def test_labels_alone_cannot_become_dicom(tmp_path):
    with pytest.raises(UsageError, match="the series that the labels belong to"):
        write_labels(tmp_path / "labels.dcm", labels_for(".nrrd", GRIDS["scanner"]), NAMES)
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"\.nii\.gz.*\.npz.*\.nrrd.*\.png") as caught:
        read_volume(tmp_path / "scan.gz")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", "nifti"),
        ("a.b.NII.GZ", "nifti"),
        ("a.seg.nrrd", "nrrd"),
        ("a.npz", "numpy"),
        ("a.JPEG", "image"),
        ("a.DCM", "dicom"),
    ],
)
def test_the_suffix_picks_the_format(name, expected):
    assert format_of(Path(name)).name == expected


def test_every_format_installs_its_packages_with_an_extra():
    assert [form.name for form in formats()] == [
        *("dicom", "image", "metaimage", "mgh", "nifti", "nifti-bz2", "nifti-zst", "nrrd", "numpy", "tiff")
    ]
    assert all(bool(form.extra) == bool(form.packages) for form in formats())
    assert all(suffix == suffix.lower() and suffix.startswith(".") for form in formats() for suffix in form.suffixes)


def test_looking_at_the_formats_imports_none_of_their_packages():
    script = (
        "import sys; from medattn_edge.io import formats;"
        "print(sorted({p for f in formats() for p in f.packages} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf, 2.0**40])
def test_values_that_are_no_labels_are_refused(tmp_path, value):
    np.savez(tmp_path / "scan.npz", voxels=np.array([[[0, value]]]), affine=np.eye(4))
    with pytest.raises(ScanError, match=r"labels 0, 1, 2"):
        read_labels(tmp_path / "scan.npz")


def test_labels_in_floating_point_become_the_smallest_unsigned_type(tmp_path):
    np.savez(tmp_path / "labels.npz", voxels=np.array([[[0.0, 3.0]]]), affine=np.eye(4))
    assert read_labels(tmp_path / "labels.npz").voxels.dtype == np.uint8


def test_labels_with_channels_are_refused(tmp_path):
    with pytest.raises(ScanError, match="2 channels"):
        write_labels(tmp_path / "labels.npz", Volume(np.zeros((2, 1, 3, 3), dtype=np.uint8), np.eye(4)), NAMES)


def test_maps_need_one_name_per_channel(tmp_path):
    with pytest.raises(UsageError, match="1 names"):
        write_maps(tmp_path / "maps.npz", Volume(np.zeros((2, 1, 3, 3)), np.eye(4)), ["lung"])


def test_a_picture_cannot_hold_maps(tmp_path):
    with pytest.raises(UsageError, match=r"one of \.nii"):
        write_maps(tmp_path / "maps.png", Volume(np.zeros((2, 1, 3, 3)), np.eye(4)), ["a", "b"])


def test_a_singular_affine_is_a_geometry_error(tmp_path):
    np.savez(tmp_path / "scan.npz", voxels=np.zeros((2, 3, 4)), affine=np.zeros((4, 4)))
    with pytest.raises(GeometryError, match="affine"):
        read_volume(tmp_path / "scan.npz")
