"""What candidates are worth, in the figures that are kept of them, and which layers they owe it to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.inference.truth import LabelValues
from medattn_edge.precision.int8 import _score, _ways_on
from medattn_edge.precision.judge import Judge, Verdict
from medattn_edge.precision.layers import Layer
from medattn_edge.precision.quantizers.quantizer import (
    QuantizationRecipe,
    Quantizer,
    absent_quantizers,
    fitting_quantizers,
    quantizers,
)
from medattn_edge.precision.sensitivity import Damage, fewest_floating, rank
from medattn_edge.precision.trials import QuantizationTrials, QuantizedCandidate, Speed
from medattn_edge.precision.windows import ScanSource
from medattn_edge.timing import Latency
from medattn_edge.volume import Volume
from tests.precision.scans import LPS, brighter_than, every_window, scan

ANYTHING: Any = None


def source(voxels: np.ndarray, name: str = "a") -> ScanSource:
    return ScanSource(name, lambda: Volume(voxels, LPS))


AGREED = Agreement(0.5, 42.0, 0.9, {"organ": 0.98}, {"organ": 0.0}, 10, 9, True)


def test_a_candidates_line_in_a_report() -> None:
    verdict = Verdict(AGREED, (), 0.0)
    candidate = QuantizedCandidate(
        quantizers()["onnxruntime"], QuantizationRecipe("cpu", floating=("a", "b")), ANYTHING, verdict
    )
    assert candidate.to_json() == {
        "quantizer": "onnxruntime", "floating": 2, "dice": 0.98, "true_dice_share": None, "sqnr_db": 42.0,
        "holds": True, "ratio_to_fp32": None, "ratio_declined": None,
    }  # fmt: skip
    shares = replace(AGREED, reference_dice={"organ": 0.5}, candidate_dice={"organ": 0.4})
    timed = replace(candidate, verdict=Verdict(shares, ("no",), 0.1), speed=Speed("onnxruntime", 1.5, 1.4, 1.6))
    line = timed.to_json()
    assert (line["true_dice_share"], line["holds"], line["ratio_to_fp32"]) == ([0.8, 0.8], False, 1.5)
    busy = replace(timed, speed=Speed("onnxruntime", 1.5, 1.0, 4.0, "host busy (quartiles 1 to 4)")).to_json()
    assert (busy["ratio_to_fp32"], busy["ratio_declined"]) == (None, "host busy (quartiles 1 to 4)")


def advice(exhausted: bool, method: str = "minmax", absent: tuple[Quantizer, ...] = ()) -> str:
    trials = QuantizationTrials(ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING, (Path(), 8))
    verdict = Verdict(AGREED, ("Dice is 0.98",), 0.01)
    trials.candidates.append(
        QuantizedCandidate(quantizers()["onnxruntime"], QuantizationRecipe("cpu", method=method), ANYTHING, verdict)
    )
    trials.exhausted = exhausted
    return "; ".join(_ways_on(trials, absent))


def test_more_trials_are_advised_only_where_these_ran_out() -> None:
    assert "--max-trials 16 goes on from here: 8 trials were too few" in advice(True)
    assert "trials" not in advice(False)
    assert "--method percentile may help" in advice(False)
    assert "--method minmax may help" in advice(False, "percentile")


def test_a_quantizer_that_is_not_installed_is_named_with_what_installs_it(tmp_path: Path) -> None:
    absent = replace(quantizers()["nncf-onnx"], packages=("onnx", "no_such_package"))
    assert absent.missing == ("no_such_package",)
    line = MissingDependency.of_extra("no_such_package", "calibrate").hint
    assert absent.install_hint == line
    assert f"the quantizer nncf-onnx was not tried: {line}" in advice(False, absent=(absent,))
    assert quantizers()["onnxruntime"].install_hint == ""
    path, recipe = tmp_path / "net.onnx", QuantizationRecipe("cpu")
    every = {one.name for one in (*fitting_quantizers(path, recipe), *absent_quantizers(path, recipe))}
    assert every == {"nncf-onnx", "onnxruntime"}
    assert not {one.name for one in absent_quantizers(path, recipe)} & {
        one.name for one in fitting_quantizers(path, recipe)
    }


def test_the_speed_of_a_busy_host_has_its_times_and_no_ratio() -> None:
    fp32, int8 = Latency(np.array([4.0, 4.0, 8.0, 8.0])), Latency(np.array([2.0, 2.0, 1.0, 1.0]))
    told = Speed.of("onnxruntime", int8, fp32).to_json()
    assert told.pop("ratio_declined") == "host busy (quartiles 2 to 8)"
    assert told == {
        "runtime": "onnxruntime", "ratio_to_fp32": None, "low": None, "high": None, "p50_ms": 1.5, "fp32_p50_ms": 6.0,
    }  # fmt: skip
    quiet = Speed.of("openvino", int8, Latency(int8.samples_ms * 3)).to_json()
    assert (quiet["ratio_to_fp32"], quiet["low"], quiet["high"], quiet["ratio_declined"]) == (3.0, 3.0, 3.0, None)


def test_of_those_that_hold_the_fastest_and_of_the_others_the_nearest() -> None:
    def one(holds: bool, shortfall: float, ratio: float | None, dice: float = 0.9, db: float = 30.0) -> Any:
        agreement = replace(AGREED, dice={"organ": dice}, sqnr_db=db)
        verdict = Verdict(agreement, () if holds else ("no",), shortfall)
        speed = None if ratio is None else Speed("x", ratio, ratio, ratio)
        return QuantizedCandidate(ANYTHING, QuantizationRecipe("cpu"), ANYTHING, verdict, speed)

    order = [
        one(False, 0.2, 9.0), one(False, 0.1, 9.0, 0.8), one(False, 0.1, 9.0, 0.9, 20.0),
        one(False, 0.1, 1.0, 0.9, 30.0),
        one(True, 0.0, 0.5), one(True, 0.0, 1.5),
    ]  # fmt: skip
    assert sorted(order, key=_score) == order
    lost = Verdict.of_failure("crashed")
    assert (lost.holds, lost.dice, lost.rank[0]) == (False, 0.0, -math.inf)
    assert (lost.agreement.finite, lost.agreement.sqnr_db, lost.failures) == (False, -math.inf, ("crashed",))


@pytest.mark.parametrize(
    ("dice", "share", "shortfall"),
    [(0.95, 1.0, 0.0), (0.9, 1.0, 0.0), (0.85, 1.0, 0.05), (0.95, 0.7, 0.1), (0.95, 1.4, 0.2), (0.7, 0.7, 0.2),
     (math.nan, 1.0, math.inf), (0.95, math.nan, math.inf)],
)  # fmt: skip
def test_a_shortfall_is_that_of_the_worst_figure(dice: float, share: float, shortfall: float) -> None:
    from medattn_edge.precision.judge import _shortfall

    gate = Thresholds(min_dice=0.9, min_true_dice_share=0.8, max_true_dice_share=1.2)
    judged = replace(AGREED, dice={"a": 0.99, "b": dice}, reference_dice={"a": 0.5, "b": 0.5},
                     candidate_dice={"a": 0.5, "b": 0.5 * share})  # fmt: skip
    assert _shortfall(judged, gate) == pytest.approx(shortfall)
    assert _shortfall(replace(judged, finite=False), gate) == math.inf
    assert _shortfall(judged, Thresholds()) == 0


def test_a_file_carries_the_values_of_its_true_labels_only_where_it_was_judged_by_them() -> None:
    values: LabelValues = {"organ": [3, 4]}
    gate = Thresholds(min_dice=0.9, min_true_dice_share=0.8, max_true_dice_share=1.2)
    with_truth = Judge(brighter_than(0.5), every_window(scan()), gate).file_gate(values)
    assert with_truth is not None
    assert (with_truth.min_dice, with_truth.min_true_dice_share, with_truth.max_true_dice_share) == (0.9, 0.8, 1.2)
    assert with_truth.label_values == {"organ": (3, 4)}
    assert with_truth.labels == ("organ",)
    assert Judge(brighter_than(0.5), every_window(scan()), Thresholds()).file_gate(values) is None


LAYERS = [Layer(f"n{index}", "m", "Conv", (4, 4)) for index in range(5)]


@pytest.mark.parametrize(("trials", "groups"), [(5, [1] * 5), (9, [1] * 5), (2, [2, 3]), (1, [5]), (3, [1, 2, 2])])
def test_layers_are_tried_in_as_many_groups_as_there_are_trials(trials: int, groups: list[int]) -> None:
    steps: list[tuple[int, int]] = []
    found = rank(LAYERS, trials, lambda nodes: (10.0 + int(nodes[0][1:]), 0.5), lambda *step: steps.append(step))
    assert [len(damage.layers) for damage in found] == groups
    assert steps == [(number + 1, len(groups)) for number in range(len(groups))]
    assert [node for damage in found for node in damage.nodes] == [layer.node for layer in LAYERS]
    assert found[0].to_json()["sqnr_db"] == 10.0


def test_of_equal_noise_the_smaller_dice_is_worse() -> None:
    dice = {"n0": 0.9, "n1": 0.8, "n2": 0.7, "n3": 0.95, "n4": 0.85}
    assert [one.nodes[0] for one in rank(LAYERS, 5, lambda nodes: (10.0, dice[nodes[0]]))] == [
        "n2", "n1", "n4", "n0", "n3",
    ]  # fmt: skip


@pytest.mark.parametrize("needed", [(), (0,), (1,), (4,), (0, 3), (1, 2), (2, 4), (0, 1, 2, 3, 4)])
def test_every_layer_that_is_needed_and_no_other_stays(needed: tuple[int, ...]) -> None:
    ranking = [Damage((layer,), 1.0, 0.5) for layer in LAYERS]
    wanted = {f"n{index}" for index in needed}
    tried: list[int] = []

    def floating(nodes: tuple[str, ...]) -> Verdict:
        tried.append(len(nodes))
        return Verdict(AGREED, () if wanted <= set(nodes) else ("no",))

    found = [node for damage in fewest_floating(ranking, floating) for node in damage.nodes]
    # Where nothing is needed, the shortest head that is tried is one layer.
    assert found == (sorted(wanted) or ["n0"])
    assert tried[0] == 1


def test_a_derived_file_of_an_fp32_only_rewrite_names_the_rewrite(lungs: Artifact) -> None:
    from medattn_edge.precision.derived import fp32_graph

    fp32_graph(lungs, "int8")
    changed = replace(lungs.manifest, rewrites=({"name": "one"}, {"name": "two", "fp32_only": True}))
    with pytest.raises(UsageError, match=r"the graph has two, where(.|\n)*--rewrite -two"):
        fp32_graph(replace(lungs, manifest=changed), "int8")
    with pytest.raises(UsageError, match="an artifact in fp16"):
        fp32_graph(replace(lungs, manifest=replace(lungs.manifest, precision="fp16")), "int8")
    with pytest.raises(UsageError, match="an FP32 ONNX artifact to make int8 from"):
        fp32_graph(replace(lungs, path=lungs.path.with_suffix(".xml")), "int8")
