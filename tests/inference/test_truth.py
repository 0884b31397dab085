"""True labels: whatever numbers a file has, the network's own come out, or it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.inference.truth import parse_label_values, read_true_labels, read_truth
from medattn_edge.labels import Meaning
from medattn_edge.volume import Volume

LPS = np.eye(4)[[2, 1, 0, 3]]
NAMES = ("background", "lungs", "heart")


def labels(folder: Path, values: list[int]) -> tuple[Path, Volume]:
    """A file of one row of values, and a scan on its grid."""
    voxels = np.array(values, np.uint8).reshape(1, 1, -1)
    np.savez(folder / "labels.npz", voxels=voxels, affine=LPS)
    return folder / "labels.npz", Volume(np.zeros(voxels.shape, np.float32), LPS)


def test_values_are_read_as_they_are_typed() -> None:
    assert parse_label_values(["lungs=5,6", "heart=1"]) == {"lungs": [5, 6], "heart": [1]}


@pytest.mark.parametrize("text", ["lungs", "lungs=", "lungs=5,", "lungs=a", "lungs=-1", "lungs=\u00b2"])
def test_a_value_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"NAME=VALUE"):
        parse_label_values([text])


def test_a_label_that_is_named_twice_is_refused_with_the_option_for_both() -> None:
    with pytest.raises(UsageError, match=r"twice(.|\n)*--label-value lungs=5,6"):
        parse_label_values(["lungs=5", "lungs=6"])


def test_a_file_is_numbered_as_the_network_is(tmp_path: Path) -> None:
    path, scan = labels(tmp_path, [0, 5, 6, 2, 9])
    truth = read_true_labels(path, scan, Meaning(NAMES), {"lungs": [5, 6]})
    assert truth.voxels.ravel().tolist() == [0, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"liver": [5]}, "names liver"),
        ({"background": [5]}, "names background"),
        ({"lungs": [5], "heart": [5]}, "5 stands for both lungs and heart"),
        ({"lungs": [2]}, "2 stands for both lungs and heart"),
    ],
)
def test_values_that_do_not_tell_the_labels_apart_are_refused(
    values: dict[str, list[int]], message: str, tmp_path: Path
) -> None:
    path, scan = labels(tmp_path, [0, 5])
    with pytest.raises(UsageError, match=message):
        read_true_labels(path, scan, Meaning(NAMES), values)


def test_a_file_without_any_of_the_labels_is_refused(tmp_path: Path) -> None:
    path, scan = labels(tmp_path, [0, 7])
    with pytest.raises(ScanError, match=r"lungs=1, heart=2(.|\n)*--label-value") as told:
        read_true_labels(path, scan, Meaning(NAMES), {})
    assert "labels.npz has the values 7 (1 voxels, 0.0 ml)" in told.value.found
    assert told.value.hint == "--label-value lungs=VALUE --label-value heart=VALUE, VALUE being one of 7"


def test_every_value_of_a_file_is_told_with_what_it_was_taken_for(tmp_path: Path) -> None:
    path, scan = labels(tmp_path, [0, 5, 6, 6, 9])
    audit = read_truth(path, scan, Meaning(NAMES), {"lungs": [5, 6], "heart": [3]}).audit
    assert audit.to_json() == {
        "file": "labels.npz",
        "values": [
            {"value": 3, "labels": ["heart"], "voxels": 0, "millilitres": 0.0},
            {"value": 5, "labels": ["lungs"], "voxels": 1, "millilitres": 0.001},
            {"value": 6, "labels": ["lungs"], "voxels": 2, "millilitres": 0.002},
            {"value": 9, "labels": [], "voxels": 1, "millilitres": 0.001},
        ],
    }
    assert (audit.present, audit.mapping) == ({"lungs"}, "heart=3, lungs=5,6")
    flat = LabelAudit.of("a", Volume(scan.voxels.astype(np.uint8) + 1, LPS, calibrated=False), {})
    assert flat.to_json()["values"][0]["millilitres"] is None


def test_a_file_of_many_values_is_told_by_its_most_frequent_ones() -> None:
    audit = LabelAudit.of("a", Volume(np.repeat(np.arange(30), np.arange(30)).reshape(1, 1, -1), LPS), {})
    assert audit.text.startswith("a has the values 29 (29 voxels, 0.0 ml), 28 (28")
    assert audit.text.endswith("18 (18 voxels, 0.0 ml) and 17 more")
