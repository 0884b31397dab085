"""node check: real workers and real archives, and what it says when one of them does not work."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")

from medattn_edge.artifact import manifest_path
from medattn_edge.reasons import DELIVERY_REASONS, WORKER_REASONS
from medattn_edge.scanner.check import check_node
from medattn_edge.scanner.config.node_config import (
    CommitmentPeer,
    Destination,
    NodeConfig,
    Receive,
    StorageCommitment,
)
from medattn_edge.scanner.observe.log import Log
from tests.support.commitment_peer import CommitmentScu
from tests.support.dicom_peers import free_port
from tests.support.node_files import write
from tests.support.running_node import command
from tests.support.web_archive import WebArchive


def configured(folder: Path, model: Path, destinations: list[dict[str, Any]]) -> Path:
    return write(
        folder,
        {
            "node": {"root": "root"},
            "watch": {"folder": "incoming"},
            "model": [{"name": "lungs", "artifact": model, "threads": 1}],
            "destination": destinations,
            "limits": {"start_timeout_s": 60.0},
        },
    )


@pytest.mark.parametrize(
    ("changes", "peers"),
    [
        ({}, [("commitment_peer", "CT1", True, "", 0)]),
        ({"storage_commitment": StorageCommitment()}, []),
        ({"receive": None}, []),
        ({"commitment_peers": ()}, []),
    ],
)
def test_destinations_and_peers_are_tried_in_order_and_nothing_is_sent(tmp_path, changes, peers):
    with CommitmentScu("CT1") as scu:
        config = NodeConfig(
            tmp_path / "root",
            (),
            (Destination("shelf", folder=tmp_path), Destination("gone", folder=tmp_path / "gone")),
            receive=Receive(("CT1",)),
            storage_commitment=StorageCommitment(enabled=True),
            commitment_peers=(CommitmentPeer(**scu.peer),),
        )
        found = list(check_node(replace(config, **changes), Log(io.StringIO())))
        assert scu.answers == []
    assert [(one.kind, one.name, one.ok, one.reason, one.exit_code) for one in found] == [
        ("destination", "shelf", True, "", 0),
        ("destination", "gone", False, "folder_missing", 3),
        *peers,
    ]
    missing = DELIVERY_REASONS["folder_missing"]
    assert (found[1].meaning, found[1].action) == (missing.meaning, missing.action)
    assert (found[0].meaning, found[0].action, found[0].notes) == ("", "", ())
    for one in found:
        assert 0 <= one.seconds == round(one.seconds, 3) < 60
        assert one.to_json() == {**one.to_json(), "kind": one.kind, "release": "", "signer": "", "notes": ()}


def test_an_archive_of_dicomweb_is_asked_for_what_nobody_has(tmp_path):
    pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
    with WebArchive() as archive:
        web = Destination("web", dicomweb=archive.url, timeout_s=2)
        config = NodeConfig(tmp_path / "root", (), (web, replace(web, name="gone", dicomweb="http://127.0.0.1:9/x")))
        found = list(check_node(config, Log(io.StringIO())))
        assert archive.stored == []
        assert [path for _, path, _ in archive.requests if "2.25.0" not in path] == []
    assert [(one.name, one.ok, one.reason, one.exit_code) for one in found] == [
        ("web", True, "", 0),
        ("gone", False, "no_connection", 3),
    ]


def test_a_peer_that_does_not_take_the_role_of_the_node_is_told(tmp_path):
    with CommitmentScu("CT1", roles=False) as scu:
        config = NodeConfig(
            *(tmp_path / "root", (), ()),
            receive=Receive(("CT1",)),
            storage_commitment=StorageCommitment(enabled=True),
            commitment_peers=(CommitmentPeer(**scu.peer),),
        )
        [found] = check_node(config, Log(io.StringIO()))
    assert (found.ok, found.reason, found.exit_code) == (False, "commitment_not_accepted", 3)


def test_what_works_is_a_line_each_and_nothing_stays_behind(tmp_path, model, archive):
    (tmp_path / "results").mkdir()
    folder = {"name": "shelf", "folder": "results"}
    config = configured(tmp_path, model, [folder, archive.destination])
    done = command("node", "check", "--config", config)
    assert done.returncode == 0, done.stderr
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        "model lungs: ok",
        "destination shelf: ok",
        "destination pacs: ok",
    ]
    assert "lungs: fp32, and carries no gate; the canary is noise" in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.toml", "results"]
    assert (list((tmp_path / "results").iterdir()), archive.segs) == ([], [])


def test_what_does_not_work_says_why_and_what_to_do_and_the_rest_is_tried_too(tmp_path, model):
    down = {"name": "pacs", "host": "127.0.0.1", "port": free_port(), "ae_title": "ARCHIVE", "timeout_s": 2.0}
    config = configured(tmp_path, model, [down, {"name": "shelf", "folder": "gone"}])
    done = command("node", "check", "--config", config, "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert [(one["kind"], one["name"], one["reason"]) for one in document["checks"]] == [
        ("model", "lungs", ""),
        ("destination", "pacs", "no_connection"),
        ("destination", "shelf", "folder_missing"),
    ]
    told = command("node", "check", "--config", config).stdout
    assert "Nobody answers at its address. See whether the archive and the network are up." in told
    assert "Its folder is not there. Mount or make the folder." in told


def test_a_canary_with_another_answer_is_a_model_that_does_not_work(tmp_path, model, archive):
    config = configured(tmp_path, model, [archive.destination])
    (tmp_path / "root").mkdir(mode=0o700)
    assert command("node", "check", "--config", config).returncode == 0
    record = tmp_path / "root" / "canary.json"
    [key] = json.loads(record.read_text())
    record.write_text(json.dumps({key: "0" * 64}))
    done = command("node", "check", "--config", config, "--json")
    assert done.returncode == 6
    first, second = json.loads(done.stdout)["checks"]
    assert (first["reason"], second["ok"]) == ("canary_changed", True)
    assert str(tmp_path) in first["meaning"]
    assert first["action"] == WORKER_REASONS["canary_changed"].action


def test_a_model_whose_own_figures_do_not_hold_its_gate_does_not_work(tmp_path, model):
    """The manifest was changed to ask for more than the file reached when it was made."""
    copy = tmp_path / "int8.onnx"
    shutil.copy(model, copy)
    manifest = json.loads(manifest_path(model).read_text())
    names = manifest["spec"]["labels"][1:]
    case = {"thresholds": {"min_dice": 0.99}, "dice": dict.fromkeys(names, 0.995)}
    config = configured(tmp_path, copy, [{"name": "shelf", "folder": "shelf"}])
    (tmp_path / "shelf").mkdir()
    for limit, code in ((0.99, 0), (0.999, 6)):
        gate = {"min_dice": limit, "labels": names}
        changed = {**manifest, "precision": "int8", "agreement": [case], "gate": gate}
        manifest_path(copy).write_text(json.dumps(changed))
        done = command("node", "check", "--config", config, "--json")
        assert done.returncode == code, done.stdout
        first = json.loads(done.stdout)["checks"][0]
        if code:
            assert (first["reason"], first["action"]) == ("gate_not_held", WORKER_REASONS["gate_not_held"].action)
            assert "is 0.995, below 0.999" in first["meaning"]
        else:
            [note] = first["notes"]
            assert note.startswith("gate: Dice with the reference at least 0.99; held by the manifest's figures")


def test_an_artifact_that_was_changed_is_told_before_anything_is_tried(tmp_path, model):
    changed = tmp_path / "changed.onnx"
    shutil.copy(manifest_path(model), manifest_path(changed))
    changed.write_bytes(model.read_bytes() + b"\0")
    done = command("node", "check", "--config", configured(tmp_path, changed, [{"name": "shelf", "folder": "r"}]))
    assert (done.returncode, done.stdout) == (5, "")
