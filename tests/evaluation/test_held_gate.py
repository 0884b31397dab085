"""The one gate of a file: what it carries, what options may add, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import Manifest
from medattn_edge.errors import UsageError
from medattn_edge.evaluation.held_gate import held_gate, usual_gate
from medattn_edge.file_gate import FileGate, gate_text
from medattn_edge.gates import COMPARED, TRUE_LABELS
from tests.support.networks import gated_spec

NET = Path("net.int8.onnx")
LIMITS: dict[str, float] = {"min_dice": 0.98, "min_true_dice_share": 0.99, "max_true_dice_share": 1.02}
FULL = FileGate(**LIMITS, labels=("liver", "spleen"))


def manifest(gate: FileGate | None) -> Manifest:
    spec = gated_spec(labels=("background", "liver", "spleen", "kidney"))
    hashes: dict[str, Any] = {"sha256": "a" * 64, "parent_sha256": "b" * 64}
    return Manifest(
        spec, "int8", **hashes, exporter="onnx", batch=1, inputs={}, outputs={}, operators={}, parameters=1, gflop=1.0,
        gate=gate,
    )  # fmt: skip


def held(gate: FileGate | None, labelled: bool = True, **given: float) -> Any:
    return held_gate(NET, manifest(gate), Thresholds(**given), usual_gate(labelled), labelled)


def test_a_file_without_a_gate_is_held_to_the_usual_one() -> None:
    assert (held(None).thresholds.to_json(), held(None).origin) == (dict(TRUE_LABELS.limits), "usual")
    assert held(None, labelled=False).thresholds == COMPARED.thresholds
    assert held_gate(NET, None, Thresholds(), usual_gate(False), False).thresholds == COMPARED.thresholds
    easy = held(None, min_dice=0.5)
    assert (easy.thresholds.min_dice, easy.origin) == (0.5, "options")
    assert "looser than usual: Dice with the reference at least 0.5" in easy.notes[0]


@pytest.mark.parametrize(
    ("name", "stricter", "looser"),
    [
        ("min_dice", 0.981, 0.979),
        ("min_true_dice_share", 0.991, 0.989),
        ("max_true_dice_share", 1.019, 1.021),
    ],
)
def test_an_option_may_ask_for_more_than_the_file_and_never_for_less(name: str, stricter: float, looser: float) -> None:
    more = held(FULL, **{name: stricter})
    assert more.thresholds.to_json() == {**LIMITS, name: stricter}
    assert more.origin == "file and options"
    same = held(FULL, **{name: LIMITS[name]})
    assert (same.thresholds.to_json(), same.origin) == (LIMITS, "file")
    option = "--" + name.replace("_", "-")
    with pytest.raises(UsageError, match=rf"{option} {looser} is looser than the gate that net\.int8\.onnx carries"):
        held(FULL, **{name: looser})


def test_what_is_not_of_the_gate_comes_from_the_options_beside_it() -> None:
    assert held(FULL, min_sqnr_db=30.0).thresholds.to_json() == {**LIMITS, "min_sqnr_db": 30.0}


def test_what_the_file_carries_is_told_from_what_stands_beside_it() -> None:
    assert held(FileGate(0.99), labelled=False, min_sqnr_db=30.0).text == (
        "Dice with the reference at least 0.99, as the file carries it; beside it SQNR in dB at least 30"
    )
    assert held(None, labelled=False).text == (
        "Dice with the reference at least 0.999, as usual, for the file carries none"
    )


def test_what_cannot_be_held_and_what_is_weak_is_said() -> None:
    without = held(FULL, labelled=False)
    assert without.thresholds == Thresholds(min_dice=0.98)
    said = "\n".join(without.notes)
    assert "share of the reference's true Dice at least 0.99 and at most 1.02 cannot be held here" in said
    assert "nobody judged kidney" in said
    assert "the gate that it carries is looser than usual: Dice with the reference at least 0.98" in said
    strict = FileGate(**TRUE_LABELS.limits, labels=("liver", "spleen", "kidney"))
    assert held(strict).notes == ()


def test_without_true_labels_then_and_with_them_now_both_thresholds_are_held() -> None:
    assert held(FileGate(0.999)).thresholds.to_json() == {**TRUE_LABELS.limits, "min_dice": 0.999}


def test_a_reference_that_has_nothing_right_leaves_no_share_to_hold() -> None:
    lost = Agreement(
        0.0, 300.0, 1.0, {"a": 1.0}, {"a": 0.0}, 0, 0, reference_dice={"a": 0.0}, candidate_dice={"a": 0.0}
    )
    [failure] = TRUE_LABELS.thresholds.failures(lost)
    assert failure == "a has no share of the reference's true Dice: the reference has nothing of it right"
    assert COMPARED.thresholds.failures(lost) == []
    assert lost.to_json()["true_dice_share"] == {"a": None}


def test_a_gate_reads_as_a_sentence() -> None:
    assert gate_text(LIMITS) == (
        "Dice with the reference at least 0.98, share of the reference's true Dice at least 0.99 and at most 1.02"
    )
    assert gate_text({}) == "finite logits"
    assert gate_text({"min_sqnr_db": 30.0}) == "SQNR in dB at least 30"
