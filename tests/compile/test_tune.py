"""Tuning: the fastest of several files that agree, with the figures that chose it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.artifact import Artifact, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.compiler import CompileSettings, compiler_of
from medattn_edge.compile import BETTER, tune
from medattn_edge.compile.graphs import PLAIN, GivenGraph, RewrittenGraphs
from medattn_edge.errors import AgreementError, OutputError
from medattn_edge.exporters import ExportSettings, random_patches
from medattn_edge.host import hardware
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.rewrites import ALWAYS_GOOD, Rewritten, defaults, rewrite
from tests.support.networks import export_checkpoint, gated_spec, random_checkpoint

pytestmark = pytest.mark.slow

SPEC = gated_spec((64, 64), (8, 16, 32))
SAMPLES = {"a scan": random_patches(SPEC, 2, seed=5)}
ONE_THREAD = CompileSettings(threads=1)
NO_TIME, SHORT = 0.0, 20.0


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A small network as if it had been read from a file."""
    return random_checkpoint(SPEC, 2)


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the alternatives are made."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Laboured(SegmentationNetwork):
    """The same function but for FP32's last bits, with five times as much work beside it."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__(network.stride, (), network.minimum)
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        idle = torch.stack([self.network(image * (2 + turn)) for turn in range(5)]).mean(0)
        return self.network(image) + 1e-7 * torch.tanh(idle)

    def forward_attention(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def laboured_with_sums(checkpoint: Checkpoint, names: tuple[str, ...]) -> Rewritten:
    """As `rewrite`, but what has the rewrite concat-sums is slow."""
    rewritten = rewrite(checkpoint, names)
    return replace(rewritten, network=Laboured(rewritten.network)) if "concat-sums" in names else rewritten


def left_in(folder: Path) -> list[Path]:
    """What is there, but for the cache of torch itself."""
    return [one for one in folder.iterdir() if not one.name.startswith("torchinductor")]


def graphs_of(checkpoint: Checkpoint, rewrite: Any = None) -> RewrittenGraphs:
    return RewrittenGraphs(checkpoint, "onnxruntime", ExportSettings(), rewrite)


def tuned(graphs: Any, path: Path, seconds: float, settings: CompileSettings = ONE_THREAD, **options: Any) -> Artifact:
    return tune(graphs, path, compiler_of(path), settings, SAMPLES, seconds, **options)


def rows(artifact: Artifact) -> dict[str, Any]:
    return {row["name"]: row for row in artifact.manifest.target["tuning"]["alternatives"]}


@pytest.mark.slow
def test_the_fastest_that_agrees_is_kept_with_the_figures_that_chose_it(
    checkpoint: Checkpoint, scratch: Path, tmp_path: Path
) -> None:
    path, steps = tmp_path / "network.ort", list[tuple[str, int, int]]()
    made = tuned(
        graphs_of(checkpoint, laboured_with_sums),
        path,
        SHORT,
        progress=lambda *step: steps.append(step),
    )
    record, found = made.manifest.target["tuning"], rows(made)
    assert json.loads(json.dumps(record)) == Artifact.read(path).manifest.target["tuning"]
    assert list(found)[:2] == ["default", "BatchNorm folding alone"]
    assert {"with scalar-prelu", "with concat-sums"} >= set(list(found)[2:])
    kept = found["BatchNorm folding alone"]
    assert kept["outcome"] == "kept"
    assert kept["ratio"] > kept["quartiles"][0] > 1
    assert kept["ratio"] == kept["ratio_to_best"] > BETTER
    assert (kept["rewrites"], kept["settings"]) == (list(PLAIN), {"threads": 1})
    assert kept["rounds"] >= 5
    assert kept["sqnr_db"] > 110
    assert (record["chosen"][:2], record["threads"]) == (["default", "BatchNorm folding alone"], 1)
    assert "concat-sums" not in record["rewrites"]
    assert record["host"]["cpu"] == hardware.cpu().model
    assert found["default"]["rewrites"] == list(defaults("onnxruntime", SPEC.patch))
    assert steps[0] == ("default", 0, 4)
    assert [one["name"] for one in made.manifest.rewrites] == [
        name for name in record["rewrites"] if name in ("batch-norm", "scalar-prelu")
    ]
    assert made.manifest.lineage[0] == checkpoint.sha256
    assert made.manifest.agreement[0]["input"] == "a scan"
    assert left_in(scratch) == []
    assert {one.name for one in tmp_path.iterdir()} == {"network.ort", "network.ort.json"}


@pytest.mark.slow
def test_an_alternative_that_disagrees_is_dropped_with_its_reason(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def wrong_alone(checkpoint: Checkpoint, names: tuple[str, ...]) -> Rewritten:
        rewritten = rewrite(checkpoint, names)
        if names == PLAIN:
            with torch.no_grad():
                list(rewritten.network.parameters())[-2].mul_(1.3)
        return rewritten

    made = tuned(graphs_of(checkpoint, wrong_alone), tmp_path / "network.ort", SHORT)
    dropped = rows(made)["BatchNorm folding alone"]
    assert (dropped["outcome"], dropped["ratio"], dropped["sqnr_db"]) == ("refused", None, None)
    assert "does not agree with eager: on " in dropped["reason"]
    assert "SQNR in dB is 10." in dropped["reason"]
    with open_session(tmp_path / "network.ort", threads=1) as session, torch.inference_mode():
        wanted = checkpoint.network(torch.from_numpy(SAMPLES["a scan"][:1])).numpy()
        np.testing.assert_allclose(session.run(SAMPLES["a scan"][:1]), wanted, rtol=1e-3, atol=1e-4)


def test_a_default_that_disagrees_is_refused_and_nothing_is_written(
    checkpoint: Checkpoint, scratch: Path, tmp_path: Path
) -> None:
    def wrong(checkpoint: Checkpoint, names: tuple[str, ...]) -> Rewritten:
        rewritten = rewrite(checkpoint, names)
        with torch.no_grad():
            list(rewritten.network.parameters())[-2].mul_(1.01)
        return rewritten

    with pytest.raises(AgreementError, match="does not agree with eager"):
        tuned(graphs_of(checkpoint, wrong), tmp_path / "network.ort", SHORT)
    with pytest.raises(OutputError, match="mkdir -p"):
        tuned(graphs_of(checkpoint), tmp_path / "nowhere" / "network.ort", SHORT)
    assert list(tmp_path.iterdir()) == left_in(scratch) == []


def test_when_the_time_is_up_the_default_is_what_there_is_and_its_graph_can_be_made_again(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    made = tuned(graphs_of(checkpoint), tmp_path / "network.ort", NO_TIME)
    record = made.manifest.target["tuning"]
    assert [row["outcome"] for row in record["alternatives"]] == ["default", "untried", "untried", "untried"]
    assert record["alternatives"][1]["reason"] == "the time was up"
    assert record["chosen"] == ["default"]
    assert record["command"] == "medattn-edge export CHECKPOINT -o NAME.onnx --patch 64x64 --batch 1"
    samples = {"random": random_patches(SPEC, 1)}
    export_checkpoint(checkpoint, tmp_path / "again.onnx", rewrites=record["rewrites"], samples=samples, batch=1)
    assert made.manifest.parent_sha256 == sha256(tmp_path / "again.onnx")
    assert made.manifest.lineage == (checkpoint.sha256, made.manifest.parent_sha256)


def test_the_command_names_what_is_beside_the_defaults_and_what_is_not_of_them(checkpoint: Checkpoint) -> None:
    graphs = RewrittenGraphs(checkpoint, "onnxruntime", ExportSettings(batch=None))
    assert graphs.optional == ("scalar-prelu", "concat-sums")
    changed = graphs.toggled(graphs.toggled(graphs.default, "concat-sums"), "pixel-shuffle")
    assert graphs.command(changed).endswith("--batch dynamic --rewrite pixel-shuffle --rewrite -concat-sums")
    assert set(graphs.toggled(graphs.toggled(graphs.default, "scalar-prelu"), "scalar-prelu")) == ALWAYS_GOOD


def test_an_interrupted_tuning_leaves_nothing(checkpoint: Checkpoint, scratch: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, of: int) -> None:
        if done == 1:
            assert left_in(scratch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(graphs_of(checkpoint), tmp_path / "network.ort", SHORT, progress=interrupt)
    assert list(tmp_path.iterdir()) == left_in(scratch) == []


@pytest.mark.slow
def test_of_a_given_graph_only_the_threads_are_tried(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "network.onnx"
    export_checkpoint(checkpoint, source, samples=SAMPLES, batch=1)
    made = tuned(GivenGraph(source), tmp_path / "network.ort", SHORT, CompileSettings(), cores=4)
    record = made.manifest.target["tuning"]
    assert list(rows(made)) == ["default", "threads 1", "threads 2"]
    assert [row["settings"]["threads"] for row in record["alternatives"]] == [4, 1, 2]
    assert record["threads"] in (1, 2, 4)
    assert record["command"] == ""
    assert made.manifest.parent_sha256 == sha256(source)


def test_the_threads_that_were_asked_for_stay(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "network.onnx"
    export_checkpoint(checkpoint, source, samples=SAMPLES, batch=1)
    made = tuned(GivenGraph(source), tmp_path / "network.ort", SHORT, ONE_THREAD)
    assert list(rows(made)) == ["default"]
    assert made.manifest.target["tuning"]["threads"] == 1


def test_what_is_the_same_file_as_one_before_is_not_measured_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def always_plain(checkpoint: Checkpoint, names: tuple[str, ...]) -> Rewritten:
        return rewrite(checkpoint, PLAIN)

    made = tuned(graphs_of(checkpoint, always_plain), tmp_path / "network.ort", SHORT)
    found = list(rows(made).values())
    assert [row["outcome"] for row in found] == ["default", "same", "same", "same"]
    assert found[1]["reason"] == "its graph is that of default"
