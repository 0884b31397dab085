"""A report looks inside: maps beside the eager network's, SQNR by layer; what cannot be seen says why."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import CompileSettings
from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.evaluation import ComparisonSettings
from medattn_edge.evaluation.attention import ExplainSettings, explain
from medattn_edge.evaluation.bisect import BisectSettings, bisect
from medattn_edge.evidence import Evidence, ReportSettings, gather, write_report
from medattn_edge.exporters import random_patches
from tests.support.networks import with_other_weights

SETTINGS = ReportSettings(comparison=ComparisonSettings(threads=1), timing=None, pictures=0)
MAPS, LAYERS = replace(SETTINGS, attention=True), replace(SETTINGS, layers=True)
BOTH = replace(MAPS, layers=True)


@pytest.fixture(scope="module")
def other(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact, which answers its maps, with other weights in one layer."""
    return with_other_weights(artifact, tmp_path_factory.mktemp("other") / "other.onnx", 1.3)


def worst_case(found: Evidence) -> str:
    flips = [case.runs[0].flips for case in found.cases]
    return f"case {flips.index(max(flips)) + 1}"


def test_maps_are_of_the_case_with_most_flips_and_nobody_is_named(
    checkpoint: Path, other: Path, scans: list[Path], tmp_path: Path
) -> None:
    found = gather(checkpoint, [other], scans, settings=MAPS)
    assert f"maps of other.onnx are of {worst_case(found)}, where it has most flips" in found.notes
    assert found.attention
    assert all(f" of other.onnx, {worst_case(found)}, " in one.title for one in found.attention)
    assert any(one.agreement["largest difference"] > 0.01 and one.eager != one.candidate for one in found.attention)
    assert any("attention maps of other.onnx: the deployed maps are" in note for note in found.notes)
    page, document = write_report(found, tmp_path)
    text = document.read_text() + re.sub(r"base64,[^\"]*", "", page.read_text())
    assert not [name for name in ("Doe", "Roe", str(tmp_path.parent)) if name in text]
    count = page.read_text().count('alt="Attention of the eager network"')
    assert len(json.loads(document.read_text())["attention"]) == count == len(found.attention)
    missing = {one.what for one in found.not_measured}
    assert "Attention maps" not in missing
    assert "SQNR by layer" in missing


def test_layers_are_told_the_worst_first_and_what_leaves_is_said(
    artifact: Path, other: Path, scans: list[Path], tmp_path: Path
) -> None:
    found = gather(artifact, [other], scans, settings=LAYERS)
    assert [one.sqnr_db for one in found.layers] == sorted(one.sqnr_db for one in found.layers)
    first = found.layers[0]
    assert (first.artifact, first.precision) == ("other.onnx", "FP32")
    assert first.measured == "layer's own output, fed with the reference's values, in onnxruntime"
    [left] = [note for note in found.notes if "leaves the reference by itself" in note]
    assert left.startswith(f"the layer {first.layer} of other.onnx leaves the reference by itself: {first.sqnr_db:.1f}")
    page, _ = write_report(found, tmp_path)
    assert all(one.layer in page.read_text() for one in found.layers[:24])
    assert f"{len(found.layers) - 24} further layers" in page.read_text() or len(found.layers) <= 24


@pytest.mark.slow
def test_the_figures_are_those_of_explain_and_of_bisect(checkpoint: Path, other: Path, scans: list[Path]) -> None:
    looked = gather(checkpoint, [other], scans, settings=BOTH)
    scan = scans[int(worst_case(looked).removeprefix("case ")) - 1]
    seen = explain(checkpoint, scan, other, settings=ExplainSettings(threads=1, batch=4))
    figures = [one.agreement["largest difference"] for one in looked.attention]
    assert figures == [float(f"{one.max_abs or 0.0:.4g}") for one in seen.maps]
    found = bisect(checkpoint, other, scan, settings=BisectSettings(threads=1))
    assert {(one.layer, one.sqnr_db) for one in looked.layers} == {
        (one.layer.title, one.local_db) for one in found.figures
    }


def test_what_a_file_cannot_show_is_said_with_its_reason_and_stops_nothing(
    artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    path, spec = tmp_path / "net.ort", Artifact.read(artifact).spec
    compile_artifact(artifact, path, None, CompileSettings(threads=1), {"a scan": random_patches(spec, 2, seed=5)})
    found = gather(artifact, [path], scans[:1], settings=BOTH)  # a reference that is no network, but a file of one
    assert found.passed
    assert (found.attention, found.layers) == ((), ())
    missing = {one.what: one.reason for one in found.not_measured}
    assert "net.onnx" in missing["Attention maps of net.ort"]
    assert "it has no graph that can be cut into layers" in missing["SQNR by layer of net.ort"]
    assert not {"Attention maps", "SQNR by layer"} & set(missing)
    unasked = gather(artifact, [path], scans[:1], settings=SETTINGS)
    assert {"--attention" in one.reason for one in unasked.not_measured if one.what == "Attention maps"} == {True}
    assert {"--layers" in one.reason for one in unasked.not_measured if one.what == "SQNR by layer"} == {True}
