"""Models that are swapped, damaged, or lead elsewhere: what is opened is what was named, whole, and hashed."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("pydicom", reason="the extra node is not installed")

from medattn_edge.artifact import Artifact, Manifest, manifest_path, sha256  # noqa: E402
from medattn_edge.errors import IntegrityError, UsageError  # noqa: E402
from medattn_edge.onnx_external import external_files  # noqa: E402
from medattn_edge.scanner.config.load import load_config  # noqa: E402
from medattn_edge.scanner.work.segmenting import Segmenter  # noqa: E402
from tests.support.node_files import make_artifact, plain, write  # noqa: E402

NOT_SAID = object()


def with_manifest(path: Path, companions: dict[str, str] | None = None) -> Path:
    """The manifest of `make_artifact`, for a file that is there."""
    data = path.read_bytes()
    make_artifact(path)
    path.write_bytes(data)
    values = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**values, "sha256": sha256(path), "companions": companions or {}}))
    return path


def change(path: Path, **values: Any) -> None:
    """Of the manifest; a value of NOT_SAID is left out."""
    found = {**json.loads(manifest_path(path).read_text()), **values}
    manifest_path(path).write_text(json.dumps({key: value for key, value in found.items() if value is not NOT_SAID}))


# Manifests


@pytest.mark.parametrize("schema", [-7, 0, True, 1.0, "1", None, NOT_SAID, 1 << 80])
def test_a_manifest_of_no_schema_that_ever_was_is_damage(tmp_path, schema):
    path = make_artifact(tmp_path / "net.onnx")
    change(path, schema=schema)
    with pytest.raises(IntegrityError):
        Artifact.read(path)


@pytest.mark.parametrize("patch", [[math.nan, 32], [1e14, 32], [10**14, 32], [1 << 20, 1 << 20], [True, 32], [[], 32]])
def test_patches_that_no_memory_holds_are_damage(tmp_path, patch):
    path = make_artifact(tmp_path / "net.onnx")
    spec = json.loads(manifest_path(path).read_text())["spec"]
    change(path, spec={**spec, "patch": patch})
    with pytest.raises(IntegrityError):
        Artifact.read(path)


@pytest.mark.parametrize("gflop", [math.nan, math.inf, -1.0])
def test_numbers_that_are_none_are_damage(tmp_path, gflop):
    path = make_artifact(tmp_path / "net.onnx")
    change(path, gflop=gflop)
    with pytest.raises(IntegrityError):
        Artifact.read(path)


@pytest.mark.parametrize("inside", ["sha256", "in_channels"])
def test_a_key_that_stands_twice_is_damage(tmp_path, inside):
    path = make_artifact(tmp_path / "net.onnx")
    text = manifest_path(path).read_text()
    manifest_path(path).write_text(text.replace(f'"{inside}":', f'"{inside}": 1, "{inside}":', 1))
    with pytest.raises(IntegrityError, match="twice"):
        Artifact.read(path)


def test_whatever_one_value_of_a_manifest_becomes_it_is_read_or_it_is_damage(tmp_path):
    path = make_artifact(tmp_path / "net.onnx")
    text = manifest_path(path).read_text()
    values = json.loads(text)
    changed = [(values, key) for key in values] + [(values["spec"], key) for key in values["spec"]]
    assert len(changed) > 30
    for where, key in changed:
        before = where[key]
        for other in (None, True, -1, 1e300, "", "x", [], [None], {}, {"a": None}):
            where[key] = other
            manifest_path(path).write_text(json.dumps(values))
            with suppress(IntegrityError):
                assert isinstance(Artifact.read(path).manifest, Manifest)
        where[key] = before


# Weights elsewhere


def network(path: Path, location: str | None, place: str = "initializer") -> Path:
    """A graph that adds a tensor, which is inside the file or at `location`."""
    weights = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    if location is not None:
        onnx.external_data_helper.set_external_data(weights, location, 0, 64)
        weights.ClearField("raw_data")
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 4])]
    nodes = [onnx.helper.make_node("Add", ["x", "w"], ["y"])]
    if place == "constant":
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weights))
    inner = onnx.helper.make_graph(nodes, "g", inputs, outputs, [weights] if place == "initializer" else [])
    if place == "branch":
        body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["z"])], "b", [], outputs, [weights])
        inner = onnx.helper.make_graph(
            [onnx.helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)], "g", inputs, outputs
        )
    path.write_bytes(onnx.helper.make_model(inner).SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["weights.data", "../weights.data", "/etc/passwd", "", "net.onnx.data"])
def test_weights_in_a_file_without_a_hash_are_refused_wherever_they_stand(tmp_path, location, place):
    path = with_manifest(network(tmp_path / "net.onnx", location, place))
    assert external_files(path) == {location}
    with pytest.raises(IntegrityError, match="weights in another file"):
        Artifact.read(path)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_inside_the_file_are_no_weights_elsewhere(tmp_path, place):
    path = with_manifest(network(tmp_path / "net.onnx", None, place))
    assert external_files(path) == frozenset()
    assert Artifact.read(path).content_sha256 == sha256(path)


def test_weights_in_a_hashed_companion_are_read_and_changed_ones_are_not(tmp_path):
    path = network(tmp_path / "net.onnx", "net.data")
    (tmp_path / "net.data").write_bytes(np.ones(16, np.float32).tobytes())
    with_manifest(path, {".data": sha256(tmp_path / "net.data")})
    before = Artifact.read(path).content_sha256
    (tmp_path / "net.data").write_bytes((-np.ones(16, np.float32)).tobytes())
    with pytest.raises(IntegrityError, match=r"net\.data has the SHA-256"):
        Artifact.read(path)
    with_manifest(path, {".data": sha256(tmp_path / "net.data")})
    assert Artifact.read(path).content_sha256 != before


def test_no_bytes_at_all_make_the_reader_of_onnx_files_fail(tmp_path):
    path = network(tmp_path / "net.onnx", "../weights.data")
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(500):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] = random.integers(0, 256)
        path.write_bytes(bytes(data[: random.integers(0, len(data) + 1)]))
        assert all(isinstance(one, str) for one in external_files(path))


# The node


def configured(folder: Path, **model: Any) -> Path:
    sections = plain(folder)
    sections["model"] = [{**sections["model"][0], **model}]
    return write(folder, sections)


def test_a_node_pins_the_hash_of_each_model_and_opens_no_other(tmp_path):
    config = load_config(configured(tmp_path))
    assert [model.sha256 for model in config.models] == [sha256(tmp_path / "net.onnx")]
    assert f'sha256 = "{sha256(tmp_path / "net.onnx")}"' in config.dump()
    (tmp_path / "net.onnx").write_bytes(b"another one, as whole as the first")
    with_manifest(tmp_path / "net.onnx")
    with pytest.raises(IntegrityError, match="has the hash"):
        Segmenter(config.models)


def test_a_node_whose_configuration_names_another_hash_does_not_start(tmp_path):
    path = configured(tmp_path, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="lungs: sha256 is 0000") as raised:
        load_config(path)
    assert sha256(tmp_path / "net.onnx") in raised.value.hint
    assert load_config(configured(tmp_path, sha256=sha256(tmp_path / "net.onnx").upper()))


@pytest.mark.parametrize("suffix", [".torchscript", ".ts", ".pt2"])
def test_a_node_takes_no_program_for_a_model(tmp_path, suffix):
    make_artifact(tmp_path / f"net{suffix}")
    with pytest.raises(UsageError, match="a program"):
        load_config(configured(tmp_path, artifact=f"net{suffix}"))
