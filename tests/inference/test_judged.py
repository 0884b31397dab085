"""A judgement has something to judge, or it is refused: label by label, over all scans."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.gates import NOTHING
from medattn_edge.inference.judged import MIN_REFERENCE_DICE, JudgedLabels
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.labels import Meaning
from tests.support.sessions import make_volume

MEANING = Meaning(("background", "liver", "spleen"))


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def audited(judged: JudgedLabels, labels: np.ndarray, mapping: Mapping[str, list[int]]) -> None:
    judged.add_truth(LabelAudit.of("truth.nrrd", make_volume(labels), mapping))


def test_a_label_that_is_absent_from_one_scan_is_named_there_and_judged_in_the_other() -> None:
    judged = JudgedLabels(MEANING)
    truths = (row(0, 1, 1, 0), row(0, 1, 2, 2))
    for truth in truths:
        audited(judged, truth, {"liver": [1], "spleen": [2]})
    judged.check_truth()
    assert judged.add(row(0, 1, 1, 2), truths[0]) == {"spleen": "the true labels have none here"}
    assert judged.add(row(0, 1, 2, 2), truths[1]) == {}
    judged.check("the 2 scans", "give more")


def test_a_label_that_is_absent_from_every_file_is_refused_before_the_work_unless_others_are_named() -> None:
    for names in ((), ("spleen",)):
        judged = JudgedLabels(MEANING, names)
        audited(judged, row(0, 1, 1, 7), {"liver": [1], "spleen": [2]})
        with pytest.raises(ScanError, match=r"no voxel of the true labels is spleen: truth\.nrrd has the values 1 \(2"):
            judged.check_truth()
    judged = JudgedLabels(MEANING, ["liver"])
    audited(judged, row(0, 1, 1, 7), {"liver": [1], "spleen": [2]})
    judged.check_truth()


def test_the_hint_is_what_to_type() -> None:
    judged = JudgedLabels(MEANING)
    audited(judged, row(0, 1, 1, 7), {"liver": [1], "spleen": [2]})
    with pytest.raises(ScanError) as told:
        judged.check_truth()
    assert told.value.hint == (
        "--label-value spleen=VALUE, VALUE being one of 7; or --judge-labels liver, to judge nothing else"
    )
    assert told.value.expected.endswith("looked for as liver=1, spleen=2")


def test_what_the_reference_finds_nowhere_is_refused_unless_a_candidate_finds_it() -> None:
    judged = JudgedLabels(MEANING)
    assert judged.add(row(0, 1)) == {"spleen": "the reference finds none here"}
    with pytest.raises(ScanError, match="finds none of spleen in the scan"):
        judged.check("the scan", "give more")
    judged.add_found({"spleen": 0.0})  # which is a Dice of 0, and fails by itself
    judged.check("the scan", "give more")


@pytest.mark.parametrize(("overlap", "refused"), [(1, True), (2, False)])
def test_a_true_dice_near_zero_is_none_to_have_a_share_of(overlap: int, refused: bool) -> None:
    assert NOTHING.limits["min_reference_true_dice"] == MIN_REFERENCE_DICE == 0.1
    truth, found = np.zeros((1, 1, 80), np.uint8), np.zeros((1, 1, 80), np.uint8)
    truth[..., :20] = 1
    found[..., 20 - overlap : 40 - overlap] = 1  # Dice overlap / 20: 0.05 and 0.1
    judged = JudgedLabels(MEANING, ["liver"])
    audited(judged, truth, {"liver": [1]})
    judged.check_truth()
    assert bool(judged.add(found, truth)) == refused
    if refused:
        with pytest.raises(ScanError, match=r"below 0\.1 \(liver 0\.0500\)"):
            judged.check("the scan", "give more")
    else:
        judged.check("the scan", "give more")


def test_labels_out_of_the_field_of_the_windows_are_nothing_to_judge_by() -> None:
    judged = JudgedLabels(MEANING, ["liver"])
    audited(judged, row(0, 1, 1, 0), {"liver": [1]})
    judged.check_truth()  # the file has them
    judged.add(row(1, 0), row(0, 0))  # and what is judged does not
    with pytest.raises(ScanError, match="true labels have none of liver in the 2 windows"):
        judged.check("the 2 windows", "give more")


def test_a_name_that_is_no_label_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--judge-labels names kidney(.|\n)*some of liver, spleen"):
        JudgedLabels(MEANING, ["liver", "kidney"])
