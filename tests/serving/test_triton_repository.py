"""Triton's repository: whole or not at all, in configurations that its own protobuf reads, for the artifact alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("grpc", reason="the extra triton is not installed")
pytest.importorskip("tritonclient", reason="the extra triton is not installed")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.triton.remote_model import RemoteModel
from medattn_edge.backends.triton.server import SHA256_PARAMETER
from medattn_edge.cli import app
from medattn_edge.errors import HostError, IntegrityError, OutputError, UsageError
from medattn_edge.exporters import random_patches
from medattn_edge.serving import NativeSettings, write_repository
from medattn_edge.serving.python_model import TritonPythonModel, check_numpy
from tests.support.networks import SMALL, export_checkpoint, random_checkpoint, with_other_weights
from tests.support.triton_server import TritonServer


@pytest.fixture(scope="module")
def artifact(plain_artifact, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "net.onnx"
    path.write_bytes(plain_artifact.read_bytes())
    manifest_path(path).write_bytes(manifest_path(plain_artifact).read_bytes())
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fixed") / "net.onnx"
    export_checkpoint(random_checkpoint(balanced=True), path, batch=2)
    return path


def renamed(artifact: Path, path: Path) -> Path:
    """Another kind of file by its suffix alone: only its manifest is read."""
    path.write_bytes(artifact.read_bytes())
    manifest_path(path).write_bytes(manifest_path(artifact).read_bytes())
    return path


def config_of(repository: Path):
    text = (repository / "net" / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_it_has_the_artifact_the_model_and_a_file_that_names_it(artifact, tmp_path):
    [served] = write_repository([artifact], tmp_path / "repository")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    inside = {"net/config.pbtxt", "net/1/model.py", "net/1/net.onnx", "net/1/net.onnx.json", "net.triton"}
    assert found == {f"repository/{name}" for name in (*inside, "net.triton.json")}
    assert (served.name, served.backend, served.file) == ("net", "python", tmp_path / "repository" / "net.triton")
    remote = RemoteModel.read(served.file)
    assert (remote.address, remote.model, remote.sha256) == ("127.0.0.1:8001", "net", sha256(artifact))
    assert Artifact.read(served.file).spec == SMALL


def test_the_configuration_has_the_tensors_and_the_hash(artifact, tmp_path):
    write_repository([artifact], tmp_path / "repository", instances=2, threads=3)
    config = config_of(tmp_path / "repository")
    assert (config.name, config.backend, config.max_batch_size) == ("net", "python", 0)
    assert [(one.name, list(one.dims)) for one in config.input] == [("image", [-1, 1, 32, 32])]
    assert [(one.name, list(one.dims)) for one in config.output] == [("logits", [-1, 2, 32, 32])]
    assert config.instance_group[0].count == 2
    values = {name: one.string_value for name, one in config.parameters.items()}
    assert values == {
        SHA256_PARAMETER: sha256(artifact),
        "medattn_edge_artifact": "net.onnx",
        "medattn_edge_threads": "3",
        "medattn_edge_shared_cores": "yes",
    }
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("suffix", "backend", "threads"),
    [
        (".onnx", "onnxruntime", "intra_op_thread_count"),
        (".xml", "openvino", "INFERENCE_NUM_THREADS"),
        (".engine", "tensorrt", ""),
    ],
)
def test_a_native_configuration_opens_the_file_by_its_name(artifact, tmp_path, suffix, backend, threads):
    file = renamed(artifact, tmp_path / f"net{suffix}")
    settings = NativeSettings(max_batch=8, delay_ms=1.5)
    write_repository([file], tmp_path / "repository", native=settings, threads=2 if threads else 0)
    config = config_of(tmp_path / "repository")
    assert (config.backend, config.default_model_filename, config.max_batch_size) == (backend, f"net{suffix}", 8)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert [list(one.dims) for one in (*config.input, *config.output)] == [[1, 32, 32], [2, 32, 32]]
    assert config.parameters[SHA256_PARAMETER].string_value == sha256(artifact)
    assert {name for name in config.parameters if name != SHA256_PARAMETER} == ({threads} if threads else set())
    assert not (tmp_path / "repository" / "net" / "1" / "model.py").exists()
    assert RemoteModel.read(tmp_path / "repository" / "net.triton").max_batch == 8


def test_no_request_has_more_patches_than_the_server_puts_together(artifact, tmp_path):
    patches = random_patches(SMALL, 5, seed=1)
    with TritonServer(artifact) as server, open_session(artifact, threads=1) as local:
        with open_session(server.file(tmp_path / "net.triton", max_batch=2)) as session:
            np.testing.assert_allclose(session.run(patches), local.run(patches), rtol=1e-5, atol=1e-5)
        assert server.requests == 3


def test_the_python_model_does_not_start_on_numpy_2(artifact, tmp_path):
    write_repository([artifact], tmp_path / "repository", threads=1)
    with pytest.raises(HostError, match="numpy 2") as refused:  # which this package is tested with
        TritonPythonModel().initialize(model_arguments(tmp_path / "repository"))
    assert refused.value.hint == "pip install numpy==1.26.4"


def model_arguments(repository: Path) -> dict[str, str]:
    """What the Python backend gives to `initialize`."""
    config = config_of(repository)
    parameters = {name: {"string_value": one.string_value} for name, one in config.parameters.items()}
    return {
        "model_config": json.dumps({"parameters": parameters}),
        "model_repository": str(repository / "net"),
        "model_version": "1",
    }


@pytest.mark.parametrize(("version", "refused"), [("1.26.4", False), ("2.0.0", True), ("2.4.6", True), ("10.1", True)])
def test_numpy_2_is_refused_before_anything_is_opened(version, refused):
    if not refused:
        check_numpy(version)
        return
    with pytest.raises(HostError, match="would be empty"):
        check_numpy(version)


def test_another_artifact_in_the_place_of_the_one_is_refused(artifact, tmp_path):
    from medattn_edge.serving.python_model import check_content

    other = with_other_weights(artifact, tmp_path / "net.onnx")
    check_content(artifact, sha256(artifact))
    with pytest.raises(IntegrityError, match=r"net\.onnx has the SHA-256"):
        check_content(other, sha256(artifact))


def refusals(artifact: Path, fixed: Path, folder: Path) -> dict[str, tuple[list[Path], dict]]:
    ir, served = renamed(artifact, folder / "net.xml"), renamed(artifact, folder / "other.triton")
    blob = renamed(artifact, folder / "one.blob")
    return {
        "none": ([], {}),
        "two of one name": ([artifact, ir], {}),
        "served already": ([served], {}),
        "no native backend": ([blob], {"native": NativeSettings()}),
        "a delay alone": ([artifact], {"native": NativeSettings(delay_ms=1.0)}),
        "a batch of a fixed one": ([fixed], {"native": NativeSettings(max_batch=4)}),
        "no instance": ([artifact], {"instances": 0}),
        "threads below 0": ([artifact], {"threads": -1}),
        "an address that is none": ([artifact], {"address": "box"}),
        "elsewhere without TLS": ([artifact], {"address": "box:8001"}),
        "threads of a GPU": ([renamed(artifact, folder / "e.engine")], {"native": NativeSettings(), "threads": 1}),
    }


def test_what_cannot_be_served_leaves_nothing_behind(artifact, fixed, tmp_path):
    output = tmp_path / "out" / "repository"
    output.parent.mkdir()
    for name, (paths, settings) in refusals(artifact, fixed, tmp_path).items():
        with pytest.raises(UsageError) as refused:
            write_repository(paths, output, **settings)
        assert refused.value.expected, name
        assert refused.value.hint, name
        assert list(output.parent.iterdir()) == [], name


def test_a_damaged_artifact_leaves_nothing_behind(artifact, tmp_path):
    damaged = renamed(artifact, tmp_path / "net.onnx")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        write_repository(
            [artifact.with_name("net.onnx"), damaged.rename(tmp_path / "two.onnx")], tmp_path / "repository"
        )
    assert not (tmp_path / "repository").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_repository_is_never_changed(artifact, tmp_path):
    write_repository([artifact], tmp_path / "repository")
    before = (tmp_path / "repository" / "net" / "config.pbtxt").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_repository([artifact], tmp_path / "repository", instances=2)
    assert (tmp_path / "repository" / "net" / "config.pbtxt").read_bytes() == before
    with pytest.raises(OutputError):
        write_repository([artifact], tmp_path / "nowhere" / "repository")


def test_the_command_writes_it_and_says_how_to_start_a_server_that_listens_to_this_host(artifact, tmp_path):
    done = CliRunner().invoke(app, ["serve", "write", str(artifact), "-o", str(tmp_path / "repository")])
    assert done.exit_code == 0, done.output
    assert "net.triton" in done.output
    assert "--grpc-address=127.0.0.1" in done.output.replace("\n", " ")
    assert "numpy 1.26" in done.output
    assert (tmp_path / "repository" / "net.triton").is_file()


def test_the_command_prints_one_json_document(artifact, tmp_path):
    words = ["serve", "write", str(artifact), "-o", str(tmp_path / "repository"), "--engine", "native", "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["models"][0]["backend"] == "onnxruntime"


def test_the_command_refuses_batches_of_the_python_backend(artifact, tmp_path):
    words = ["serve", "write", str(artifact), "-o", str(tmp_path / "repository"), "--max-batch", "4"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, UsageError)
    assert not (tmp_path / "repository").exists()
