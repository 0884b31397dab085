"""serve check: a server that only calls itself ready passes nothing; one that errs is told from one that computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("grpc", reason="the extra triton is not installed")
pytest.importorskip("tritonclient", reason="the extra triton is not installed")

from medattn_edge.agreement import IDENTICAL_DB
from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends.triton.remote_model import RemoteModel, write_remote_model
from medattn_edge.cli import app
from medattn_edge.errors import AgreementError, BackendError, IntegrityError, UsageError
from medattn_edge.serving import check_served, remote_files, write_repository
from medattn_edge.serving.canary import VOXELS, canary_of
from tests.support.networks import with_other_weights
from tests.support.triton_server import TritonServer


@pytest.fixture(scope="module")
def artifact(plain_artifact, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "net.onnx"
    path.write_bytes(plain_artifact.read_bytes())
    manifest_path(path).write_bytes(manifest_path(plain_artifact).read_bytes())
    return path


@pytest.fixture
def server(artifact):
    with TritonServer(artifact) as running:
        yield running


@pytest.fixture
def repository(server, artifact, tmp_path) -> Path:
    write_repository([artifact], tmp_path / "repository", address=f"127.0.0.1:{server.port}")
    return tmp_path / "repository"


def rewritten(file: Path, artifact: Path, **changed) -> Path:
    """The same NAME.triton with other fields, as a file of its own."""
    remote = replace(RemoteModel.read(file), **changed)
    return write_remote_model(Artifact.read(artifact), file.with_name("changed.triton"), remote).path


def asked(*words: object):
    return CliRunner().invoke(app, ["serve", "check", *map(str, words)], env={"COLUMNS": "200"})


def test_a_server_that_computes_the_model_passes_with_the_same_bits(repository, server, artifact):
    result = check_served(repository / "net.triton")
    assert (result.label_match, result.sqnr_db, result.identical) == (1.0, IDENTICAL_DB, True)
    assert (result.model, result.voxels, result.reference) == ("net", VOXELS, "net.triton")
    assert result.sha256 == Artifact.read(artifact).content_sha256
    assert server.requests == 1


def test_the_command_says_what_was_compared(repository):
    found = asked(repository)
    assert found.exit_code == 0
    assert "100.00% of 1024 labels equal, the same bits" in found.stdout


def test_json_has_each_model_and_one_verdict(repository):
    found = asked(repository, "--json")
    document = json.loads(found.stdout)
    assert (document["verdict"], document["models"][0]["verdict"]) == ("pass", "pass")
    assert document["models"][0]["file"] == str(repository / "net.triton")


def spoilt(values: np.ndarray, how: str) -> np.ndarray:
    return {"flipped": -values, "constant": np.zeros_like(values), "not a number": values * np.nan}[how]


@pytest.mark.parametrize("how", ["flipped", "constant", "not a number"])
def test_another_answer_fails_though_it_has_the_right_shape(repository, server, how):
    def change(answer):
        values = np.frombuffer(answer.raw_output_contents[0], np.float32)
        answer.raw_output_contents[0] = spoilt(values, how).astype(np.float32).tobytes()

    server.change = change
    with pytest.raises(AgreementError, match="gives another answer than"):
        check_served(repository / "net.triton")
    assert asked(repository).exit_code == 1


def test_an_answer_near_to_the_known_one_passes_with_its_distance(repository, server):
    def change(answer):
        values = np.frombuffer(answer.raw_output_contents[0], np.float32)
        answer.raw_output_contents[0] = (values * np.float32(1.001)).tobytes()

    server.change = change
    result = check_served(repository / "net.triton")
    assert (result.identical, result.label_match) == (False, 1.0)
    assert result.sqnr_db == pytest.approx(60.0, abs=0.5)
    assert "logits 60.0 dB" in asked(repository).stdout


def test_an_empty_answer_fails_as_numpy_2_gives_it(repository, server):
    def change(answer):
        answer.raw_output_contents[0] = b""

    server.change = change
    with pytest.raises(BackendError, match="in 0 bytes"):
        check_served(repository / "net.triton")


def test_an_answer_of_another_shape_fails(repository, server):
    def change(answer):
        answer.outputs[0].shape[:] = [2, 1, *answer.outputs[0].shape[2:]]

    server.change = change
    with pytest.raises(BackendError, match="answered with the shape"):
        check_served(repository / "net.triton")


def test_another_model_fails(repository, server):
    server.sha256 = "b" * 64
    assert asked(repository).exit_code == 5
    assert server.requests == 0


def test_a_server_that_is_gone_fails_at_once_with_what_to_do(artifact, tmp_path):
    with TritonServer(artifact) as gone:
        write_repository([artifact], tmp_path / "repository", address=f"127.0.0.1:{gone.port}")
    found = asked(tmp_path / "repository")
    assert found.exit_code == 6
    assert "UNAVAILABLE" in found.stderr
    assert "(1 try)" in found.stderr
    assert "is tritonserver running there" in found.stderr


def test_a_server_that_is_too_slow_fails(repository, server):
    server.delay_s = 1.0
    found = asked(repository, "--timeout", "0.2")
    assert found.exit_code == 6
    assert "DEADLINE_EXCEEDED" in found.stderr


def test_another_address_is_asked_where_the_file_names_none_of_here(repository, server, artifact):
    file = rewritten(repository / "net.triton", artifact, address="box:8001", unencrypted=True)
    assert asked(file, "--address", f"127.0.0.1:{server.port}", "--timeout", "5").exit_code == 0


def test_without_a_known_answer_nothing_is_said_to_be_right(repository, artifact):
    file = rewritten(repository / "net.triton", artifact, canary="")
    with pytest.raises(UsageError, match="keeps no answer") as refused:
        check_served(file)
    assert "--reference ARTIFACT" in refused.value.hint
    found = asked(file, "--reference", artifact)
    assert (found.exit_code, "as net.onnx" in found.stdout) == (0, True)


def test_a_reference_that_is_another_artifact_is_refused(repository, artifact, tmp_path):
    other = with_other_weights(artifact, tmp_path / "other.onnx")
    with pytest.raises(IntegrityError, match=r"other\.onnx has the SHA-256"):
        check_served(repository / "net.triton", reference=other)


@pytest.mark.parametrize("kept", ["no base64!", "AAAA", "AAAAAA=="], ids=["text", "3 bytes", "4 bytes"])
def test_a_kept_answer_that_is_none_is_told(repository, artifact, kept):
    file = rewritten(repository / "net.triton", artifact, canary=kept)
    with pytest.raises(BackendError, match="is none of 2 channels"):
        check_served(file)


def test_every_model_is_asked_though_the_first_fails(repository, server, artifact, tmp_path):
    rewritten(repository / "net.triton", artifact, model="another")
    found = asked(repository, "--json")
    verdicts = {Path(one["file"]).name: one["verdict"] for one in json.loads(found.stdout)["models"]}
    assert verdicts == {"changed.triton": "fail", "net.triton": "pass"}
    assert found.exit_code == 6
    refused = asked(repository, "--reference", artifact)
    assert isinstance(refused.exception, UsageError)
    assert "one --reference for 2 models" in refused.exception.message


def test_a_path_without_a_served_model_is_refused(tmp_path, artifact):
    for path in (tmp_path, artifact, tmp_path / "gone.triton"):
        with pytest.raises(UsageError, match="has none at its top"):
            remote_files(path)


def test_what_cannot_run_here_is_written_with_the_reason(artifact, tmp_path):
    engine = tmp_path / "net.engine"
    engine.write_bytes(artifact.read_bytes())
    manifest_path(engine).write_bytes(manifest_path(artifact).read_bytes())
    [served] = write_repository([engine], tmp_path / "repository")
    assert served.no_canary
    assert RemoteModel.read(served.file).canary == ""
    found = CliRunner().invoke(app, ["serve", "write", str(engine), "-o", str(tmp_path / "again")])
    assert (found.exit_code, "keeps no answer for `serve check`" in found.stderr) == (0, True)


def test_a_canary_is_the_same_each_time(artifact):
    assert canary_of(artifact) == canary_of(artifact)
