"""An ONNX artifact is the eager network and nothing else: no shape arithmetic, no trace of the machine that made it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, sha256
from medattn_edge.backends import open_session
from medattn_edge.errors import UsageError
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.labels import labels_of
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.rewrites import rewrite
from tests.support.forms import EVERY_RUN, FORMS, form_checkpoint

pytestmark = pytest.mark.slow

BATCH_1 = ExportSettings(batch=1, opset=18)
DYNAMIC = ExportSettings(batch=None, opset=20, attention=True)
# Exporting takes seconds: the fast tests see every form once and both kinds in turn, the slow ones see the rest.
FAST_DYNAMIC = (
    "attention-unet-2d",
    "attention-unet-3d-single",
    "attention-unet-grid",
    "attention-unet-monai-2d",
    "self-guided",
)


@pytest.fixture
def exported(request, form, export_form):
    """The form's artifact: of batch 1, or of any batch with attention maps."""
    dynamic = request.node.callspec.params["form"] in FAST_DYNAMIC
    return export_form(form, ".onnx", DYNAMIC if dynamic else BATCH_1)


def check_answers(exported: Any) -> None:
    """Fresh input, in one run and in several, gives what the eager network gives."""
    artifact, checkpoint, settings = exported
    network, spec = checkpoint.network, checkpoint.spec
    patches = random_patches(spec, 3, seed=5)
    with torch.inference_mode():
        logits, maps = (one.numpy() for one in network.forward_attention(torch.from_numpy(patches)))
    runs = [slice(0, 1), slice(1, 3)] if settings.batch is None else [slice(index, index + 1) for index in range(3)]
    distance, map_distance = LogitsDistance(), LogitsDistance()
    with open_session(artifact.path) as session:
        for part in runs:
            found = session.run(patches[part])
            distance.add(logits[part], found)
            for one, expected in zip(found, logits[part], strict=True):
                assert (labels_of(one, "softmax") == labels_of(expected, "softmax")).mean() >= 0.9999
            if settings.attention:
                again, found_maps = session.run_with_attention(patches[part])
                np.testing.assert_array_equal(again, found)
                map_distance.add(maps[part], found_maps)
                assert session.attention_names == network.attention_names
    assert distance.sqnr_db >= 90
    assert not settings.attention or map_distance.sqnr_db >= 90


def check_graph(exported: Any) -> None:
    """Names, sizes, operators and metadata are what the rest of the product relies on."""
    artifact, checkpoint, settings = exported
    model = onnx.load(artifact.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", settings.opset)]
    assert [value.name for value in model.graph.input] == ["image"]
    assert not [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("network.")]
    assert [value.name for value in model.graph.output] == ["logits", "attention"][: 1 + settings.attention]
    batch = [settings.batch or "N"]
    sizes = {value.name: _sizes(value) for value in (*model.graph.input, *model.graph.output)}
    free = {name: [shape[0] or -1, *shape[1:]] for name, shape in artifact.manifest.inputs.items()}
    free |= {name: [shape[0] or -1, *shape[1:]] for name, shape in artifact.manifest.outputs.items()}
    assert sizes == {name: [*batch, *shape[1:]] for name, shape in free.items()}
    for value in model.graph.value_info:
        assert all(isinstance(size, int) for size in _sizes(value)[1:]), value.name
    operators = Counter(node.op_type for node in model.graph.node)
    assert artifact.manifest.operators == dict(operators)
    assert not set(operators) & {
        "BatchNormalization",
        "Cast",
        "Constant",
        "Expand",
        "Gather",
        "Identity",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Unsqueeze",
    }
    _check_resizes(model)
    _check_modules(model, checkpoint.network)
    _check_nothing_of_this_machine(artifact)


def _sizes(value: Any) -> list[Any]:
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _check_resizes(model: Any) -> None:
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Resize":
            scales = constants[node.input[2]]
            assert len(node.input) == 3, "sizes as well as scales"
            np.testing.assert_array_equal(scales[:2], [1, 1])
            assert (scales != 1).any(), "a Resize that changes nothing"


def _check_modules(model: Any, network: Any) -> None:
    modules = dict(network.named_modules())
    for node in model.graph.node:
        [entry] = node.metadata_props
        assert entry.key == "module"
        assert entry.value in modules
        if node.op_type in ("Conv", "ConvTranspose"):
            assert isinstance(modules[entry.value], torch.nn.modules.conv._ConvNd)
        assert node.doc_string == ""


def _check_nothing_of_this_machine(artifact: Any) -> None:
    model = onnx.load(artifact.path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # megabytes of weights say anything by chance
    content = model.SerializeToString()
    for trace in (b".py", b"torch", b"python", b"/work", b"/home", b"/usr", b"/tmp", sys.prefix.encode()):
        assert trace not in content, trace


def test_the_artifact_answers_as_the_eager_network_does(exported):
    check_answers(exported)


def test_the_graph_is_the_network_and_nothing_else(exported):
    check_graph(exported)


def test_the_manifest_says_what_the_artifact_is(exported):
    artifact, checkpoint, settings = exported
    manifest = Artifact.read(artifact.path).manifest
    assert manifest == artifact.manifest
    assert manifest.spec == checkpoint.spec
    assert (manifest.exporter, manifest.precision, manifest.batch) == ("onnx", "fp32", settings.batch)
    assert manifest.sha256 == sha256(artifact.path)
    assert manifest.parent_sha256 == checkpoint.sha256
    assert manifest.attention_maps == (checkpoint.network.attention_names if settings.attention else ())
    assert {"python", "medattn-edge", "numpy", "torch", "onnx", "onnxruntime", "onnxscript"} <= set(manifest.tools)
    [case] = manifest.agreement
    assert (case["input"], case["patches"]) == ("random", 3)
    asked = dict(case["thresholds"])
    assert 75 <= asked.pop("min_fp64_sqnr_db") <= 110
    assert asked == {"min_sqnr_db": 90.0, "min_label_match": 0.9999}
    assert case["sqnr_db"] >= 90
    assert case["label_match"] >= 0.9999
    # Of random noise a network may find but one label, and the other has no Dice.
    assert sorted((*case["dice"], *case["absent"])) == sorted(checkpoint.spec.labels[1:])
    assert manifest.gflop > 0
    # A network may have parameters that only training uses.
    weights = sum(np.prod(one.dims) for one in onnx.load(artifact.path).graph.initializer if "scales" not in one.name)
    assert 0.9 * manifest.parameters <= weights <= 1.01 * manifest.parameters


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True], ids=["logits", "attention"])
@pytest.mark.parametrize("batch", [1, None], ids=["batch-1", "dynamic"])
def test_every_way_to_export_gives_the_network_and_nothing_else(form, export_form, batch, attention):
    if attention and form.settings.get("gates") == "none":
        pytest.skip("has no attention")
    if attention == (batch is not None) and form not in [FORMS[name] for name in EVERY_RUN]:
        pytest.skip("one network of each family shows that the two do not depend on each other")
    exported = export_form(form, ".onnx", ExportSettings(batch, 18, attention))
    check_graph(exported)
    check_answers(exported)


@pytest.mark.slow
def test_every_form_exports_to_the_same_bytes_again(form, export_form, tmp_path):

    first, _, settings = export_form(form, ".onnx", BATCH_1)
    fresh = form_checkpoint(form)
    second = export_fp32(
        rewrite(fresh, ("batch-norm",)),
        tmp_path / "again.onnx",
        {"random": random_patches(fresh.spec, 1)},
        settings=settings,
    )
    assert second.manifest.sha256 == first.manifest.sha256


@pytest.mark.parametrize("opset", [pytest.param(11, marks=pytest.mark.slow), 99])
def test_an_opset_that_torch_cannot_write_is_refused_and_not_replaced(small_checkpoint, tmp_path, opset):
    checkpoint = checkpoints.load(small_checkpoint)
    with pytest.raises(UsageError, match=rf"opset {opset}(.|\n)*--opset 18"):
        export_fp32(
            rewrite(checkpoint, ()),
            tmp_path / "small.onnx",
            {"random": random_patches(checkpoint.spec, 1)},
            settings=ExportSettings(opset=opset),
        )
    assert list(tmp_path.iterdir()) == []
