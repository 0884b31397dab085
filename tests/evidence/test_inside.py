"""A report looks inside: maps beside the eager network's, SQNR by layer; what cannot be seen says why."""

from __future__ import annotations

import json
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

SETTINGS = ReportSettings(
    comparison=ComparisonSettings(threads=1), timing=None, pictures=0, attention=True, layers=True
)


@pytest.fixture(scope="module")
def other(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact with other weights in one layer."""
    return with_other_weights(artifact, tmp_path_factory.mktemp("other") / "other.onnx", 1.3)


@pytest.fixture(scope="module")
def looked(checkpoint: Path, other: Path, scans: list[Path]) -> Evidence:
    """A report on it."""
    return gather(checkpoint, [other], scans, settings=SETTINGS)


def test_maps_and_layers_are_of_the_case_with_most_flips_and_what_leaves_is_said(looked: Evidence) -> None:
    flips = [case.runs[0].flips for case in looked.cases]
    worst = f"case {flips.index(max(flips)) + 1}"
    assert f"maps and layers of other.onnx are of {worst}, where it has most flips" in looked.notes
    assert looked.attention
    assert all(f" of other.onnx, {worst}, " in one.title for one in looked.attention)
    assert any(one.agreement["largest difference"] > 0.01 and one.eager != one.candidate for one in looked.attention)
    assert any("attention maps of other.onnx: the deployed file has no such output" in note for note in looked.notes)
    assert [one.sqnr_db for one in looked.layers] == sorted(one.sqnr_db for one in looked.layers)
    first = looked.layers[0]
    assert (first.artifact, first.precision) == ("other.onnx", "FP32")
    assert first.measured == "layer's own output, fed with the reference's values, in onnxruntime"
    [left] = [note for note in looked.notes if "leaves the reference by itself" in note]
    assert left.startswith(f"the layer {first.layer} of other.onnx leaves the reference by itself: {first.sqnr_db:.1f}")


@pytest.mark.slow
def test_the_figures_are_those_of_explain_and_of_bisect(
    looked: Evidence, checkpoint: Path, other: Path, scans: list[Path]
) -> None:
    flips = [case.runs[0].flips for case in looked.cases]
    scan = scans[flips.index(max(flips))]
    seen = explain(checkpoint, scan, other, settings=ExplainSettings(threads=1, batch=4))
    figures = [one.agreement["largest difference"] for one in looked.attention]
    assert figures == [round(one.max_abs or 0.0, 6) for one in seen.maps]
    found = bisect(checkpoint, other, scan, settings=BisectSettings(threads=1))
    assert {(one.layer, one.sqnr_db) for one in looked.layers} == {
        (one.layer.title, one.local_db) for one in found.figures
    }


def test_nobody_is_named_and_the_page_shows_both(looked: Evidence, tmp_path: Path) -> None:
    page, document = write_report(looked, tmp_path)
    text = document.read_text() + "".join(page.read_text().split("base64,")[::2])
    assert not [name for name in ("Doe", "Roe", str(tmp_path.parent)) if name in text]
    told = json.loads(document.read_text())
    assert len(told["attention"]) == page.read_text().count('alt="Attention of the eager network"') > 0
    assert all(one["layer"] in page.read_text() for one in told["layers"])
    missing = {one["what"] for one in told["not_measured"]}
    assert not missing & {"Attention maps", "SQNR by layer"}


def test_what_a_file_cannot_show_is_said_with_its_reason_and_stops_nothing(
    checkpoint: Path, artifact: Path, scans: list[Path], tmp_path: Path
) -> None:
    path, spec = tmp_path / "net.ort", Artifact.read(artifact).spec
    compile_artifact(artifact, path, None, CompileSettings(threads=1), {"a scan": random_patches(spec, 2, seed=5)})
    found = gather(checkpoint, [path], scans[:1], settings=SETTINGS)
    assert found.passed
    assert (found.attention, found.layers) == ((), ())
    missing = {one.what: one.reason for one in found.not_measured}
    assert ".onnx" in missing["Attention maps of net.ort"]
    assert "it has no graph that can be cut into layers" in missing["SQNR by layer of net.ort"]
    assert not {"Attention maps", "SQNR by layer"} & set(missing)
    unasked = gather(checkpoint, [artifact], scans[:1], settings=replace(SETTINGS, attention=False, layers=False))
    assert {"--attention" in one.reason for one in unasked.not_measured if one.what == "Attention maps"} == {True}
    assert {"--layers" in one.reason for one in unasked.not_measured if one.what == "SQNR by layer"} == {True}
