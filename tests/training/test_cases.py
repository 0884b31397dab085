"""Labels files become training labels, or the error says what to type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError, UsageError
from medattn_edge.io import write_labels, write_maps
from medattn_edge.training import Label, check_labels, read_cases
from medattn_edge.training.cases import Case
from medattn_edge.volume import Volume

LUNGS = (Label(1, "right", (5,)), Label(2, "left", (6, 9)))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1=lung", Label(1, "lung", (1,))),
        ("1=right_lung:5", Label(1, "right_lung", (5,))),
        ("2=lungs:5,6", Label(2, "lungs", (5, 6))),
    ],
)
def test_a_label_is_read_from_the_command_line(text: str, label: Label) -> None:
    assert Label.parse(text) == label


@pytest.mark.parametrize("text", ["lung", "1=", "=lung", "1=lung:", "1=lung:a", "1=a b", "-1=lung", "1:lung"])
def test_a_label_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="INDEX=NAME"):
        Label.parse(text)


@pytest.mark.parametrize(
    "texts", [[], ["2=a"], ["1=a", "3=b"], ["1=a", "1=b"], ["1=a:5", "2=b:5"], ["1=a", "2=a"], ["1=background"]]
)
def test_labels_that_contradict_each_other_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        check_labels([Label.parse(text) for text in texts])


def _write(folder: Path, scan: Volume, labels: Volume) -> tuple[Path, Path]:
    write_maps(folder / "scan.npz", scan.with_voxels(scan.voxels[None]), ["ct"])
    write_labels(folder / "labels.npz", labels, [str(value) for value in range(16)])
    return folder / "scan.npz", folder / "labels.npz"


def _stored() -> tuple[Volume, Volume]:
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    voxels = rng.normal(size=(4, 5, 6)).astype(np.float32)
    return Volume(voxels, affine), Volume(rng.choice([0, 5, 6, 9, 7], (4, 5, 6)).astype(np.uint8), affine)


def test_values_are_remapped_and_others_are_background(tmp_path: Path) -> None:
    scan, stored = _stored()
    (case,) = read_cases([_write(tmp_path, scan, stored)], LUNGS)
    expected = np.select([stored.voxels == 5, np.isin(stored.voxels, (6, 9))], [1, 2], 0)
    assert np.array_equal(case.labels.voxels, expected)
    assert case.name == "scan.npz"
    assert case.audit is not None
    taken = {row.value: row.labels for row in case.audit.counts}
    assert taken == {5: ("right",), 6: ("left",), 7: (), 9: ("left",)}
    assert sum(row.voxels for row in case.audit.counts) == np.count_nonzero(stored.voxels)


def test_labels_in_another_axis_order_are_turned_to_the_scan(tmp_path: Path) -> None:
    scan, stored = _stored()
    turned = stored._permuted((2, 0, 1), (True, False, True))
    (case,) = read_cases([_write(tmp_path, scan, turned)], LUNGS)
    assert np.array_equal(case.labels.voxels == 1, stored.voxels == 5)


def test_labels_on_another_grid_are_refused(tmp_path: Path) -> None:
    scan, stored = _stored()
    moved = np.array(stored.affine)
    moved[0, 3] += 1.0
    with pytest.raises(GeometryError, match="drawn on this scan"):
        read_cases([_write(tmp_path, scan, Volume(stored.voxels, moved))], LUNGS)


def test_a_value_that_no_file_has_is_refused_with_those_that_they_have(tmp_path: Path) -> None:
    scan, stored = _stored()
    with pytest.raises(ScanError, match=r"value 4 of the label heart: labels.npz has the values(.|\n)*5, 6, 7, 9"):
        read_cases([_write(tmp_path, scan, stored)], [Label(1, "heart", (4,))])


def test_the_hash_of_a_case_is_that_of_its_voxels_labels_and_place() -> None:
    scan, stored = _stored()
    same, other = Case("a", scan, stored), stored.voxels.copy()
    other[0, 0, 0] += 1
    assert Case("b", scan, stored).sha256 == same.sha256
    assert Case("a", scan, stored.with_voxels(other)).sha256 != same.sha256
