"""Planted faults are named and nothing else is: each by the module of its layer, in every family and precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends.parts import PartRunner
from medattn_edge.errors import InputError, UsageError
from medattn_edge.evaluation.bisect import Bisection, BisectSettings, LayerFigures, bisect
from medattn_edge.models.checkpoint import save
from medattn_edge.precision.fp16 import islands
from medattn_edge.precision.fp16_graph import Island, to_fp16
from medattn_edge.spec import ModelSpec
from tests.support.networks import export_checkpoint, random_network
from tests.support.planted import (
    Plant,
    activation_scale,
    attribute,
    constant,
    nodes_of,
    planted,
    quantised,
    scan_of,
    swapped_inputs,
    weight_axis,
    weight_scale,
    written,
    zero_point,
)

pytestmark = pytest.mark.slow

CHANNEL = "step1.scales.1.channel.attention"
SETTINGS = BisectSettings(threads=1, samples=1)
SPECS = {
    "2d": ModelSpec("attention-unet-2d", 1, ("background", "organ"), (32, 32), (16, 16), config={"width": 8}),
    "3d": ModelSpec("attention-unet-3d", 1, ("background", "organ"), (16, 16, 16), (16, 16, 16), config={"width": 4}),
    "guided": ModelSpec(
        "self-guided",
        1,
        ("background", "organ", "other"),
        (32, 32),
        (8, 8),
        config={"backbone": "resnet18", "width": 16, "backbone_width": 16},
    ),
}


class Fault(NamedTuple):
    """What is planted, the title of the layer that it must be named by, and a word of its cause."""

    plant: Plant
    named: str
    cause: str


def shifted(values: np.ndarray) -> np.ndarray:
    return values + np.float32(0.3)


def larger(values: np.ndarray) -> np.ndarray:
    return values * np.float32(1.05)


def mirrored(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1]


def saturating(model: Any) -> None:
    """Weights of a gate so large that its sigmoid knows 0 and 1 only."""
    constant("decoder.3.gate.psi.1", "Conv", 1, lambda values: values * np.float32(1e4))(model)


FAULTS: dict[str, list[Fault]] = {
    "2d fp32": [
        Fault(constant("encoder.1.1.4", "Conv", 1, larger), "encoder.1.1.4", "weights"),
        Fault(constant("decoder.0.up.1.1", "Conv", 2, shifted), "decoder.0.up.1", "bias"),
        Fault(swapped_inputs("decoder.1", "Concat"), "decoder.1", "another order"),
        Fault(attribute("decoder.2.up.0", "Resize", "nearest_mode", "ceil"), "decoder.2.up.0", "nearest_mode"),
        Fault(saturating, "decoder.3.gate.psi", "weights"),
    ],
    "2d int8": [
        Fault(weight_scale("encoder.2.1.1", 1.5), "encoder.2.1.1", "weights"),
        Fault(activation_scale("encoder.3.1.5", "Relu", 0.2), "encoder.3.1.4", "clips"),
        Fault(zero_point("decoder.0.merge.2", "Relu", 40), "decoder.0.merge.1", ""),
        Fault(constant("decoder.2.merge.1", "Conv", 2, np.zeros_like), "decoder.2.merge.1", "bias"),
    ],
    "3d fp32": [
        Fault(constant("gate4.gates.1.theta", "Conv", 1, mirrored), "gate4.gates.1.theta", "weights"),
        Fault(swapped_inputs("gate3", "Concat"), "gate3", "another order"),
        Fault(
            attribute("up", "Resize", "coordinate_transformation_mode", "align_corners", call=1),
            "up (call 2 of 4)",
            "is align_corners, not",
        ),
        Fault(constant("final", "Conv", 2, shifted), "final", "bias"),
    ],
    "3d int8": [
        Fault(weight_scale("decoder3.4", 0.5), "decoder3.4", "weights"),
        Fault(activation_scale("gate2.combine.2", "Relu", 0.1), "gate2.combine", "clips"),
    ],
    "guided fp32": [
        Fault(constant("down.2.2", "PRelu", 1, np.zeros_like), "down.2.2", "input 1 of PRelu"),
        Fault(
            attribute("step1.autoencoders.members.0.encode1.1", "BatchNormalization", "epsilon", 1e-2),
            "step1.autoencoders.members.0.encode1.1 (call 1 of 4)",
            "epsilon of BatchNormalization is 0.01, not 1e-05",
        ),
        Fault(
            attribute("step1.scales.0.position.attention", "Transpose", "perm", [0, 1, 2], call=1),
            "step1.scales.0.position.attention",
            "perm of Transpose is [0, 1, 2], not [0, 2, 1]",
        ),
        Fault(constant(CHANNEL, "Mul", 0, larger), CHANNEL, "input 0 of Mul"),
    ],
}  # fmt: skip
SLOW = pytest.mark.slow


def marks(kind: str) -> list[Any]:
    return [] if kind.startswith("2d") else [SLOW]


ALL = [
    pytest.param(kind, index, id=f"{kind}, {fault.named}", marks=marks(kind))
    for kind, faults in FAULTS.items()
    for index, fault in enumerate(faults)
]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The FP32 artifact of a family, its checkpoint beside it."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp(family) / "net.onnx"
            network = random_network(SPECS[family], 3, balanced=True)
            if family == "2d":  # channels of one scale would hide that scales are of the wrong axis
                network.get_submodule("encoder.0.1.4").weight.data *= torch.linspace(0.05, 2, 8)
            save(path.with_suffix(".safetensors"), network, SPECS[family])
            made[family] = export_checkpoint(path.with_suffix(".safetensors"), path, batch=1).path
        return made[family]

    return of


@pytest.fixture(scope="module")
def healthy(fp32: Callable[[str], Path]) -> Callable[[str], Path]:
    """A file of a family and a precision that has no fault."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        family, precision = kind.split()
        if precision == "fp32":
            return fp32(family)
        if kind not in made:
            made[kind] = quantised(fp32(family), "onnxruntime", "cpu")
        return made[kind]

    return of


@pytest.fixture(scope="module")
def bisected(fp32: Callable[[str], Path], healthy: Callable[[str], Path]) -> Callable[..., Bisection]:
    """A file of a family and a precision with all its faults at once: a local error is each layer's own."""
    done: dict[str, Bisection] = {}

    def of(kind: str) -> Bisection:
        if kind not in done:
            parent = fp32(kind.split()[0])
            path = parent.with_name(f"planted-{kind.split()[1]}.onnx")
            planted(healthy(kind), path, *(fault.plant for fault in FAULTS[kind]))
            done[kind] = bisect(parent, path, scan_of(parent), settings=SETTINGS)
        return done[kind]

    return of


def named(found: Bisection) -> dict[str, LayerFigures]:
    return {one.named.title: one for one in found.leaving}


@pytest.mark.parametrize(("kind", "index"), ALL)
def test_a_planted_fault_is_named(bisected: Callable[..., Bisection], kind: str, index: int) -> None:
    fault = FAULTS[kind][index]
    found = named(bisected(kind))
    assert fault.named in found
    assert any(fault.cause in cause for cause in found[fault.named].causes) or not fault.cause, found[fault.named]


@pytest.mark.parametrize("kind", [pytest.param(one, marks=marks(one)) for one in FAULTS])
def test_nothing_but_the_planted_faults_is_named_and_the_first_one_first(
    bisected: Callable[..., Bisection], kind: str
) -> None:
    found = bisected(kind)
    assert set(named(found)) == {fault.named for fault in FAULTS[kind]}
    assert not found.passed
    assert found.first is not None
    assert found.first.named.title == FAULTS[kind][0].named
    assert found.together is None
    local = [one.local_db for one in found.leaving]
    assert local == sorted(local)


@pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=marks(one)) for one in ("2d fp32", "2d int8", "3d int8", "guided fp32")]
)
def test_a_healthy_file_passes(fp32: Callable[[str], Path], healthy: Callable[[str], Path], kind: str) -> None:
    parent = fp32(kind.split()[0])
    found = bisect(parent, healthy(kind), scan_of(parent), settings=SETTINGS)
    assert found.passed
    assert found.first is None
    assert found.matched[0] == found.matched[1] == len(found.figures)
    assert not any(one.causes for one in found.figures)


@SLOW
def test_half_precision_that_overflows_is_named(fp32: Callable[[str], Path], tmp_path: Path) -> None:
    """A layer whose values no half holds, in a network that computes what it did: the next layer takes it back."""
    parent, factor = fp32("3d"), np.float32(3e4)
    large = planted(
        parent,
        tmp_path / "large.onnx",
        *(constant("encoder.1.1", "Conv", index, lambda values: values * factor) for index in (1, 2)),
        constant("encoder.1.4", "Conv", 1, lambda values: values / factor),
    )
    model = onnx.load(str(large))
    [after] = nodes_of(model, "encoder.1.4", "Conv")
    kept = [*islands(model, {}), Island(after.name, "encoder.1.4", "Conv", "range", "its weights are small")]
    onnx.save(to_fp16(model, [one for one in kept if "encoder.1.1" not in one.module]), str(tmp_path / "half.onnx"))
    half = written(large, tmp_path / "half.onnx", precision="fp16")
    found = bisect(large, half, scan_of(large), settings=SETTINGS)
    assert found.first is not None
    assert found.first.named.title == "encoder.1.1"
    assert set(named(found)) == {"encoder.1.1"}
    assert any("a half ends at 65504" in cause for cause in found.first.causes)
    assert found.first.candidate_range is None
    assert found.to_json()["layers"][3]["local_db"] is None
    assert any("FP16 on a CPU" in note for note in found.notes)


def test_scales_of_the_wrong_axis_are_named_where_a_runtime_follows_them(
    fp32: Callable[[str], Path], healthy: Callable[[str], Path], tmp_path: Path
) -> None:
    """ONNX Runtime's fused convolution takes every scale for one of an output channel, whatever the file says."""
    parent = fp32("2d")
    path = planted(healthy("2d int8"), tmp_path / "axis.onnx", weight_axis("encoder.0.1.4"))
    written_as = replace(SETTINGS, runtime="onnxruntime-unoptimised")
    assert list(named(bisect(parent, path, scan_of(parent), settings=written_as))) == ["encoder.0.1.4"]
    assert bisect(parent, path, scan_of(parent), settings=SETTINGS).passed


def test_a_gate_that_only_knows_0_and_1_is_said_to(bisected: Callable[..., Bisection]) -> None:
    before, after = named(bisected("2d fp32"))["decoder.3.gate.psi"].saturated or (1.0, 0.0)
    assert before == 0
    assert after > 0.9


def test_figures_say_what_comes_in_what_a_layer_adds_and_what_comes_out(bisected: Callable[..., Bisection]) -> None:
    found = bisected("2d fp32")
    rows = {(one.layer.title, one.layer.operator): one for one in found.figures}
    first, then = rows["encoder.1.1.4", "Conv"], rows["encoder.2.1.1", "Conv"]
    assert first.in_db > 100 > 90 > first.local_db
    assert first.out_db == pytest.approx(first.local_db, abs=1)
    assert then.in_db < 40 < 100 < then.local_db  # it computes what it is given, and that is wrong already
    assert then.out_db < 40
    assert first.logits_db is not None
    assert first.logits_db < 90
    assert then.logits_db is None


def test_no_runtime_is_asked_for_more_than_one_layer(
    fp32: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the runtime under test gets is looked at: each part has one layer's nodes, and gives what others read."""
    parts: list[Any] = []
    run = PartRunner.run

    def watched(self: PartRunner, path: Path, *words: Any) -> Any:
        parts.append(onnx.load(str(path)))
        return run(self, path, *words)

    monkeypatch.setattr(PartRunner, "run", watched)
    parent = fp32("2d")
    found = bisect(parent, parent, scan_of(parent), settings=SETTINGS)
    assert len(parts) == len(found.figures) == 51
    whole = onnx.load(str(parent))
    makers = {name: node.name for node in whole.graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in whole.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    assert max(len(part.graph.node) for part in parts) <= 3 < len(whole.graph.node)
    assert sum(len(part.graph.node) for part in parts) == len(whole.graph.node)  # no node is in two of them
    for part in parts:
        inside = {node.name for node in part.graph.node}
        for output in part.graph.output:
            assert makers[output.name] in inside
            assert output.name == "logits" or readers[output.name] - inside  # nothing is given out that stays inside


@SLOW
def test_a_checkpoint_is_exported_as_the_candidate_was(fp32: Callable[[str], Path], tmp_path: Path) -> None:
    parent = fp32("2d")
    path = planted(parent, tmp_path / "lie.onnx", FAULTS["2d fp32"][1].plant)
    found = bisect(parent.with_suffix(".safetensors"), path, scan_of(parent), settings=SETTINGS)
    assert list(named(found)) == ["decoder.0.up.1"]
    assert any("was exported for this run" in note for note in found.notes)


@SLOW
def test_two_versions_of_an_int8_file_are_told_apart(healthy: Callable[[str], Path], tmp_path: Path) -> None:
    older = healthy("3d int8")
    newer = planted(older, tmp_path / "newer.onnx", weight_scale("decoder3.4", 0.5))
    found = bisect(older, newer, scan_of(older), settings=SETTINGS)
    assert list(named(found)) == ["decoder3.4"]
    assert bisect(older, older, scan_of(older), settings=SETTINGS).passed


def test_tensors_of_other_names_are_found_by_their_modules(fp32: Callable[[str], Path], tmp_path: Path) -> None:
    parent = fp32("2d")

    def renamed(model: Any) -> None:
        names = {name: f"t{index}" for index, node in enumerate(model.graph.node) for name in node.output}
        names["logits"] = "logits"
        for node in model.graph.node:
            for kind in (node.input, node.output):
                kind[:] = [names.get(name, name) for name in kind]
        del model.graph.value_info[:]

    path = planted(parent, tmp_path / "renamed.onnx", renamed, FAULTS["2d fp32"][0].plant)
    assert list(named(bisect(parent, path, scan_of(parent), settings=SETTINGS))) == ["encoder.1.1.4"]


def made_from(parent: Path, path: Path, lineage: tuple[str, ...], content: bytes = b"compiled") -> Path:
    """A file that says it was made from another; nothing opens it."""
    path.write_bytes(content)
    manifest = Artifact.read(parent).manifest
    whole = replace(manifest, sha256=sha256(path), parent_sha256=lineage[-1], lineage=lineage)
    whole.write(manifest_path(path))
    return path


def test_a_compiled_file_is_refused_with_the_graph_that_it_was_compiled_from(
    fp32: Callable[[str], Path], tmp_path: Path
) -> None:
    parent = fp32("2d")
    graph, scan = tmp_path / "graph.onnx", scan_of(parent)
    for name in (parent.name, f"{parent.name}.json"):
        (tmp_path / name.replace(parent.name, graph.name)).write_bytes(parent.with_name(name).read_bytes())
    manifest = Artifact.read(graph).manifest
    lineage = (*manifest.lineage, manifest.sha256)
    checkpoint = parent.with_suffix(".safetensors")

    def refused(candidate: Path, reference: Path = checkpoint, **settings: Any) -> UsageError:
        with pytest.raises(UsageError) as raised:
            bisect(reference, candidate, scan, settings=replace(SETTINGS, **settings))
        return raised.value

    for suffix in (".ort", ".blob", ".engine", ".rtx"):
        error = refused(made_from(graph, tmp_path / f"net{suffix}", lineage))
        assert error.expected == "graph.onnx, which it was compiled from"
        assert f"medattn-edge bisect {checkpoint} {graph} SCAN; " in error.hint
        assert error.hint.endswith(f"medattn-edge compare {graph} {tmp_path / f'net{suffix}'} SCAN")
    assert f"bisect {graph} {graph} SCAN, with the file that net.ort" in refused_as_reference(graph, tmp_path, scan)
    # Of a release only a private copy is there: what is named is what was typed.
    there = {manifest.sha256: "release#graph.onnx", sha256(tmp_path / "net.ort"): "release#net.ort"}
    alone = tmp_path / "alone"
    alone.mkdir()
    copy = made_from(graph, alone / "net.ort", lineage)
    assert "compare 'release#graph.onnx' 'release#net.ort' SCAN" in refused(copy, beside=there).hint
    # An older file of the lineage has another precision: it is not named.
    lost = refused(made_from(graph, tmp_path / "int8.ort", (*lineage, "f" * 64)))
    assert lost.expected == "the graph that it was compiled from, with the SHA-256 ffffffffffffffff..."
    assert "medattn-edge export CHECKPOINT -o NET.onnx --patch 32x32" in lost.hint
    script = refused(made_from(graph, tmp_path / "net.torchscript", manifest.lineage))
    assert script.hint.startswith(f"medattn-edge export {checkpoint} -o NET.onnx --patch 32x32, then ")
    plain = refused(checkpoint)
    assert plain.hint.startswith(f"medattn-edge export {checkpoint} -o NET.onnx, then ")


def refused_as_reference(graph: Path, folder: Path, scan: Path) -> str:
    with pytest.raises(UsageError, match="its layers have no names") as raised:
        bisect(folder / "net.ort", graph, scan, settings=SETTINGS)
    return raised.value.hint


def test_what_cannot_be_cut_is_refused_with_what_can(fp32: Callable[[str], Path], tmp_path: Path) -> None:
    parent = fp32("2d")
    scan = scan_of(parent)
    with pytest.raises(UsageError, match=r"no graph that can be cut(.|\n)*NET\.onnx"):
        bisect(parent, parent.with_suffix(".safetensors"), scan, settings=SETTINGS)
    other = parent.with_name("other.onnx")
    other.write_bytes(parent.read_bytes())
    spec = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (48, 48), (16, 16), config={"width": 8})
    replace(Artifact.read(parent).manifest, spec=spec).write(manifest_path(other))
    with pytest.raises(UsageError, match=r"patch \(48, 48\), and net\.onnx \(32, 32\)"):
        bisect(other, parent, scan, settings=SETTINGS)

    def nameless(model: Any) -> None:
        names = {name: f"t{index}" for index, node in enumerate(model.graph.node) for name in node.output}
        names["logits"] = "logits"
        for node in model.graph.node:
            del node.metadata_props[:]
            for kind in (node.input, node.output):
                kind[:] = [names.get(name, name) for name in kind]
        del model.graph.value_info[:]

    path = planted(parent, tmp_path / "nameless.onnx", nameless)
    with pytest.raises(InputError, match=r"of the 51 layers of net\.onnx are found in nameless\.onnx"):
        bisect(parent, path, scan, settings=SETTINGS)
