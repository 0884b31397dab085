"""What a configuration may say, how a wrong one is told, and that writing and reading one are inverses."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.newer_python import tomllib

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medattn_edge.artifact import sha256
from medattn_edge.errors import IntegrityError, MedattnError, UsageError
from medattn_edge.release import generate_key
from medattn_edge.scanner.config.example import example
from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.config.node_config import (
    Destination,
    Limits,
    Model,
    NodeConfig,
    Receive,
    Releases,
    Status,
    Tls,
    Watch,
    reloadable,
)
from medattn_edge.scanner.config.sections import RENAMED_KEYS, Channel, CommitmentPeer, StorageCommitment
from medattn_edge.scanner.config.toml import Reader, as_toml, keys_of, section_lines
from medattn_edge.scanner.observe.allowlist import allowed_values
from medattn_edge.scanner.store.records import Policy
from medattn_edge.scanner.work.tasks import model_from_json, model_to_json
from tests.support.node_files import make_artifact, plain, write

SECTIONS = {
    "receive": Receive,
    "tls": Tls,
    "watch": Watch,
    "releases": Releases,
    "model": Model,
    "destination": Destination,
    "limits": Limits,
    "status": Status,
    "storage_commitment": StorageCommitment,
    "commitment_peer": CommitmentPeer,
}

PEER = {"ae_title": "CT1", "host": "127.0.0.1", "port": 104}


def load(folder: Path, **changes: Any) -> NodeConfig:
    """Sections that work, each with the keys that change; a list or None stands for the whole section."""
    sections = plain(folder)
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(sections.get(name, {}), dict):
            sections[name] = {**sections.get(name, {}), **change}
        else:
            sections[name] = change
    return load_config(write(folder, sections))


def refused(folder: Path, **changes: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(folder, **changes)
    error = caught.value
    assert str(folder / "node.toml") in error.found
    assert error.hint
    return error


def model(**keys: Any) -> list[dict[str, Any]]:
    return [{"name": "lungs", "artifact": "net.onnx", **keys}]


def archive(**keys: Any) -> list[dict[str, Any]]:
    return [{"name": "pacs", "host": "pacs.example", "port": 104, "ae_title": "ARCHIVE", **keys}]


WEB = {"dicomweb": "http://pacs.example/dicom-web"}


def web(**keys: Any) -> Any:
    return [{"name": "web", **WEB, **keys}]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    from tests.support.certificates import make

    return make(tmp_path_factory.mktemp("certificates"))


# What is read


def test_a_file_with_the_least_has_every_default(tmp_path):
    sections = plain(tmp_path)
    del sections["receive"], sections["destination"][1]
    found = load_config(write(tmp_path, sections))
    assert found == NodeConfig(
        root=tmp_path / "root",
        models=(Model("lungs", tmp_path / "net.onnx", sha256(tmp_path / "net.onnx")),),
        destinations=(Destination("shelf", folder=tmp_path / "results"),),
        watch=Watch(tmp_path / "incoming"),
    )
    assert found.policy() == Policy()
    assert found.status == Status()


def test_what_nobody_asked_for_is_closed(tmp_path):
    found = load(tmp_path)
    assert found.tls is None
    assert found.receive is not None
    assert found.status is not None
    assert (found.receive.host, found.status.host) == ("127.0.0.1", "127.0.0.1")
    assert found.receive.addresses == ("127.0.0.0/8", "::1/128")
    assert Tls(Path("a"), Path("b")).mutual


def test_paths_start_at_the_folder_of_the_file_wherever_the_process_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "deep"
    folder.mkdir()
    write(folder, {**plain(folder), "watch": {"folder": "~/incoming"}, "node": {"root": str(tmp_path / "kept")}})
    monkeypatch.chdir(tmp_path)
    found = load_config(Path("deep/node.toml"))
    assert found.models[0].artifact == folder / "net.onnx"
    assert found.watch == Watch(tmp_path / "home" / "incoming")
    assert found.root == tmp_path / "kept"


def test_a_whole_number_may_stand_for_a_number(tmp_path):
    assert load(tmp_path, limits={"quiet_s": 5}).policy().quiet_s == 5.0


def test_the_page_leaves_orthancs_port_to_orthanc_unless_an_older_file_names_it(tmp_path):
    assert load(tmp_path).status == Status(port=8742)
    assert load(tmp_path, status={"port": 8042}).status == Status(port=8042)
    assert 8742 not in {
        104,
        2761,
        2762,
        4242,
        8042,
        8080,
        8443,
        11112,
        Receive(("*",)).port,
        Tls(tmp_path, tmp_path).port,
    }


def test_a_page_that_is_not_wanted_is_off(tmp_path):
    assert load(tmp_path, status={"enabled": False}).status is None
    assert load(tmp_path, status={"enabled": False}).dump().endswith("thumbnails = true\n")


@pytest.mark.parametrize(("old", "new"), [pair for keys in RENAMED_KEYS.values() for pair in keys.items()])
def test_a_key_that_was_renamed_is_refused_with_the_new_one(tmp_path, old, new):
    error = refused(tmp_path, limits={old: 0.5})
    assert error.found.endswith(f"[limits] {old} is now {new}")
    assert error.hint == f"{new} = 0.5"
    assert load(tmp_path, limits={new: 901.5 if new == "max_wait_s" else 5.5 if new.startswith("retry") else 0.5})


def test_no_renamed_key_is_known_any_more():
    assert set(RENAMED_KEYS[Limits]) >= {
        *("most_used", "least_free_gb", "first_retry_s", "most_retry_s", "longest_wait_s", "objects_days")
    }
    for section, keys in RENAMED_KEYS.items():
        known = {field.name for field in fields(section)}
        assert set(keys.values()) <= known
        assert not set(keys) & known


def test_the_device_follows_from_the_file_and_the_dump_says_auto(tmp_path):
    config = load(tmp_path)
    [found] = config.models
    assert (found.device, found.computes_on, found.file_name) == ("auto", "cpu", "net.onnx")
    assert 'device = "auto"' in config.dump()
    assert "file_name" not in config.dump()
    assert load(tmp_path, model=model(device="cuda:1")).models[0].computes_on == "cuda:1"
    # Of a release the file in it decides, which the node has looked up; also in the worker that it sends the model to.
    for name, device in (("net.engine", "cuda:0"), ("net.rtx", "cuda:0"), ("net.xml", "cpu")):
        one = model_from_json(model_to_json(replace(found, artifact=tmp_path / "release", file_name=name)))
        assert one.computes_on == device
    assert refused(tmp_path, model=model(file_name="x")).found.count("file_name is not known") == 1


def test_names_that_the_log_may_hold(tmp_path):
    values = allowed_values(load(tmp_path, model=model(device="cuda:0"), node={"name": "ct-room-2"}))
    assert {"ct-room-2", "lungs", "shelf", "pacs", "cuda:0", "plain", "tls", "watch", "status"} <= set(values)
    assert "CT1" not in values  # a title may be a person's name


def test_tls_on_both_sides(tmp_path, certificates):
    server = {"certificate": certificates.server_cert, "key": certificates.server_key}
    client = {"tls": True, "ca": certificates.ca, "certificate": certificates.client_cert}
    found = load(
        tmp_path,
        tls={**server, "clients_ca": certificates.ca},
        destination=archive(**client, key=certificates.client_key),
    )
    assert found.tls == Tls(certificates.server_cert, certificates.server_key, certificates.ca)
    assert found.destinations[0].ca == certificates.ca
    assert load(tmp_path, tls={**server, "mutual": False}).tls is not None
    for mode, taken in ((0o640, True), (0o644, False), (0o600, True)):
        Path(server["key"]).chmod(mode)
        if taken:
            assert load(tmp_path, tls={**server, "mutual": False}).tls is not None
        else:
            assert "others may read it" in refused(tmp_path, tls={**server, "mutual": False}).found
    assert load(tmp_path, destination=archive(tls=True)).destinations[0].tls


# What is refused


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"node\.toml cannot be read: No such file") as caught:
        load_config(tmp_path / "node.toml")
    assert "node init" in caught.value.hint
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[node]\nroot = root\n", "line 2"),
        (b"[node]\nroot = 'a'\nroot = 'b'\n", "line 3"),
        (b"[node]\nroot = '\xff'\n", "not valid TOML"),
        (b"[node]\nroot = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 20_000, "not valid TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(tmp_path, data, told):
    (tmp_path / "node.toml").write_bytes(data)
    with pytest.raises(UsageError, match=told):
        load_config(tmp_path / "node.toml")


def test_an_unknown_section_or_key_is_told_with_the_nearest(tmp_path):
    error = refused(tmp_path, recieve={"calling_ae": ["CT1"]})
    assert "section recieve is not known" in error.found
    assert error.hint == "receive"
    for name, change, where, near in [
        ("receive", {"ae_tilte": "A"}, "[receive] ae_tilte", "ae_title"),
        ("model", model(bodypart="*"), "[[model]] 1: bodypart", "body_part"),
        ("destination", archive(aetitle="A"), "[[destination]] 1: aetitle", "ae_title"),
        ("limits", {"quiet": 3}, "[limits] quiet", "quiet_s"),
        ("node", {"rot": "x"}, "[node] rot", "root"),
    ]:
        error = refused(tmp_path, **{name: change})
        assert where in error.found
        assert error.hint == near


def test_a_missing_key_or_section_is_told(tmp_path):
    for changes, told, hint in [
        ({"node": None}, "[node] root is missing", 'root = "..."'),
        ({"receive": None, "watch": None}, "neither [receive] nor [watch]", "[receive]"),
        ({"receive": None, "tls": {"certificate": "a", "key": "b"}}, "[tls] stands without [receive]", "[receive]"),
        ({"model": None}, "[[model]] is missing", "[[model]]"),
        ({"model": [{"artifact": "net.onnx"}]}, "[[model]] 1: name is missing", 'name = "..."'),
        (
            {"model": [{"name": "a", "artifact": "net.onnx"}, {"name": "b"}]},
            "[[model]] 2: artifact",
            'artifact = "..."',
        ),
        ({"destination": None}, "[[destination]] is missing", "[[destination]]"),
        ({"tls": {"certificate": "a"}}, "[tls] key is missing", 'key = "..."'),
    ]:
        error = refused(tmp_path, **changes)
        assert told in error.found
        assert error.hint == hint
    sections = plain(tmp_path)
    sections["receive"] = {"port": 0}
    with pytest.raises(UsageError, match=r"\[receive\] calling_ae is missing") as caught:
        load_config(write(tmp_path, sections))
    assert caught.value.hint == 'calling_ae = ["..."]'


def test_one_table_where_several_stand_and_the_reverse(tmp_path):
    assert "[[model]] is written as one section" in refused(tmp_path, model=model()[0]).found
    assert "[watch] is not a section" in refused(tmp_path, watch=[{"folder": "in"}]).found
    path = write(tmp_path, {name: table for name, table in plain(tmp_path).items() if name != "node"})
    path.write_text(f"node = 3\n{path.read_text()}")
    with pytest.raises(UsageError, match=r"\[node\] is not a section"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "change", "told", "expected"),
    [
        ("receive", {"port": "11112"}, "[receive] port is '11112'", "a whole number"),
        ("receive", {"port": 1.0}, "[receive] port is 1.0", "a whole number"),
        ("receive", {"port": True}, "[receive] port is True", "a whole number"),
        ("receive", {"calling_ae": "CT1"}, "[receive] calling_ae is 'CT1'", "a list"),
        ("receive", {"calling_ae": [1]}, "[receive] calling_ae is 1", "a text"),
        ("receive", {"ae_title": 3}, "[receive] ae_title is 3", "a text"),
        ("receive", {"max_associations": 1 << 63}, "has more than 64 bits", "a number"),
        ("watch", {"poll_s": "2"}, "[watch] poll_s is '2'", "a number"),
        ("watch", {"poll_s": True}, "[watch] poll_s is True", "a number"),
        ("watch", {"folder": ""}, "[watch] folder is ''", "a path"),
        ("watch", {"folder": "a\0b"}, "[watch] folder is", "a path"),
        ("watch", {"folder": "~nobody-of-that-name/x"}, "[watch] folder is", "a path"),
        ("watch", {"after": "delete"}, "[watch] after is 'delete'", "keep or remove"),
        ("status", {"enabled": 1}, "[status] enabled is 1", "true or false"),
        ("limits", {"quota_gb": "much"}, "[limits] quota_gb is 'much'", "a number"),
    ],
)
def test_a_value_of_another_type_is_told(tmp_path, name, change, told, expected):
    error = refused(tmp_path, **{name: change})
    assert told in error.found
    assert expected in error.expected


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_no_number_is_infinite_or_none(tmp_path, number):
    path = write(tmp_path, plain(tmp_path))
    path.write_text(f"{path.read_text()}[limits]\nquiet_s = {number}\n")
    with pytest.raises(UsageError, match=r"\[limits\] quiet_s is"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("node", {"name": ""}, "[node] name"),
        ("node", {"name": "a\nb"}, "[node] name"),
        ("node", {"root": "net.onnx"}, "[node] root"),
        ("receive", {"calling_ae": []}, "[receive] calling_ae is empty"),
        ("receive", {"calling_ae": ["A\\B"]}, "[receive] calling_ae has the AE title"),
        ("receive", {"calling_ae": ["X" * 17]}, "[receive] calling_ae has the AE title"),
        ("receive", {"calling_ae": ["Größe"]}, "[receive] calling_ae has the AE title"),
        ("receive", {"ae_title": " "}, "[receive] ae_title has the AE title"),
        ("receive", {"addresses": []}, "[receive] addresses is empty"),
        ("receive", {"addresses": ["10.0.0.1/8"]}, "[receive] addresses has '10.0.0.1/8'"),
        ("receive", {"addresses": ["ct1.example"]}, "[receive] addresses has 'ct1.example'"),
        ("receive", {"sop_classes": []}, "[receive] sop_classes is empty"),
        ("receive", {"sop_classes": ["CTImageStrage"]}, "[receive] sop_classes has 'CTImageStrage'"),
        ("receive", {"sop_classes": ["1.2.x"]}, "[receive] sop_classes has '1.2.x'"),
        ("receive", {"port": 65536}, "[receive] port is 65536"),
        ("receive", {"port": -1}, "[receive] port is -1"),
        ("receive", {"port": 8742}, "port is 8742"),
        ("receive", {"max_associations": 0}, "[receive] max_associations is 0"),
        ("receive", {"max_object_mb": 0}, "[receive] max_object_mb is 0"),
        ("watch", {"poll_s": 0}, "[watch] poll_s is 0"),
        ("watch", {"settle_s": -1}, "[watch] settle_s is -1"),
        ("status", {"host": "0.0.0.0"}, "[status] host is '0.0.0.0'"),
        ("status", {"host": "node.example"}, "[status] host is 'node.example'"),
        ("limits", {"quiet_s": -1}, "[limits]: quiet_s is -1"),
        ("limits", {"max_wait_s": 1}, "[limits]: max_wait_s is 1"),
        ("limits", {"max_used_fraction": 0}, "[limits] max_used_fraction is 0"),
        ("limits", {"max_used_fraction": 75}, "[limits] max_used_fraction is 75"),
        ("limits", {"min_free_gb": -1}, "[limits] min_free_gb is -1"),
        ("limits", {"quota_gb": 5}, "[limits] quota_gb is 5"),
        ("limits", {"job_timeout_s": 0}, "[limits] job_timeout_s is 0"),
        ("limits", {"drain_s": 1e300}, "[limits] drain_s is 1e+300"),
        ("limits", {"keep_days": 1e300}, "[limits] keep_days is 1e+300"),
        ("limits", {"memory_mb": -1}, "[limits] memory_mb is -1"),
        ("model", model(name="Lungs"), "[[model]] name is 'Lungs'"),
        ("model", model(name="x" * 33), "[[model]] name is 'xxx"),
        ("model", model() * 2, "[[model]] name is 'lungs' 2 times"),
        ("model", model(device="gpu"), "[[model]] lungs: device is 'gpu'"),
        ("model", model(device="cuda") + model(name="b", device="cuda:0"), "is cuda and cuda:0, one device"),
        ("model", model(modality="ct"), "[[model]] lungs: modality is 'ct'"),
        ("model", model(kind="fractional"), "[[model]] 1: kind is 'fractional'"),
        ("model", model(kind="labelmap", sr=True), "[[model]] lungs: sr is true, with kind = 'labelmap'"),
        ("model", model(rtstruct=1), "[[model]] 1: rtstruct is 1"),
        ("model", model(probabilities="maps.dcm"), "[[model]] 1: probabilities is 'maps.dcm'"),
        ("model", model(overlap=1), "[[model]] lungs: overlap is 1"),
        ("model", model(key_slices=-1), "[[model]] lungs: key_slices is -1"),
        ("model", model(threads=-1), "[[model]] lungs: threads is -1"),
        ("model", model(destinations=["pasc"]), "[[model]] lungs: destinations names 'pasc'"),
        ("model", model(artifact="other.onnx"), "[[model]] lungs: artifact"),
        ("destination", archive(name="PACS"), "[[destination]] name is 'PACS'"),
        ("destination", archive() * 2, "[[destination]] name is 'pacs' 2 times"),
        ("destination", archive(folder="results"), "[[destination]] pacs: is no destination"),
        ("destination", archive(port=0), "[[destination]] pacs: is no destination"),
        ("destination", archive(ae_title=""), "[[destination]] pacs: is no destination"),
        ("destination", archive(port=65536), "[[destination]] pacs: port is 65536"),
        ("destination", archive(timeout_s=0), "[[destination]] pacs: timeout_s is 0"),
        ("destination", archive(calling_ae_title="A\\B"), "[[destination]] pacs: calling_ae_title has"),
        ("destination", archive(ca="net.onnx"), "[[destination]] pacs: has certificates, and no TLS"),
        ("destination", archive(tls=True, certificate="net.onnx"), "a certificate without its key"),
        ("destination", archive(tls=True, ca="gone.crt"), "[[destination]] pacs: ca"),
        ("destination", archive(tls=True, ca="net.onnx"), "[[destination]] pacs:"),
        ("destination", [{"name": "shelf", "folder": "x", "tls": True}], "[[destination]] shelf: is no destination"),
        ("destination", [{"name": "shelf", "folder": "x", **WEB}], "[[destination]] shelf: is no destination"),
        ("destination", archive(**WEB), "[[destination]] pacs: is no destination"),
        ("destination", web(host="pacs"), "[[destination]] web: is no destination"),
        ("destination", web(tls=True), "[[destination]] web: is no destination"),
        ("destination", web(ae_title="PACS"), "[[destination]] web: has dicomweb and AE titles"),
        ("destination", web(dicomweb="dicomweb://pacs/x"), "[[destination]] web: dicomweb is the scheme dicomweb://"),
        (
            "destination",
            web(dicomweb="https://me:s3cret@pacs/x"),
            "[[destination]] web: dicomweb is a user or a password",
        ),
        ("destination", web(ca="net.onnx"), "[[destination]] web: dicomweb is certificates for http://pacs.example"),
        ("destination", web(dicomweb="https://pacs/x", ca="gone.crt"), "[[destination]] web: ca"),
        ("destination", web(dicomweb="https://pacs/x", certificate="net.onnx"), "a certificate without its key"),
        ("destination", web(credentials="net.onnx"), "[[destination]] web: credentials"),
        ("destination", archive(credentials="net.onnx"), "[[destination]] pacs: credentials stands without dicomweb"),
        ("tls", {"certificate": "net.onnx", "key": "net.onnx"}, "[tls] is mutual without clients_ca"),
        ("receive", {"calling_ae": ["CT1"], "plain": False}, "[receive] plain is false, and there is no [tls]"),
        ("tls", {"certificate": "gone.crt", "key": "net.onnx", "mutual": False}, "[tls] certificate"),
        ("tls", {"certificate": "net.onnx", "key": "net.onnx", "mutual": False}, "no certificate with its key"),
        ("tls", {"certificate": "net.onnx", "key": "net.onnx", "mutual": False, "port": 11112}, "port is 11112"),
    ],
)
def test_a_value_that_could_not_work_is_told_with_its_place(tmp_path, name, change, told):
    error = refused(tmp_path, **{name: change})
    assert told in error.message
    assert error.expected


def test_a_model_is_not_given_series_that_its_network_was_not_trained_on(tmp_path):
    make_artifact(tmp_path / "net.onnx", modality="CT")
    error = refused(tmp_path, model=model(modality="MR"))
    assert "[[model]] lungs: modality is MR, and net.onnx was trained on CT" in error.found
    assert error.hint == 'modality = "CT", or any_modality = true'
    for keys in ({"modality": "CT"}, {"modality": ""}, {"modality": "MR", "any_modality": True}):
        assert load(tmp_path, model=model(**keys)).models[0].modality == keys["modality"]


def test_a_hint_is_what_to_write(tmp_path):
    assert refused(tmp_path, model=model(modality="PET")).hint == 'modality = "PT"'
    assert refused(tmp_path, receive={"sop_classes": ["CTImageStrage"]}).hint == "CTImageStorage"
    assert refused(tmp_path, limits={"max_used_fraction": 75}).hint == "max_used_fraction = 1"
    assert refused(tmp_path, watch={"after": "kept"}).hint == "keep"


def test_a_key_of_another_certificate_is_told_when_the_file_is_read_and_not_when_somebody_calls(tmp_path, certificates):
    mixed = {"certificate": certificates.server_cert, "key": certificates.client_key, "clients_ca": certificates.ca}
    assert "no certificate with its key" in refused(tmp_path, tls=mixed).found
    mixed = {"certificate": certificates.client_cert, "key": certificates.server_key, "tls": True}
    assert "[[destination]] pacs: " in refused(tmp_path, destination=archive(**mixed)).found


def test_folders_that_lie_in_each_other_would_feed_the_node_with_its_own_files(tmp_path):
    for changes in (
        {"watch": {"folder": "."}},
        {"watch": {"folder": "results"}},
        {"watch": {"folder": "root/incoming"}},
        {"node": {"root": "incoming/kept"}},
        {"destination": [{"name": "shelf", "folder": "incoming/out"}]},
        {"destination": [{"name": "shelf", "folder": "root/results"}]},
    ):
        assert " lies in " in refused(tmp_path, **changes).found
    (tmp_path / "other").symlink_to(tmp_path / "incoming")
    assert " lies in " in refused(tmp_path, destination=[{"name": "shelf", "folder": "other/out"}]).found
    load(tmp_path, watch={"folder": "results-of-others"})


def test_an_artifact_that_was_changed_is_no_mistake_of_usage(tmp_path):
    plain(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r"node\.toml: \[\[model\]\] lungs: artifact: net\.onnx has the SHA-256"):
        load(tmp_path)


# What a running node takes over


def test_what_needs_a_restart_is_told_and_the_rest_is_taken_over(tmp_path):
    config = load(tmp_path)
    assert reloadable(config, config) == ()
    assert config.receive is not None
    assert config.status is not None
    for change in (
        {"name": "other"},
        {"models": (*config.models, Model("b", tmp_path / "net.onnx"))},
        {"destinations": config.destinations[:1]},
        {"limits": Limits(quiet_s=1)},
        {"receive": None},
        {"receive": replace(config.receive, port=0, host="::1", calling_ae=("CT2",))},
        {"tls": Tls(tmp_path, tmp_path)},
        {"watch": None},
        {"status": replace(config.status, thumbnails=False)},
    ):
        assert reloadable(config, replace(config, **change)) == ()
    for change, names in (
        ({"root": tmp_path}, ("root",)),
        ({"log_file": tmp_path / "log"}, ("log_file",)),
        ({"status": None}, ("status",)),
        ({"status": replace(config.status, port=1)}, ("status",)),
        ({"status": replace(config.status, host="::1")}, ("status",)),
        ({"root": tmp_path, "log_file": tmp_path / "log", "limits": Limits(seed=1)}, ("root", "log_file")),
    ):
        assert reloadable(config, replace(config, **change)) == names
        assert reloadable(replace(config, **change), config) == names


# Channels


def channelled(
    folder: Path, channels: str, more: str = "", names: tuple[str, ...] = ("t1", "flair"), count: int = 2
) -> Any:
    """The model of a configuration with channels, as they are written."""
    make_artifact(folder / "net.onnx", names, count)
    path = write(folder, plain(folder) | {"model": None})
    said = f'\n[[model]]\nname = "glioma"\nartifact = "net.onnx"\n{channels}\n{more}\n'
    path.write_text(path.read_text() + said, encoding="utf-8")
    [found] = load_config(path).models
    assert load_config(write_dump(path)).models == (found,)
    return found


def write_dump(path: Path) -> Path:
    dumped = path.with_name("dumped.toml")
    dumped.write_text(load_config(path).dump(), encoding="utf-8")
    return dumped


def test_channels_have_the_networks_names_in_its_order_and_a_dump_says_them(tmp_path):
    named = 'channels = [{ name = "t1", description = "*T1*" }, { name = "flair", modality = "MR", volume = 2 }]'
    found = channelled(tmp_path, named, "resample_to_first = true")
    assert found.channels == (Channel("t1", "*T1*"), Channel("flair", modality="MR", volume=2))
    assert found.resample_to_first
    unnamed = 'channels = [{ description = "*T1*" }, { body_part = "BRAIN" }]'
    assert channelled(tmp_path, unnamed).channels == (Channel("t1", "*T1*"), Channel("flair", body_part="BRAIN"))
    assert [one.name for one in channelled(tmp_path, unnamed, names=()).channels] == ["channel 1", "channel 2"]


@pytest.mark.parametrize(
    ("channels", "more", "told"),
    [
        ("", "", r"has 0 for a network of 2 channel\(s\): t1, flair(.|\n)*name = \"flair\", description = "),
        ('channels = [{ description = "*T1*" }]', "", "has 1 for a network of 2"),
        ('channels = [{ name = "flair" }, { name = "t1", description = "x" }]', "", "has 'flair' where .* 't1'"),
        ('channels = [{ description = "*" }, { description = "*" }]', "", "no series could be told apart"),
        ('channels = ["*T1*", "*FLAIR*"]', "", r"channels 1: is not a section(.|\n)*\{ \.\.\. \}"),
        ('channels = [{ description = "*T1*" }, { modality = "PET" }]', "", "has the modality 'PET'(.|\n)*\"PT\""),
        ('channels = [{ description = "*T1*" }, { discription = "*" }]', "", "channels 2: discription is not known"),
        ('channels = [{ description = "*T1*" }, { volume = -1 }]', "", "channels: volume is -1"),
        ('channels = [{ description = "*T1*" }, { modality = "MR" }]', "volume = 2", "volume stands beside channels"),
    ],
)
def test_channels_that_are_not_the_networks_are_refused(tmp_path, channels, more, told):
    with pytest.raises(UsageError, match=told):
        channelled(tmp_path, channels, more)


def test_the_example_for_a_network_of_several_channels_says_them_and_works(tmp_path):
    artifact = make_artifact(tmp_path / "net.onnx", ("t1", "flair"))
    path = tmp_path / "node.toml"
    folders = tmp_path / "root", tmp_path / "in", artifact, tmp_path / "out"
    path.write_text(example(*folders, ("t1", "flair")), encoding="utf-8")
    [found] = load_config(path).models
    assert found.channels == (Channel("t1", "*t1*"), Channel("flair", "*flair*"))
    path.write_text(example(*folders), encoding="utf-8")
    with pytest.raises(UsageError, match="has 0 for a network of 2"):
        load_config(path)


def test_a_network_of_one_channel_has_no_channels_to_choose(tmp_path):
    for channels, more in (('channels = [{ description = "*" }]', ""), ("", "resample_to_first = true")):
        with pytest.raises(UsageError, match=r"leave (channels|it) out"):
            channelled(tmp_path, channels, more, names=(), count=1)


# What is written

printable = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.one_of(
        printable,
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(printable).map(tuple),
    )
)
def test_every_value_comes_back_as_it_was(value):
    found = tomllib.loads(f"value = {as_toml(value)}")["value"]
    assert found == (list(value) if isinstance(value, tuple) else value)
    assert type(found) is (list if isinstance(value, tuple) else type(value))


def test_bytes_that_are_no_utf_8_are_told():
    with pytest.raises(UsageError, match="no UTF-8"):
        as_toml(Path("/data/\udcff"))


def section(kind: type[Any], **more: Any) -> Any:
    """Any dataclass of one section whose types are right; its values need not make sense."""
    plain_path = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=9)
    number = st.floats(0, 1e9)
    of_type = {
        "str": printable,
        "int": st.integers(1, 1 << 40),
        "float": number,
        "float | None": st.none() | number,
        "bool": st.booleans(),
        "bool | None": st.none() | st.booleans(),
        "Path": plain_path.map(lambda text: Path("/data", text)),
        "Path | None": st.none() | plain_path.map(lambda text: Path("/data", text)),
        "tuple[Channel, ...]": st.deferred(lambda: st.lists(section(Channel), max_size=3).map(tuple)),
        "tuple[str, ...]": st.lists(printable, max_size=4).map(tuple),
        "Literal['keep', 'remove']": st.sampled_from(["keep", "remove"]),
        "Conflict": st.sampled_from(["new_version", "refuse"]),
        "Literal['binary', 'labelmap']": st.sampled_from(["binary", "labelmap"]),
    }
    return st.builds(kind, **{one.name: of_type[str(one.type).replace('"', "'")] for one in keys_of(kind)} | more)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_comes_back_as_it_was(tmp_path, name):
    kind = SECTIONS[name]
    more = {}
    if kind is Limits:
        more = {"max_wait_s": st.just(1e9), "retry_max_s": st.just(1e9)}

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(section(kind, **more))
    def comes_back(made: Any) -> None:
        table = tomllib.loads("\n".join(section_lines(made)))
        assert Reader(tmp_path / "node.toml").section(kind, table, f"[{name}]") == made

    comes_back()


def test_a_dump_loads_to_the_same_from_wherever_it_lies(tmp_path, certificates):
    config = load(
        tmp_path,
        node={"name": 'a "quoted" \\ name :cat: µ', "log_file": "node.log"},
        receive={"calling_ae": ["*"], "addresses": ["10.0.0.0/8", "fe80::/10"], "sop_classes": ["1.2.3.4"]},
        tls={"certificate": certificates.server_cert, "key": certificates.server_key, "clients_ca": certificates.ca},
        releases={"trusted_keys": trusted_key(tmp_path), "require_signed": False},
        model=model(description='*[Lung] "x" \\ ä', destinations=["pacs"], kind="labelmap", overlap=0.25),
        destination=archive(timeout_s=1, calling_ae_title="ME", tls=True, ca=certificates.ca),
        limits={"quiet_s": 1.5, "quota_gb": 100, "max_bytes": 10**12},
        storage_commitment={"enabled": True, "keep_days": 7.5},
        commitment_peer=[{**PEER, "tls": True, "ca": certificates.ca}],
        status={"host": "::1", "port": 0, "thumbnails": False},
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "dumped.toml").write_text(config.dump(), encoding="utf-8")
    assert load_config(other / "dumped.toml") == config
    for name, kind in SECTIONS.items():  # every value, also those that are defaults
        section_text = config.dump().split(f"[{name}]")[1].split("\n\n")[0]
        have = getattr(config, name if hasattr(config, name) else f"{name}s")
        have = have[0] if isinstance(have, tuple) else have
        for one in keys_of(kind):
            assert (getattr(have, one.name) is None) != (f"\n{one.name} = " in section_text)


# The example


def trusted_key(folder: Path) -> Path:
    return generate_key(folder / "KEY") and folder / "KEY.pub"


def write_credentials(path: Path, text: str = "bearer t0ken\n") -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


UNCOMMENTED = re.compile(r"^# ((?:[a-z0-9_]+ = |\[).*)$", re.MULTILINE)


def example_in(folder: Path) -> str:
    return example(folder / "root", folder / "incoming", make_artifact(folder / "net.int8.onnx"), folder / "results")


def test_the_example_works_as_it_is_and_says_what_the_defaults_are(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(example_in(tmp_path), encoding="utf-8")
    assert load_config(path) == NodeConfig(
        root=tmp_path / "root",
        models=(Model("net-int8", tmp_path / "net.int8.onnx", sha256(tmp_path / "net.int8.onnx")),),
        destinations=(Destination("folder", folder=tmp_path / "results"),),
        watch=Watch(tmp_path / "incoming"),
    )


def test_every_key_stands_in_the_section_of_the_example_where_it_belongs(tmp_path):
    tables = tomllib.loads(UNCOMMENTED.sub(r"\1", example_in(tmp_path)))
    assert set(tables) == {"node", *SECTIONS}
    assert set(tables["node"]) == {"root", "name", "log_file"}
    for name, kind in SECTIONS.items():
        found = tables[name] if isinstance(tables[name], list) else [tables[name]]
        assert {key for table in found for key in table} == {one.name for one in keys_of(kind)}, name


def test_what_the_example_shows_behind_a_hash_is_the_default_where_it_does_not_say_that_it_is_an_example(tmp_path):
    checked = 0
    for name, kind in SECTIONS.items():
        found = re.search(rf"^(?:# )?\[+{name}\]+\n(.*?)\n\s", f"{example_in(tmp_path)}\n", re.MULTILINE | re.DOTALL)
        assert found is not None
        text = found[1]
        for one in keys_of(kind):
            line = re.search(rf"^# ({one.name} = .*)$", text, re.MULTILINE)
            if line is not None and "example" not in line[1]:
                default = one.default
                shown = tomllib.loads(line[1])[one.name]
                assert shown == (list(default) if isinstance(default, tuple) else default), one.name
                checked += 1
    assert checked > 35


def test_everything_in_the_example_works_together_once_the_files_are_there(tmp_path, certificates):
    text = UNCOMMENTED.sub(r"\1", example_in(tmp_path))
    for name, made in {
        "node.crt": certificates.server_cert,
        "node.key": certificates.server_key,
        "clients-ca.crt": certificates.ca,
        "archive-ca.crt": certificates.ca,
        "ct1-ca.crt": certificates.ca,
    }.items():
        (tmp_path / name).write_bytes(made.read_bytes())
        (tmp_path / name).chmod(0o600)
    trusted_key(tmp_path).rename(tmp_path / "trusted.keys")
    write_credentials(tmp_path / "pacs.credentials")
    (tmp_path / "node.toml").write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match="an artifact by itself, which has no signature"):
        load_config(tmp_path / "node.toml")
    text = text.replace("require_signed = true", "require_signed = false")
    (tmp_path / "node.toml").write_text(text, encoding="utf-8")
    found = load_config(tmp_path / "node.toml")
    assert [one.name for one in found.destinations] == ["folder", "pacs", "web"]
    assert found.tls is not None


def test_every_key_is_explained_where_it_is_defined():
    for kind in SECTIONS.values():
        told = f"{kind.__doc__}\n{Policy.__doc__ if kind is Limits else ''}"
        for one in keys_of(kind):
            assert re.search(rf"\b{one.name}\b", told), one.name


@pytest.mark.parametrize("stem", ["Net", "__", "9.int8", "größe", "x" * 40, "a b", "-"])
def test_a_model_has_a_name_that_is_allowed_whatever_its_file_is_called(tmp_path, stem):
    artifact = make_artifact(tmp_path / f"{stem}.onnx")
    path = tmp_path / "node.toml"
    path.write_text(example(Path("root"), Path("incoming"), artifact, Path("results")), encoding="utf-8")
    assert load_config(path).models[0].artifact == artifact


# Whatever stands in a file

values = st.recursive(
    st.one_of(
        printable, st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
keys = st.sampled_from(sorted({one.name for kind in SECTIONS.values() for one in keys_of(kind)} | {"root", "log_file"}))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["node", *SECTIONS]), keys, values)
def test_a_file_is_read_or_refused_and_never_a_bug(tmp_path, name, key, value):
    path = write(tmp_path, {other: table for other, table in plain(tmp_path).items() if other != name})
    before = plain(tmp_path).get(name, {})
    table = before[0] if isinstance(before, list) else before
    lines = [
        f"{one} = {as_toml(tuple(text) if isinstance(text, list) else text)}"
        for one, text in table.items()
        if one != key
    ]
    header = f"[[{name}]]" if name in ("model", "destination") else f"[{name}]"
    path.write_text("\n".join([path.read_text(), header, *lines, ""]), encoding="utf-8")
    try:
        found = load_config(path)
    except MedattnError as error:
        told = error.found
    else:
        dumped = tmp_path / "dumped.toml"
        dumped.write_text(found.dump(), encoding="utf-8")
        assert load_config(dumped) == found
        return
    assert "node.toml" in told


def test_storage_commitment_is_off_until_it_is_asked_for(tmp_path):
    assert not load(tmp_path).storage_commitment.enabled
    found = load(
        tmp_path, receive={"calling_ae": ["CT1"]}, storage_commitment={"enabled": True}, commitment_peer=[PEER]
    )
    assert found.storage_commitment.enabled
    assert found.commitment_peers[0].address.port == 104
    (tmp_path / "again.toml").write_text(found.dump(), encoding="utf-8")
    assert load_config(tmp_path / "again.toml") == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"commitment_peer": None}, "is enabled without a [[commitment_peer]]"),
        ({"commitment_peer": [PEER, PEER]}, "comes twice"),
        ({"commitment_peer": [{**PEER, "ae_title": "CT2"}]}, "is not in calling_ae of [receive]"),
        ({"commitment_peer": [{**PEER, "host": ""}]}, "host is empty"),
        ({"commitment_peer": [{**PEER, "port": 70000}]}, "port is 70000"),
        ({"commitment_peer": [{**PEER, "ca": "ca.crt"}]}, "has certificates, and no TLS"),
        ({"commitment_peer": [{**PEER, "timeout_s": 0.0}]}, "timeout_s is 0"),
        ({"receive": None}, "stands without [receive]"),
        ({"storage_commitment": {"enabled": True, "keep_days": -1.0}}, "keep_days is -1"),
        ({"storage_commitment": {"enabled": True, "max_instances": 0}}, "max_instances is 0"),
        ({"storage_commitment": {"enabled": True, "max_waiting": 0}}, "max_waiting is 0"),
    ],
)
def test_storage_commitment_that_could_not_work_is_refused(tmp_path, changes, found):
    sections = {
        "receive": {"calling_ae": ["CT1"]},
        "watch": {"folder": str(tmp_path / "incoming")},
        "storage_commitment": {"enabled": True},
        "commitment_peer": [PEER],
    }
    sections |= changes
    assert found in refused(tmp_path, **sections).found
