"""Documents of a release: further files, hashed and signed with the rest, and never taken for an artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medattn_edge.errors import InputError, IntegrityError, UsageError
from medattn_edge.release import generate_key, load_private_key, opened_artifact, sign_release, verify, write_release
from tests.support.releases import make_lineage


@pytest.fixture
def documents(tmp_path: Path) -> list[Path]:
    texts = {"deploy.toml": "schema = 1\n", "candidates.json": "{}\n", "notes.html": "<b>&amp;</b>\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


@pytest.mark.parametrize("output", ["release", "release.zip"])
def test_documents_are_files_of_the_release_and_no_artifacts(tmp_path, documents, output):
    release = write_release(make_lineage(tmp_path), tmp_path / output, documents=documents)
    assert {"deploy.toml", "candidates.json", "notes.html"} <= set(release.manifest.files)
    assert set(release.manifest.artifacts) == {"net.xml", "net.onnx", "net.int8.onnx"}
    with pytest.raises(UsageError, match=r"no artifact 'deploy.toml'"), opened_artifact(f"{release.path}#deploy.toml"):
        pass


def test_the_same_documents_give_the_same_bytes(tmp_path, documents):
    artifacts = make_lineage(tmp_path)
    for name in ("one.zip", "two.zip"):
        write_release(artifacts, tmp_path / name, name="lungs", documents=documents)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("name", ["deploy.toml", "candidates.json", "notes.html"])
def test_a_changed_document_is_refused_and_so_is_one_that_is_missing(tmp_path, documents, name):
    write_release(make_lineage(tmp_path), tmp_path / "release", documents=documents)
    generate_key(tmp_path / "KEY")
    sign_release(tmp_path / "release", load_private_key(tmp_path / "KEY"))
    path = tmp_path / "release" / name
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(IntegrityError, match=name):
        verify(tmp_path / "release")
    path.unlink()
    with pytest.raises(IntegrityError, match=name):
        verify(tmp_path / "release")


@pytest.mark.parametrize(
    "name", ["net.onnx", "NET.XML.JSON", "net.bin", "Release.json", "release.sig", "sbom.cdx.json", "report.html"]
)
def test_a_document_under_a_name_that_is_taken_is_refused(tmp_path, name):
    artifacts = make_lineage(tmp_path)
    (tmp_path / "other").mkdir()
    document = tmp_path / "other" / name
    document.write_text("text")
    with pytest.raises(UsageError, match=r"two files of the name|one of the release's own"):
        write_release(artifacts, tmp_path / "release", documents=[document])
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize("name", ["a b.html", "<b>.html", "-x", "café.html"])
def test_a_document_with_a_name_that_no_release_has_is_refused(tmp_path, name):
    document = tmp_path / name
    document.write_text("text")
    with pytest.raises(UsageError, match="is not made of"):
        write_release(make_lineage(tmp_path), tmp_path / "release", documents=[document])


@pytest.mark.parametrize("make", ["nothing", "a folder"])
def test_a_document_that_is_no_file_is_refused(tmp_path, make):
    document = tmp_path / "report.html"
    if make == "a folder":
        document.mkdir()
    with pytest.raises(InputError, match="is no file"):
        write_release(make_lineage(tmp_path), tmp_path / "release", documents=[document])


def test_the_bill_of_materials_names_every_document(tmp_path, documents):
    write_release(make_lineage(tmp_path), tmp_path / "release", documents=documents)
    bill = json.loads((tmp_path / "release" / "sbom.cdx.json").read_text())
    kinds = {one["name"]: one["type"] for one in bill["components"]}
    assert {kinds[path.name] for path in documents} == {"file"}
