"""INT8 end to end: a gate that holds or an honest no, layers in floating point, what is kept and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends import open_session
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options
from medattn_edge.errors import AgreementError, UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.gates import TRUE_LABELS
from medattn_edge.precision import int8
from medattn_edge.precision.cache import Cache
from medattn_edge.precision.choice import choose_windows
from medattn_edge.precision.int8 import quantise
from medattn_edge.precision.quantizers.quantizer import QuantizationRecipe
from medattn_edge.precision.settings import CalibrationSettings
from medattn_edge.precision.windows import ScanFacts, ScanSource, Windows

Halves = tuple[Windows, Windows]
ORT = CalibrationSettings(profile="cpu", gate=0.99, quantizer="onnxruntime", threads=1)
EASY = replace(ORT, gate=0.9)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The ranges are measured once for all tests."""
    return Cache(tmp_path_factory.mktemp("cache"))


def test_what_holds_the_gate_is_written_with_its_recipe(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    made = quantise(lungs, tmp_path / "net.onnx", halves, EASY, kept)
    manifest, recipe = Artifact.read(tmp_path / "net.onnx").manifest, made.manifest.recipe
    assert manifest == made.manifest
    assert manifest.precision == "int8"
    assert manifest.lineage == (*lungs.manifest.lineage, lungs.manifest.sha256)
    assert manifest.operators["QuantizeLinear"] > 10
    assert recipe["calibrated_on"] == {"CTChest4.nrrd": 8}
    assert recipe["judged_on"] == {"CTChest4.nrrd": 6}
    assert recipe["floating"] == []
    assert recipe["quantizer"] == "onnxruntime"
    assert recipe["speed"]["runtime"] == "onnxruntime"
    assert (recipe["speed"]["ratio_to_fp32"] is None) == bool(recipe["speed"]["ratio_declined"])
    assert recipe["speed"]["p50_ms"] > 0 < recipe["speed"]["fp32_p50_ms"]
    (case,) = manifest.agreement
    assert case["thresholds"] == {"min_dice": 0.9}
    assert manifest.gate == FileGate(0.9, labels=("right_lung", "left_lung"))
    assert min(case["dice"].values()) >= 0.9
    with open_session(made.path, threads=1) as session:
        assert session.run(halves[1][0]).shape == (1, 3, 128, 128)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]


def test_an_ir_is_written_with_its_weights(lungs: Artifact, halves: Halves, tmp_path: Path) -> None:
    made = quantise(lungs, tmp_path / "net.xml", halves, replace(EASY, quantizer=""))
    assert set(made.manifest.companions) == {".bin"}
    assert made.manifest.recipe["quantizer"] == "nncf-openvino"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml", "net.xml.json"]
    with open_session(made.path, threads=1) as session:
        assert session.run(halves[1][0]).shape == (1, 3, 128, 128)


def test_of_the_quantizers_that_hold_the_gate_the_fastest_is_taken(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    recipe = quantise(lungs, tmp_path / "net.onnx", halves, replace(EASY, quantizer=""), kept).manifest.recipe
    rows = {row["quantizer"]: row for row in recipe["quantizers"]}
    assert set(rows) == {"nncf-onnx", "onnxruntime"}
    assert all(row["holds"] for row in rows.values())
    if not any(row["ratio_declined"] for row in rows.values()):  # by a host that runs other tests
        assert recipe["quantizer"] == max(rows, key=lambda name: rows[name]["ratio_to_fp32"])


def test_agreement_comes_before_speed() -> None:
    from medattn_edge.agreement import Agreement
    from medattn_edge.precision.judge import Verdict
    from medattn_edge.precision.trials import QuantizedCandidate, Speed

    def candidate(holds: bool, dice: float, ratio: float) -> QuantizedCandidate:
        agreement = Agreement(0.0, 40.0, 1.0, {"organ": dice}, {}, 0, 0)
        verdict = Verdict(agreement, () if holds else ("low",))
        return QuantizedCandidate(
            Any, QuantizationRecipe("cpu"), Any, verdict, Speed("onnxruntime", ratio, ratio, ratio)
        )

    slow, fast, wrong, worse = (
        candidate(True, 0.9999, 1.1),
        candidate(True, 0.9991, 2.0),
        candidate(False, 0.998, 3.0),
        candidate(False, 0.9, 4.0),
    )
    assert max([wrong, slow, fast, worse], key=int8._score) is fast
    assert max([worse, wrong], key=int8._score) is wrong


@pytest.mark.slow
def test_layers_go_back_to_floating_point_until_the_gate_holds(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    plain = quantise(lungs, tmp_path / "plain.onnx", halves, EASY, kept).manifest
    gate = (1 + min(plain.agreement[0]["dice"].values())) / 2  # half way from what plain INT8 reaches to FP32
    stages: list[str] = []
    tell = lambda what, done, total: stages.append(what)  # noqa: E731
    made = quantise(lungs, tmp_path / "net.onnx", halves, replace(ORT, gate=gate), kept, tell).manifest
    assert min(made.agreement[0]["dice"].values()) >= gate > min(plain.agreement[0]["dice"].values())
    left = [layer for damage in made.recipe["floating"] for layer in damage["layers"]]
    assert 0 < len(left) < 20
    assert all(layer["module"] for layer in left)
    assert made.agreement[0]["sqnr_db"] > plain.agreement[0]["sqnr_db"]
    assert made.recipe["ranking"][0]["sqnr_db"] == min(one["sqnr_db"] for one in made.recipe["ranking"])
    assert made.recipe["trials"] <= ORT.max_trials
    assert "ranking layers" in stages
    assert any("in floating point" in stage for stage in stages)

    again = quantise(lungs, tmp_path / "again.onnx", halves, replace(ORT, gate=gate), kept).manifest
    assert again.recipe["floating"] == made.recipe["floating"]
    assert again.recipe["trials"] < made.recipe["trials"] / 2, "the ranking was kept"


def test_a_gate_that_cannot_be_held_is_said_and_nothing_is_written(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    with pytest.raises(
        AgreementError, match=r"does not hold the gate: Dice with the reference of (.|\n)*layers in floating point"
    ) as said:
        quantise(lungs, tmp_path / "net.onnx", halves, replace(ORT, gate=1.0, max_trials=3), kept)
    assert "--max-trials 6 goes on from here: 3 trials were too few" in said.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_keeps_what_was_ranked(lungs: Artifact, halves: Halves, tmp_path: Path) -> None:
    kept = Cache(tmp_path / "cache")

    def stop(what: str, done: int, total: int) -> None:
        if what == "ranking layers" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantise(lungs, tmp_path / "net.onnx", halves, replace(ORT, gate=1.0), kept, stop)
    assert len(list((tmp_path / "cache").glob("damage-*.json"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_tensorrt_profile_is_judged_as_written_and_claims_no_speed(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    settings = replace(EASY, profile="tensorrt")
    made = quantise(lungs, tmp_path / "net.onnx", halves, settings, kept)
    assert made.manifest.recipe["speed"] is None
    assert made.manifest.recipe["quantizers"][0]["ratio_to_fp32"] is None
    with open_session(made.path, threads=1, optimise=False) as session:
        assert session.facts["backend"] == "onnxruntime-unoptimised"


def test_true_labels_are_the_gate_where_they_are_given(
    lungs: Artifact, chest: ScanSource, kept: Cache, tmp_path: Path
) -> None:
    import numpy as np

    from medattn_edge.data.samples import sample_labels
    from medattn_edge.io import read_labels

    def truth(scan: Any) -> Any:
        found = read_labels(sample_labels()).like(scan)
        return found.with_voxels(np.select([found.voxels == 5, found.voxels == 6], [1, 2]).astype(np.uint8))

    with OnnxRuntimeSession(lungs, Options(threads=1)) as session:
        halves = choose_windows([replace(chest, truth=truth)], [], session, (8, 6))
    values = {"right_lung": (5,), "left_lung": (6,)}
    made = quantise(
        lungs, tmp_path / "net.onnx", halves, replace(ORT, gate=None), kept, facts=ScanFacts(label_values=values)
    )
    (case,) = made.manifest.agreement
    assert case["thresholds"] == TRUE_LABELS.limits
    assert min(case["dice"].values()) >= 0.99
    for name, before in case["reference_dice"].items():
        assert before > 0.9
        assert 0.999 * before <= case["candidate_dice"][name] <= 1.01 * before
    assert Artifact.read(made.path).manifest.gate == FileGate(
        **TRUE_LABELS.limits, labels=("right_lung", "left_lung"), label_values=values
    )


def test_the_same_windows_twice_are_refused(lungs: Artifact, halves: Halves, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"both calibrated and judged on(.|\n)*--held-out"):
        quantise(lungs, tmp_path / "net.onnx", (halves[0], halves[0]), EASY)


def test_only_fp32_becomes_int8(lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path) -> None:
    made = quantise(lungs, tmp_path / "net.onnx", halves, EASY, kept)
    with pytest.raises(UsageError, match=r"in int8(.|\n)*FP32 ONNX"):
        quantise(made, tmp_path / "twice.onnx", halves, EASY)


def test_a_file_that_cannot_be_written_leaves_what_was_there(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path
) -> None:
    quantise(lungs, tmp_path / "net.onnx", halves, EASY, kept)
    before = (tmp_path / "net.onnx").read_bytes(), manifest_path(tmp_path / "net.onnx").read_bytes()
    with pytest.raises(AgreementError):
        quantise(lungs, tmp_path / "net.onnx", halves, replace(ORT, gate=1.0, max_trials=2), kept)
    assert before == ((tmp_path / "net.onnx").read_bytes(), manifest_path(tmp_path / "net.onnx").read_bytes())


def test_the_recipe_is_plain_json(lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path) -> None:
    made = quantise(lungs, tmp_path / "net.onnx", halves, EASY, kept)
    assert json.loads(json.dumps(made.manifest.to_json())) == made.manifest.to_json()
    assert manifest_path(made.path).stat().st_size < 200_000


def test_a_runtime_that_dies_on_a_candidate_is_a_verdict(
    lungs: Artifact, halves: Halves, kept: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that crashes when it is loaded stands in the way of every new process of ONNX Runtime."""
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "onnxruntime.py").write_text("import ctypes\nctypes.string_at(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "crash"))  # this process has the real one already
    with pytest.raises(AgreementError, match=r"onnxruntime: the runtime crashed: SIGSEGV") as said:
        quantise(lungs, tmp_path / "net.onnx", halves, replace(EASY, max_trials=1), kept)
    assert "does not hold the gate" in said.value.found
    assert not (tmp_path / "net.onnx").exists()
