"""A model on a Triton server: the same bits as on this host, another model never, and every fault with its words."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra triton is not installed")
pytest.importorskip("tritonclient", reason="the extra triton is not installed")

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.check import on_patches
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.triton import server as server_module
from medattn_edge.backends.triton.remote_model import RemoteModel, computing_sha256, write_remote_model
from medattn_edge.cli.device_text import device_text
from medattn_edge.errors import BackendError, HostError, IntegrityError, UsageError
from medattn_edge.exporters import random_patches
from medattn_edge.inference.dicom_results import algorithm_of
from medattn_edge.inference.sliding_window import slabs
from tests.support.certificates import make as make_certificates
from tests.support.networks import SMALL, with_other_weights
from tests.support.triton_server import TritonServer

HASH = "a" * 64
LOOPBACK = RemoteModel("127.0.0.1:8001", "net", HASH)


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
def patches():
    return random_patches(SMALL, 3, seed=4)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    """The waits are the same in number, and short."""
    monkeypatch.setattr(server_module, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(server_module, "_MAX_WAIT_S", 0.1)


def open_file(server: TritonServer, tmp_path: Path, **settings):
    return open_session(server.file(tmp_path / "net.triton", **settings))


def test_it_answers_with_the_bits_of_the_local_session(server, artifact, patches, tmp_path):
    with open_file(server, tmp_path) as remote, open_session(artifact, threads=1) as local:
        np.testing.assert_array_equal(remote.run(patches), local.run(patches))
        agreement = on_patches(local, remote, patches)
    assert (agreement.label_match, agreement.max_abs) == (1.0, 0.0)
    facts = remote.facts
    assert (facts["server"], facts["model"], facts["version"]) == (f"127.0.0.1:{server.port}", "net", "1")
    assert facts["model_sha256"] == sha256(artifact)
    assert facts["server_devices"] == ["CPU"]
    assert facts["encrypted"] is False


def test_it_can_be_opened_in_a_process_of_its_own(server, artifact, patches, tmp_path):
    with IsolatedSession(server.file(tmp_path / "net.triton")) as remote, open_session(artifact, threads=1) as local:
        np.testing.assert_array_equal(remote.run(patches), local.run(patches))


def test_a_reader_is_told_which_server_computed(server, tmp_path):
    with open_file(server, tmp_path) as session:
        expected = f"the server 127.0.0.1:{server.port}, version 1 of net in triton"
        assert device_text(session.facts) == expected


def test_threads_that_a_server_does_not_take_are_told(server, tmp_path):
    with open_session(server.file(tmp_path / "net.triton"), threads=2) as session:
        assert "not used" in session.facts["remarks"][0]


def test_what_dicom_names_is_the_model_and_not_the_small_file(server, artifact, tmp_path):
    file = server.file(tmp_path / "net.triton")
    assert algorithm_of(file, SMALL, {}) == algorithm_of(artifact, SMALL, {})
    assert computing_sha256(file) == sha256(artifact) != sha256(file)


def test_its_lineage_is_that_of_the_artifact_and_the_artifact(server, artifact, tmp_path):
    own, other = Artifact.read(artifact).manifest, Artifact.read(server.file(tmp_path / "net.triton")).manifest
    assert other.lineage == (*own.lineage, own.sha256)
    assert (other.spec, other.precision, other.gate) == (own.spec, own.precision, own.gate)


@pytest.mark.parametrize("found", ["b" * 64, ""], ids=["another", "none"])
def test_another_model_is_refused_when_it_is_opened(server, tmp_path, found):
    server.sha256 = found
    with pytest.raises(IntegrityError, match=r"SHA-256 b|no parameter") as refused:
        open_file(server, tmp_path)
    assert refused.value.exit_code == 5
    assert server.artifact.content_sha256[:16] in refused.value.expected


def test_a_model_that_was_exchanged_under_its_name_is_refused_with_the_next_run(server, patches, tmp_path):
    with open_file(server, tmp_path) as session:
        session.run(patches)
        server.sha256 = "b" * 64
        with pytest.raises(IntegrityError, match="net at 127"):
            session.run(patches)


def test_a_restart_between_two_runs_fails_none(artifact, patches, tmp_path):
    with TritonServer(artifact) as first:
        session = open_file(first, tmp_path, tries=60)
        expected = session.run(patches)
    answers: list[np.ndarray] = []
    with session:
        asking = threading.Thread(target=lambda: answers.append(session.run(patches)))
        asking.start()  # while no server is there
        time.sleep(0.3)
        assert answers == []
        with TritonServer(artifact, port=first.port):
            asking.join(30)
    np.testing.assert_array_equal(answers[0], expected)


def test_a_restart_with_another_model_is_refused(artifact, patches, tmp_path):
    other = with_other_weights(artifact, tmp_path / "other.onnx")
    with TritonServer(artifact) as first:
        session = open_file(first, tmp_path, tries=60)
        session.run(patches)
    with session, TritonServer(other, port=first.port), pytest.raises(IntegrityError):
        session.run(patches)


@pytest.mark.parametrize("depth", [1, 2])
def test_windows_travel_while_others_are_computed_and_the_logits_stay_the_same(server, artifact, tmp_path, depth):
    image = random_patches(SMALL, 1, seed=2)[0]
    image = np.concatenate([np.pad(image, ((0, 0), (0, 40), (0, 40)), "reflect")[:, None]] * 3, axis=1)
    server.delay_s = 0.02
    with open_file(server, tmp_path, in_flight=depth) as remote, open_session(artifact, threads=1) as local:
        found, expected = (
            np.concatenate([slab.logits for slab in slabs(one, image, 0.5, 2)], axis=1) for one in (remote, local)
        )
    np.testing.assert_array_equal(found, expected)
    assert server.most_at_once == depth


def test_a_server_that_goes_in_the_middle_of_a_scan_ends_it_with_an_error(server, tmp_path):
    image = np.zeros((1, 3, 72, 72), np.float32)
    with open_file(server, tmp_path, tries=1) as remote:
        stream = slabs(remote, image, 0.5, 1)
        server.refusals = [("INTERNAL", "the process of the model is dead")] * 9
        with pytest.raises(BackendError, match="INTERNAL"):
            list(stream)


def test_no_server_is_told_after_the_tries(artifact, tmp_path):
    with TritonServer(artifact) as gone:
        file = gone.file(tmp_path / "net.triton", tries=3)
    with pytest.raises(BackendError, match=r"UNAVAILABLE.*\(3 tries\)") as refused:
        open_session(file)
    assert "is tritonserver running" in refused.value.hint
    assert refused.value.exit_code == 6


@pytest.mark.parametrize(
    ("status", "details", "hint", "asked"),
    [
        ("INTERNAL", "Stub process 'net_0_0' is not healthy.", "restart the server", 1),
        ("INVALID_ARGUMENT", "unexpected shape for input 'image'", "serve the artifact that net was made from", 1),
        ("UNAVAILABLE", "Exceeds maximum queue size", "more instances", 3),
        ("RESOURCE_EXHAUSTED", "no memory", "server's log", 1),
    ],
)
def test_a_fault_of_the_server_is_told_with_what_to_do(server, patches, tmp_path, status, details, hint, asked):
    with open_file(server, tmp_path, tries=3) as session:
        server.refusals = [(status, details)] * 3
        with pytest.raises(BackendError) as refused:
            session.run(patches)
    assert status in refused.value.found
    assert details in refused.value.found
    assert hint in refused.value.hint
    assert refused.value.expected
    assert server.requests == asked


def test_a_queue_that_has_room_again_fails_no_run(server, patches, tmp_path):
    with open_file(server, tmp_path, tries=3) as session:
        server.refusals = [("UNAVAILABLE", "Exceeds maximum queue size")] * 2
        session.run(patches)
    assert server.requests == 3


def test_a_deadline_that_has_passed_is_told_and_not_tried_again(server, patches, tmp_path):
    with open_file(server, tmp_path, timeout_s=0.5) as session:
        server.delay_s = 1.0
        with pytest.raises(BackendError, match="DEADLINE_EXCEEDED") as refused:
            session.run(patches)
    assert "0.5 s" in refused.value.expected
    assert server.requests == 1


def test_a_model_that_is_not_served_is_told(server, tmp_path):
    with pytest.raises(BackendError, match=r"NOT_FOUND.*unknown model") as refused:
        open_file(server, tmp_path, model="nets")
    assert "version 1" in refused.value.expected


def empty(answer):
    answer.raw_output_contents[0] = b""


def other_type(answer):
    answer.outputs[0].datatype = "FP16"


def unnamed(answer):
    answer.outputs[0].name = "labels"


def other_shape(answer):
    answer.outputs[0].shape[1] += 1
    answer.raw_output_contents[0] = bytes(4 * int(np.prod(answer.outputs[0].shape)))


@pytest.mark.parametrize("change", [empty, other_type, unnamed, other_shape])
def test_an_answer_that_is_none_is_refused(server, patches, tmp_path, change):
    server.change = change
    with open_file(server, tmp_path) as session, pytest.raises(BackendError, match=r"answered") as refused:
        session.run(patches)
    assert change is other_shape or "numpy 1.26.4" in refused.value.hint


def test_another_version_that_answers_is_refused(server, patches, tmp_path):
    server.change = lambda answer: setattr(answer, "model_version", "2")
    with open_file(server, tmp_path) as session, pytest.raises(IntegrityError, match="version 2 of net"):
        session.run(patches)


def test_a_closed_session_says_so(server, patches, tmp_path):
    session = open_file(server, tmp_path)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(patches)


def test_no_proxy_of_the_environment_sees_an_image(server, patches, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with open_file(server, tmp_path, tries=1) as session:
        assert session.run(patches).shape[0] == 3


def test_tls_takes_the_right_authority_and_client_and_no_other(artifact, patches, tmp_path):
    pytest.importorskip("cryptography", reason="the extra release is not installed")
    made = make_certificates(tmp_path / "tls")
    read = tuple(path.read_bytes() for path in (made.server_key, made.server_cert, made.ca))
    mine = {"ca": "tls/ca.pem", "certificate": "tls/client.pem", "key": "tls/client.key", "tries": 2}
    with TritonServer(artifact, tls=read) as server:
        with open_file(server, tmp_path, **mine) as session:
            assert session.facts["encrypted"] is True
            assert session.run(patches).shape[0] == 3
        strangers = {**mine, "ca": "tls/stranger.pem"}, {**mine, "certificate": "", "key": ""}, {"tries": 2}
        for settings in strangers:
            with pytest.raises(BackendError, match="UNAVAILABLE"):
                open_file(server, tmp_path, **settings)
        with pytest.raises(HostError, match=r"none\.pem cannot be read"):
            open_file(server, tmp_path, **{**mine, "ca": "tls/none.pem"})


@pytest.mark.parametrize(
    "change",
    [
        {"address": "box"},
        {"address": "box:0"},
        {"address": "box:70000"},
        {"address": "http://box:8001"},
        {"address": "box:8001"},
        {"address": "10.0.0.1:8001"},
        {"address": "127.0.0.1.example.org:8001"},
        {"model": "../net"},
        {"model": ""},
        {"version": "0"},
        {"version": "latest"},
        {"sha256": HASH[:-1]},
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"tries": 0},
        {"tries": 101},
        {"certificate": "client.pem"},
        {"certificate": "client.pem", "key": "client.key"},
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_could(change):
    with pytest.raises(UsageError) as refused:
        replace(LOOPBACK, **change)
    assert refused.value.expected
    assert refused.value.hint


@pytest.mark.parametrize("change", [{"address": "[::1]:8001"}, {"address": "box:8001", "ca": "ca.pem"}])
def test_settings_of_a_server_here_or_with_tls_are_taken_and_come_back(change):
    remote = replace(LOOPBACK, **change)
    assert RemoteModel.from_json(json.loads(json.dumps(remote.to_json()))) == remote


def test_images_go_elsewhere_without_tls_only_when_that_is_said():
    assert replace(LOOPBACK, address="box:8001", unencrypted=True).address == "box:8001"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": None},
        {"adress": "x"},
        {"tries": True},
        {"tries": 2.5},
        {"address": None},
        {"unencrypted": 1},
        {"timeout_s": "60"},
        {"in_flight": 2.0},
        {"shared_memory": 1},
        {"shared_memory": True, "address": "box:8001", "unencrypted": True},
        {"in_flight": 0},
        {"in_flight": 9},
    ],
)
def test_a_field_of_another_kind_or_name_is_refused(change):
    with pytest.raises(UsageError):
        RemoteModel.from_json({**LOOPBACK.to_json(), **change})


def test_a_field_that_is_missing_is_named():
    values = LOOPBACK.to_json()
    del values["sha256"]
    with pytest.raises(UsageError, match="'sha256' is 'missing'"):
        RemoteModel.from_json(values)


def test_an_address_that_was_changed_by_hand_is_not_followed(server, tmp_path):
    file = server.file(tmp_path / "net.triton")
    file.write_text(file.read_text().replace("127.0.0.1", "localhost"))
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_session(file)


def test_a_file_is_written_for_its_artifact_under_its_suffix_or_not_at_all(artifact, tmp_path):
    read = Artifact.read(artifact)
    right = replace(LOOPBACK, sha256=read.content_sha256)
    for path, remote in ((tmp_path / "net.json", right), (tmp_path / "net.triton", LOOPBACK)):
        with pytest.raises(UsageError):
            write_remote_model(read, path, remote)
        assert not path.exists()
        assert not manifest_path(path).exists()
