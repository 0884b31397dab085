"""A node serves releases: whole ones, signed by whom it trusts, and no older one than it has served."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")
pytest.importorskip("cryptography", reason="the extra release is not installed")

from medattn_edge.artifact import Artifact
from medattn_edge.errors import IntegrityError, MedattnError, UsageError
from medattn_edge.release import generate_key, load_private_key, sign_release, verify, write_release
from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.config.node_config import Model, NodeConfig
from medattn_edge.scanner.config.released import releases_of
from medattn_edge.scanner.store.served import record_served
from medattn_edge.scanner.work.segmenting import Segmenter
from tests.support.node_files import plain, write
from tests.support.releases import signed_release
from tests.support.running_node import RunningNode, command


def load(folder: Path, artifact: str, *, trusted: str = "KEY.pub", **more: Any) -> NodeConfig:
    """A node whose one model is `artifact`; more: of [releases], or of the model."""
    sections = plain(folder)
    model = {key: more.pop(key) for key in ("sha256", "release_sha256") if key in more}
    sections["model"] = [{"name": "lungs", "artifact": artifact, **model}]
    if trusted:
        sections["releases"] = {"trusted_keys": trusted, **more}
    (folder / "root").mkdir(mode=0o700, exist_ok=True)
    return load_config(write(folder, sections))


@pytest.mark.parametrize("output", ["release", "release.zip"])
def test_a_signed_release_is_pinned_by_its_manifest(tmp_path, output):
    path, _ = signed_release(tmp_path, output)
    config = load(tmp_path, output)
    [model] = config.models
    assert model.release_sha256 == verify(path).manifest_sha256
    assert model.sha256 == Artifact.read(tmp_path / "net.xml").content_sha256
    assert releases_of(config)["lungs"].signer is not None
    assert load(tmp_path, f"{output}#net.onnx").models[0].sha256 == Artifact.read(tmp_path / "net.onnx").content_sha256
    (tmp_path / "node.toml").write_text(config.dump(), encoding="utf-8")
    assert load_config(tmp_path / "node.toml") == config


def test_what_is_not_signed_by_a_trusted_key_is_refused(tmp_path):
    path, _ = signed_release(tmp_path)
    generate_key(tmp_path / "stranger")
    with pytest.raises(IntegrityError, match="no signature of this release by a trusted key"):
        load(tmp_path, "release", trusted="stranger.pub")
    with pytest.raises(IntegrityError, match="an artifact by itself"):
        load(tmp_path, "net.onnx")
    (path / "release.sig").unlink()
    with pytest.raises(IntegrityError, match="is not signed"):
        load(tmp_path, "release")
    # Where signatures are not required, what is signed must still be signed by somebody who is trusted.
    assert load(tmp_path, "release", require_signed=False).models[0].release_sha256
    assert load(tmp_path, "net.onnx", require_signed=False).models[0].release_sha256 == ""
    sign_release(path, load_private_key(tmp_path / "stranger"))
    with pytest.raises(IntegrityError, match="no signature"):
        load(tmp_path, "release", require_signed=False)
    assert load(tmp_path, "release", trusted="").models[0].release_sha256


def test_a_changed_release_is_refused_with_and_without_keys(tmp_path):
    path, _ = signed_release(tmp_path)
    (path / "net.bin").write_bytes(b"swapped")
    for trusted in ("KEY.pub", ""):
        with pytest.raises(IntegrityError, match=r"net\.bin") as raised:
            load(tmp_path, "release", trusted=trusted)
        assert "node.toml" in raised.value.found


def test_an_older_version_than_was_served_is_refused(tmp_path):
    signed_release(tmp_path, "one", version=1)
    signed_release(tmp_path, "two", version=2)
    signed_release(tmp_path, "other", version=1, name="liver")
    config = load(tmp_path, "one")
    record_served(config.root, releases_of(config).values())
    config = load(tmp_path, "two")
    assert load(tmp_path, "one").models  # what was only looked at was not served
    record_served(config.root, releases_of(config).values())
    with pytest.raises(IntegrityError, match="lungs 1 is older than lungs 2, which this node has served") as raised:
        load(tmp_path, "one")
    assert "--release-version 3" in raised.value.hint
    assert load(tmp_path, "two").models
    assert load(tmp_path, "other").models
    shutil.rmtree(tmp_path / "two")
    signed_release(tmp_path, "two", version=2, default="net.onnx")
    with pytest.raises(IntegrityError, match="other contents than the one of this version"):
        load(tmp_path, "two")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2, "releases": {}}', '{"schema": 1, "releases": {"a": 3}}']
)
def test_a_record_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path, text):
    signed_release(tmp_path)
    load(tmp_path, "release")
    (tmp_path / "root" / "releases.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"releases\.json cannot be read"):
        load(tmp_path, "release")


def test_two_versions_of_one_release_are_refused_at_once(tmp_path):
    signed_release(tmp_path, "one", version=1)
    signed_release(tmp_path, "two", version=2)
    sections = plain(tmp_path)
    sections["model"] = [{"name": name, "artifact": name} for name in ("one", "two")]
    with pytest.raises(UsageError, match="another model has lungs 1"):
        load_config(write(tmp_path, sections))


@pytest.mark.parametrize(
    ("artifact", "more", "told"),
    [
        ("release", {"trusted": "KEY"}, "private key"),
        ("release", {"trusted": "nothing.pub"}, "cannot be read"),
        ("release#other.onnx", {}, "holds no artifact 'other.onnx'"),
        ("release#net.pt2", {}, "a program"),
        ("nothing#net.onnx", {"require_signed": False}, "does not exist"),
        ("release", {"release_sha256": "0" * 64}, "release_sha256 is 0000"),
        ("net.onnx", {"release_sha256": "0" * 64, "require_signed": False}, "no release"),
        ("release", {"sha256": "0" * 64}, "sha256 is 0000"),
    ],
)
def test_a_configuration_that_cannot_work_says_where(tmp_path, artifact, more, told):
    signed_release(tmp_path)
    with pytest.raises(MedattnError, match=told) as raised:
        load(tmp_path, artifact, **more)
    assert raised.value.exit_code in (2, 5)
    assert "node.toml" in raised.value.found
    assert raised.value.hint


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Versions 1 and 2 of a release of a network that runs, signed."""
    folder = tmp_path_factory.mktemp("served")
    generate_key(folder / "KEY", "A Team")
    for version, name in ((1, "one"), (2, "two")):
        write_release([model], folder / name, name="lungs", version=version)
        sign_release(folder / name, load_private_key(folder / "KEY"))
    return folder


def test_a_worker_opens_only_the_release_that_was_pinned(served, tmp_path):
    pin = verify(served / "one").manifest_sha256
    with Segmenter([Model("lungs", served / "one", release_sha256=pin, threads=1)]) as opened:
        assert opened.canaries(tmp_path)
    with pytest.raises(IntegrityError, match="as when it was read first"):
        Segmenter([Model("lungs", served / "two", release_sha256=pin, threads=1)])
    bare = shutil.copytree(served / "one", tmp_path / "bare")
    (bare / "release.json").unlink()
    with pytest.raises(MedattnError):
        Segmenter([Model("lungs", bare, release_sha256=pin, threads=1)])


def test_check_says_who_signed(served, tmp_path):
    sections = {**plain(tmp_path), "model": [{"name": "lungs", "artifact": served / "one", "threads": 1}]}
    sections["destination"] = [{"name": "shelf", "folder": "."}]
    sections["releases"] = {"trusted_keys": served / "KEY.pub"}
    config = write(tmp_path, sections)
    done = command("node", "check", "--config", config, "--json")
    assert done.returncode == 0, done.stdout
    first = json.loads(done.stdout)["checks"][0]
    assert (first["ok"], first["release"], first["signer"]) == (True, "lungs 1", "A Team")
    assert not (tmp_path / "root" / "releases.json").exists()


def test_a_node_remembers_what_it_serves_and_takes_no_older_one_when_it_reads_its_file_again(served, tmp_path):
    more = {"releases": {"trusted_keys": served / "KEY.pub"}, "destination": [{"name": "shelf", "folder": "."}]}
    with RunningNode(tmp_path, served / "two", more) as node:
        record = json.loads((node.root / "releases.json").read_text())
        assert record["releases"]["lungs"]["version"] == 2
        node.configure(model=[{"name": "lungs", "artifact": served / "one", "threads": 1}])
        node.signal(signal.SIGHUP)
        node.wait(lambda: node.events("reload_refused"), "the refusal")
        assert [event["release_sha256"] for event in node.events("release")] == [verify(served / "two").manifest_sha256]
        assert node.end() == 0
    done = command("node", "--config", node.config)
    assert done.returncode == 5
    assert "older than lungs 2" in done.stderr
