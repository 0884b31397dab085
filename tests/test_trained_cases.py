"""What the trained cases of the benchmarks are judged on: only what their training held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trained
from cases import BY_TRUTH, CASES, Case

from medattn_edge.agreement import true_dice
from medattn_edge.backends import open_session
from medattn_edge.errors import HostError
from medattn_edge.labels import Meaning
from medattn_edge.models import checkpoint

SHIPPED = "lungs-attention-unet-2d"


def test_the_reference_has_the_true_dice_that_its_training_recorded() -> None:
    source = trained.source_of(SHIPPED)
    _, held_out, truth = trained.patches(source, 4, 100)
    assert truth is not None
    with open_session(source.path) as session:
        meaning = Meaning.of(session.spec)
        labels = np.stack([meaning.labels_of(one) for one in session.run_any(held_out)])
    seen = ~np.ma.getmaskarray(truth)
    found = true_dice(truth.data[seen], labels[seen], meaning)
    assert found == pytest.approx(dict(checkpoint.load(source.path).notes["held_out_dice"]), abs=1e-6)


def test_no_slice_to_calibrate_on_was_held_out() -> None:
    calibration, held_out, _ = trained.patches(trained.source_of(SHIPPED), 100, 100)
    assert (len(calibration), len(held_out)) == (23, 7)  # 0-6, 13-23, 29-33 and 8-11, 25-27
    assert not any(np.array_equal(one, other) for one in calibration for other in held_out)


def test_what_was_not_trained_here_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="attention-unet-3d-published has not been trained") as error:
        trained.source_of("attention-unet-3d-published", tmp_path)
    assert error.value.hint.startswith("make bench-published")


def test_what_was_trained_is_found_with_its_scan_and_values(tmp_path: Path) -> None:
    about = {"scan": "/scans/ct.nii.gz", "labels": "/scans/labels.nii.gz", "label_values": {"liver": [5]}}
    (tmp_path / trained.RECORD).write_text(json.dumps({"net": about}), encoding="utf-8")
    source = trained.source_of("net", tmp_path)
    assert source == (
        tmp_path / "net.safetensors",
        Path("/scans/ct.nii.gz"),
        Path("/scans/labels.nii.gz"),
        {"liver": [5]},
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.trained], ids=lambda case: case.name)
def test_a_trained_case_is_held_to_both_thresholds(case: Case) -> None:
    assert case.gates is BY_TRUTH
    limits = case.gates["int8"].to_json()
    assert (limits["min_dice"], limits["min_true_dice_share"], limits["max_true_dice_share"]) == (0.99, 0.999, 1.01)
