"""A release says what it holds, and the same inputs give the same bytes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.errors import InputError, IntegrityError, OutputError, UsageError
from medattn_edge.release import (
    ReleaseManifest,
    load_private_key,
    opened_artifact,
    sign_release,
    split_address,
    trusted_keys,
    verify,
    write_release,
)
from tests.support.node_files import make_artifact
from tests.support.releases import make_lineage, signed_release


def contents(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


@pytest.mark.parametrize("output", ["release", "release.zip"])
def test_a_release_holds_its_artifacts_and_says_who_signed_it(tmp_path, output):
    path, public = signed_release(tmp_path, output, version=3)
    release = verify(path, trusted_keys(public))
    assert (release.title, release.manifest.default) == ("lungs 3", "net.xml")
    assert release.signer is not None
    assert release.signer.signer == "KEY's owner"
    assert set(release.manifest.artifacts) == {"net.onnx", "net.int8.onnx", "net.xml"}
    sidecars = {f"{name}.json" for name in release.manifest.artifacts}
    assert set(release.manifest.files) == {*release.manifest.artifacts, *sidecars, "net.bin", "sbom.cdx.json"}


def test_the_lineage_leads_from_the_checkpoint_to_the_engine(tmp_path):
    path, _ = signed_release(tmp_path)
    engine = verify(path).manifest.artifacts["net.xml"]
    assert [(one["file"], one["made"]) for one in engine["lineage"]] == [
        (None, "checkpoint"),
        ("net.onnx", "fp32, onnx"),
        ("net.int8.onnx", "int8, onnx"),
        ("net.xml", "int8, openvino"),
    ]
    assert engine["lineage"][0]["sha256"] == "c" * 64
    assert engine["companions"] == {"net.bin": Artifact.read(tmp_path / "net.xml").manifest.companions[".bin"]}


def test_calibration_data_and_thresholds_are_told_and_no_name_of_a_scan(tmp_path):
    path, _ = signed_release(tmp_path)
    artifacts = verify(path).manifest.artifacts
    calibration = artifacts["net.int8.onnx"]["calibration"]
    assert calibration == {"windows_sha256": "d" * 64, "windows": {"calibrated_on": 12}, "quantizer": "ort"}
    assert artifacts["net.onnx"]["thresholds"] == [{"limits": {"min_sqnr_db": 90.0}, "inputs": 1}]
    for name in ("release.json", "sbom.cdx.json"):
        assert b"patient" not in (path / name).read_bytes()


def test_the_bill_of_materials_is_valid_and_has_every_file_and_the_model_as_a_component(tmp_path):
    validation = pytest.importorskip("cyclonedx.validation.json")
    pytest.importorskip("jsonschema")
    from cyclonedx.schema import SchemaVersion

    path, _ = signed_release(tmp_path)
    text = (path / "sbom.cdx.json").read_text()
    validator = validation.JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"type": "file"', '"type": "novel"', 1)) is not None
    bill = json.loads(text)
    components = {one["name"]: one for one in bill["components"]}
    release = verify(path).manifest
    assert set(release.files) - {"sbom.cdx.json"} <= set(components)
    assert {name for name, one in components.items() if one["type"] == "machine-learning-model"} == {
        *release.artifacts,
        "checkpoint",
    }
    for name in set(release.files) - {"sbom.cdx.json"}:
        assert components[name]["hashes"] == [{"alg": "SHA-256", "content": release.files[name].sha256}]
    assert components["onnx"]["purl"] == "pkg:pypi/onnx@1.23.2"
    edges = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert "artifact/net.int8.onnx" in edges["artifact/net.xml"]
    assert f"ancestor/{'c' * 64}" in edges["artifact/net.onnx"]
    assert "timestamp" not in bill["metadata"]


def test_the_same_inputs_give_the_same_bytes_and_the_same_signature(tmp_path):
    releases = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / "KEY").exists() and [
            (tmp_path / name / key).write_bytes((tmp_path / key).read_bytes()) for key in ("KEY", "KEY.pub")
        ]
        if (tmp_path / name / "KEY").exists():
            (tmp_path / name / "KEY").chmod(0o600)
        path, public = signed_release(tmp_path / name)
        packed, _ = signed_release(tmp_path / name, "release.zip")
        (tmp_path / "KEY").write_bytes(public.with_suffix("").read_bytes())
        (tmp_path / "KEY.pub").write_bytes(public.read_bytes())
        releases.append((contents(path), packed.read_bytes()))
    assert releases[0] == releases[1]
    with zipfile.ZipFile(tmp_path / "first" / "release.zip") as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == releases[0][0]
        assert packed.namelist() == sorted(packed.namelist())


def test_a_time_is_written_when_it_is_given_and_only_then(tmp_path, monkeypatch):
    artifact = make_artifact(tmp_path / "net.onnx")
    assert write_release([artifact], tmp_path / "a").manifest.created is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert write_release([artifact], tmp_path / "b").manifest.created == "2023-11-14T22:13:20+00:00"
    bill = json.loads((tmp_path / "b" / "sbom.cdx.json").read_text())
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        write_release([artifact], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_openssl_agrees_about_the_signature(tmp_path):
    path, public = signed_release(tmp_path)
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", path / "release.json"]
    try:
        done = subprocess.run([*words, "-sigfile", path / "release.sig"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_artifact_than_the_default_is_opened_by_its_name(tmp_path):
    path, _ = signed_release(tmp_path)
    for address, name in ((path, "net.xml"), (f"{path}#net.int8.onnx", "net.int8.onnx")):
        with opened_artifact(address) as opened:
            assert opened.file.name == name
            assert Artifact.read(opened.file).manifest == Artifact.read(tmp_path / name).manifest
            assert stat.S_IMODE(opened.file.parent.stat().st_mode) == 0o700
        assert not opened.file.parent.exists()
    with pytest.raises(UsageError, match=r"no artifact 'other\.onnx'"), opened_artifact(f"{path}#other.onnx"):
        pass


def test_a_path_that_is_there_is_no_address(tmp_path):
    (tmp_path / "a#b").mkdir()
    assert split_address(tmp_path / "a#b") == (tmp_path / "a#b", "")
    assert split_address(tmp_path / "c#d") == (tmp_path / "c", "d")
    assert split_address(tmp_path / "#d") == (tmp_path / "#d", "")


def test_what_is_opened_are_the_bytes_that_were_hashed(tmp_path):
    path, public = signed_release(tmp_path)
    with opened_artifact(f"{path}#net.onnx", trusted_keys(public)) as opened:
        before = opened.file.read_bytes()
        (path / "net.onnx").write_bytes(b"swapped")
        (path / "net.onnx.json").unlink()
        assert opened.file.read_bytes() == before
        assert Artifact.read(opened.file).manifest.sha256 == opened.release.manifest.files["net.onnx"].sha256
    with pytest.raises(IntegrityError), opened_artifact(path):
        pass


def test_nothing_that_is_there_is_overwritten(tmp_path):
    artifact = make_artifact(tmp_path / "net.onnx")
    for name in ("out", "out.zip"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(UsageError, match="exists"):
            write_release([artifact], tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"mine"
    with pytest.raises(OutputError, match="does not exist"):
        write_release([artifact], tmp_path / "no" / "out")


def test_artifacts_that_cannot_lie_in_one_folder_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = make_artifact(tmp_path / "a" / "net.onnx"), make_artifact(tmp_path / "b" / "NET.onnx")
    with pytest.raises(UsageError, match="two files of the name"):
        write_release([first, second], tmp_path / "out")
    for name in ("two words.onnx", "-o.onnx", "größe.onnx"):
        with pytest.raises(UsageError, match="file name"):
            write_release([make_artifact(tmp_path / "a" / name)], tmp_path / "out")
    # An artifact whose manifest would stand where the release's own stands.
    with pytest.raises(UsageError, match="the release's own"):
        write_release([make_artifact(tmp_path / "a" / "release")], tmp_path / "out")
    for more, told in (
        ({"default": "other.onnx"}, "default"),
        ({"name": "Two Words"}, "name"),
        ({"version": 0}, "version"),
    ):
        with pytest.raises(UsageError, match=told):
            write_release([first], tmp_path / "out", **more)
    first.write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        write_release([first], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_damaged_release_is_not_signed(tmp_path):
    path, public = signed_release(tmp_path)
    (path / "net.bin").write_bytes(b"swapped")
    before = contents(path)
    with pytest.raises(IntegrityError, match=r"net\.bin"):
        sign_release(path, load_private_key(public.with_suffix("")))
    assert contents(path) == before


def test_a_second_signature_takes_the_place_of_the_first(tmp_path):
    path, first = signed_release(tmp_path)
    from medattn_edge.release import generate_key

    generate_key(tmp_path / "other")
    sign_release(path, load_private_key(tmp_path / "other"))
    assert verify(path, trusted_keys(tmp_path / "other.pub")).signer is not None
    with pytest.raises(IntegrityError, match="no signature"):
        verify(path, trusted_keys(first))
    assert {one.name for one in tmp_path.iterdir() if one.name.startswith(".")} == set()
    assert stat.S_IMODE((path / "release.sig").stat().st_mode) == 0o644


def test_what_is_no_release_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no release\.json|has no release\.json"):
        verify(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be opened"):
        verify(tmp_path / "nothing")


def test_a_release_may_be_reached_by_a_link(tmp_path):
    path, public = signed_release(tmp_path)
    (tmp_path / "current").symlink_to(path)
    assert verify(tmp_path / "current", trusted_keys(public)).manifest == verify(path).manifest


def test_the_manifest_has_one_form(tmp_path):
    path, _ = signed_release(tmp_path)
    data = (path / "release.json").read_bytes()
    manifest = ReleaseManifest.from_bytes(data)
    assert manifest.to_bytes() == data
    values = json.loads(data)
    for other in (
        json.dumps(values).encode(),
        data + b"\n",
        data.replace(b'"version": 1', b'"version": 1, "version": 1'),
        data.replace(b'"version": 1', b'"version": 1.0'),
        b"[" * 100_000,
        b"",
        b"null",
    ):
        with pytest.raises(IntegrityError, match="cannot be read"):
            ReleaseManifest.from_bytes(other)
    with pytest.raises(IntegrityError, match="schema 2"):
        ReleaseManifest.from_bytes(data.replace(b'"schema": 1', b'"schema": 2'))


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    artifacts = make_lineage(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_release(artifacts, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
