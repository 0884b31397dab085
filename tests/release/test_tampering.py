"""Whatever is changed in a release is refused, and before anything of a model is interpreted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact, Manifest
from medattn_edge.errors import IntegrityError, MedattnError
from medattn_edge.release import (
    generate_key,
    load_private_key,
    opened_artifact,
    sign_release,
    trusted_keys,
    verify,
)
from tests.support.releases import signed_release


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A signed folder and its trusted keys; tests put back what they change."""
    path, public = signed_release(tmp_path_factory.mktemp("release"))
    return path, trusted_keys(public)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A signed .zip and its trusted keys."""
    path, public = signed_release(tmp_path_factory.mktemp("packed"), "release.zip")
    return path, trusted_keys(public)


@pytest.fixture
def nothing_interpreted(monkeypatch):
    """Reading an artifact or its manifest fails the test."""

    def read(*_: Any) -> None:
        raise AssertionError("an artifact was read before the release was known to be whole")

    monkeypatch.setattr(Artifact, "read", classmethod(read))
    monkeypatch.setattr(Manifest, "from_json", classmethod(read))


def flips(data: bytes, places: range) -> Iterator[bytes]:
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        yield bytes(changed)


def is_refused(path: Path, keys: Any, codes: tuple[int, ...] = (5,)) -> bool:
    """As `refused`, for thousands of times."""
    try:
        verify(path, keys)
    except MedattnError as error:
        return error.exit_code in codes
    return False


def refused(path: Path, keys: Any) -> IntegrityError:
    with pytest.raises(IntegrityError) as raised, opened_artifact(path, keys):
        pass
    assert raised.value.expected
    assert raised.value.hint
    return raised.value


@pytest.mark.slow
def test_every_byte_of_manifest_and_signature_and_every_thirteenth_of_every_file(
    release, nothing_interpreted, record_testsuite_property
):
    path, keys = release
    count = 0
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        step = 1 if file.name in ("release.json", "release.sig") else 13
        for changed in [*flips(data, range(0, len(data), step)), data[:-1], data + b"\0", b""]:
            file.write_bytes(changed)
            assert is_refused(path, keys), (file.name, count)
            count += 1
        with pytest.raises(IntegrityError), opened_artifact(path, keys):  # what opens is refused as well
            pass
        file.write_bytes(data)
    record_testsuite_property("changes of a folder that were refused", count)
    assert count > 5000, count
    assert verify(path, keys).signer is not None


@pytest.mark.slow
def test_every_byte_of_a_zip(packed, nothing_interpreted, record_testsuite_property):
    path, keys = packed
    data = path.read_bytes()
    manifest = data.index(b'{\n  "artifacts"')
    count = 0
    # All that is not the contents of a file, and a sample of that.
    places = {*range(0, len(data), 29), *range(manifest - 60, manifest), *range(len(data) - 900, len(data))}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        # 4 where the manifest has another name now: it is no release at all.
        assert is_refused(path, keys, (4, 5)), place
        count += 1
    for changed in (data[:-1], data + b"\0", b"\0" + data, data[: len(data) // 2], b"PK\x05\x06" + bytes(18), b""):
        path.write_bytes(changed)
        with pytest.raises(MedattnError):
            verify(path, keys)
        count += 1
    path.write_bytes(data)
    record_testsuite_property("changes of a zip that were refused", count)
    assert count > 1400, count
    assert verify(path, keys).signer is not None


def test_without_a_signature_a_changed_manifest_still_does_not_fit_what_it_names(release, tmp_path):
    """Whoever changes a file has to change its hash, and the signature no longer holds."""
    path, keys = release
    copy = shutil.copytree(path, tmp_path / "copy")
    before = verify(copy).manifest.files["net.bin"].sha256
    (copy / "net.bin").write_bytes(b"x" * 200)
    after = hashlib.sha256(b"x" * 200).hexdigest()
    text = (copy / "release.json").read_text().replace(before, after)
    (copy / "release.json").write_text(text)
    refused(copy, keys)
    (copy / "release.sig").unlink()
    assert "is not signed" in refused(copy, keys).found
    # Nobody asked for a signature, and the artifact's own manifest has the hash.
    with pytest.raises(IntegrityError), opened_artifact(copy):
        pass


def swap(first: str, second: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path / first).write_bytes((path / second).read_bytes())

    return change


def link(target: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path / "net.bin").rename(path.parent / "net.bin")
        (path / "net.bin").symlink_to(target.format(parent=path.parent))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(swap("net.xml", "net.onnx"), "net.xml", id="a swapped engine"),
        pytest.param(swap("net.onnx.json", "net.xml.json"), "net.onnx.json", id="the manifest of another artifact"),
        pytest.param(lambda path: (path / "net.bin").unlink(), "has no net.bin", id="a missing companion"),
        pytest.param(lambda path: (path / "net.int8.onnx").unlink(), "has no net.int8", id="a missing artifact"),
        pytest.param(lambda path: (path / "sbom.cdx.json").unlink(), "has no sbom", id="a missing bill"),
        pytest.param(lambda path: (path / "release.sig").unlink(), "not signed", id="no signature"),
        pytest.param(lambda path: (path / "more.txt").touch(), "holds more.txt", id="one file more"),
        pytest.param(lambda path: (path / ".hidden").touch(), "'.hidden'", id="a hidden file"),
        pytest.param(lambda path: (path / "folder").mkdir(), "a folder", id="a folder"),
        pytest.param(lambda path: os.mkfifo(path / "pipe"), "special file", id="a pipe"),
        pytest.param(link("../net.bin"), "symbolic link", id="a link out of the folder"),
        pytest.param(link("{parent}/net.bin"), "symbolic link", id="an absolute link"),
        pytest.param(link("net.xml"), "symbolic link", id="a link inside"),
        pytest.param(lambda path: (path / "NET.onnx").touch(), "knows no case", id="names that differ in case"),
        pytest.param(lambda path: (path / "net.bin").rename(path / "net.BIN"), "net.BIN", id="another case"),
        pytest.param(lambda path: (path / "a b").touch(), "'a b'", id="a name with a space"),
        pytest.param(lambda path: (path / "ü").touch(), "is not made of", id="a name that is not ASCII"),
        pytest.param(lambda path: (path / "a\\b").touch(), "another folder", id="a path as Windows writes it"),
        pytest.param(
            lambda path: (path / "release.json").write_bytes(b"{" * (5 << 20)), "more than", id="an endless manifest"
        ),
        pytest.param(lambda path: (path / "release.sig").write_bytes(bytes(65)), "more than", id="a long signature"),
    ],
)
def test_what_stands_in_the_folder(release, tmp_path, nothing_interpreted, change, told):
    path, keys = release
    copy = shutil.copytree(path, tmp_path / "copy")
    change(copy)
    assert told in refused(copy, keys).message


def test_an_unknown_signer(release, tmp_path, nothing_interpreted):
    path, _ = release
    copy = shutil.copytree(path, tmp_path / "copy")
    generate_key(tmp_path / "stranger")
    sign_release(copy, load_private_key(tmp_path / "stranger"))
    _, keys = release
    error = refused(copy, keys)
    assert "no signature of this release by a trusted key" in error.found
    assert "KEY's owner" in error.expected
    assert verify(copy, trusted_keys(tmp_path / "stranger.pub")).signer is not None


def test_a_signature_of_another_release(release, tmp_path, nothing_interpreted):
    path, keys = release
    copy = shutil.copytree(path, tmp_path / "copy")
    signature = (path / "release.sig").read_bytes()
    (copy / "release.json").write_bytes((path / "release.json").read_bytes().replace(b'"version": 1', b'"version": 2'))
    (copy / "release.sig").write_bytes(signature)
    refused(copy, keys)


def rewritten(values: dict[str, Any], key: Any) -> tuple[bytes, bytes]:
    """A manifest in the right form and signed, whatever it says."""
    data = (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
    return data, key.sign(data)


@pytest.mark.parametrize(
    "name",
    ["../net.bin", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b", "C:net.bin", "-o", "NET.XML", "x" * 300],
)
def test_a_name_that_leads_elsewhere_is_refused_even_when_it_is_signed(release, tmp_path, nothing_interpreted, name):
    path, keys = release
    copy = shutil.copytree(path, tmp_path / "copy")
    values = json.loads((copy / "release.json").read_text())
    values["files"][name] = values["files"]["net.bin"]
    data, signature = rewritten(values, load_private_key(path.parent / "KEY"))
    (copy / "release.json").write_bytes(data)
    (copy / "release.sig").write_bytes(signature)
    assert "release.json cannot be read" in refused(copy, keys).message


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(schema=2),
        lambda values: values.update(schema=True),
        lambda values: values.update(kind="another kind"),
        lambda values: values.update(version="3"),
        lambda values: values.update(version=-1),
        lambda values: values.update(version=True),
        lambda values: values.update(default="net.bin"),
        lambda values: values.update(default=["net.xml"]),
        lambda values: values.update(name="../lungs"),
        lambda values: values.update(more=1),
        lambda values: values.pop("files"),
        lambda values: values.update(files=[]),
        lambda values: values.update(artifacts={}),
        lambda values: values.update(artifacts={"net.xml": 3}),
        lambda values: values["files"]["net.bin"].update(bytes=-1),
        lambda values: values["files"]["net.bin"].update(bytes=1.5),
        lambda values: values["files"]["net.bin"].update(sha256="D" * 64),
        lambda values: values["files"]["net.bin"].update(mode=0o777),
        lambda values: values["files"].update({f"f{index}": values["files"]["net.bin"] for index in range(1001)}),
        lambda values: values["artifacts"]["net.xml"].pop("companions"),
        lambda values: values["artifacts"]["net.xml"].update(companions={"../net.bin": "d" * 64}),
        lambda values: values["artifacts"]["net.xml"].update(precision="fp32"),
        lambda values: values["artifacts"]["net.xml"].update(lineage=[]),
        lambda values: values["artifacts"]["net.xml"].update(lineage=[3]),
    ],
)
def test_a_manifest_that_says_something_else_is_refused_even_when_it_is_signed(release, tmp_path, change):
    path, keys = release
    copy = shutil.copytree(path, tmp_path / "copy")
    values = json.loads((copy / "release.json").read_text())
    change(values)
    data, signature = rewritten(values, load_private_key(path.parent / "KEY"))
    (copy / "release.json").write_bytes(data)
    (copy / "release.sig").write_bytes(signature)
    refused(copy, keys)


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A .zip of another making, its entries as given."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", compression) as made:
        for name, data in files:
            entry = zipfile.ZipInfo("placeholder", (1980, 1, 1, 0, 0, 0))
            entry.filename, entry.orig_filename, entry.compress_type = name, name, compression
            made.writestr(entry, data)
    return into.getvalue()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "net.bin\0.txt", "NET.BIN", "d/"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_of_a_zip_that_leads_elsewhere(packed, tmp_path, nothing_interpreted, name):
    path, keys = packed
    with zipfile.ZipFile(path) as good:
        files = [(one, good.read(one)) for one in good.namelist()]
    (tmp_path / "bad.zip").write_bytes(zipped([*files, (name, b"x")]))
    refused(tmp_path / "bad.zip", keys)
    assert [one.name for one in tmp_path.iterdir()] == ["bad.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(packed, tmp_path, nothing_interpreted):
    path, keys = packed
    with zipfile.ZipFile(path) as good:
        files = [(one, good.read(one)) for one in good.namelist()]
    for double in ("net.xml", "release.json", "release.sig"):
        for bad in ([*files, (double, b"evil")], [(double, b"evil"), *files]):
            (tmp_path / "bad.zip").write_bytes(zipped(bad))
            assert "two files of one name" in refused(tmp_path / "bad.zip", keys).message


def test_a_bomb_is_not_unpacked(packed, tmp_path, nothing_interpreted):
    path, keys = packed
    (tmp_path / "bad.zip").write_bytes(zipped([("release.json", bytes(50 << 20))], zipfile.ZIP_DEFLATED))
    assert "is compressed" in refused(tmp_path / "bad.zip", keys).message
    many = zipped([(f"f{index}", b"") for index in range(2000)])
    (tmp_path / "bad.zip").write_bytes(many)
    assert "2000 entries" in refused(tmp_path / "bad.zip", keys).message
    # Entries that overlap: each claims nearly the whole file.
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 20 : at + 28] = (len(data) - 100).to_bytes(4, "little") * 2
    (tmp_path / "bad.zip").write_bytes(data)
    refused(tmp_path / "bad.zip", keys)


def test_a_link_in_a_zip(packed, tmp_path, nothing_interpreted):
    path, keys = packed
    into = io.BytesIO()
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(into, "w") as bad:
        for name in good.namelist():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = (0o120777 if name == "net.bin" else 0o100644) << 16
            bad.writestr(entry, good.read(name))
    (tmp_path / "bad.zip").write_bytes(into.getvalue())
    assert "no plain file" in refused(tmp_path / "bad.zip", keys).message


def test_a_zip_of_another_making_with_the_right_files(packed, tmp_path, nothing_interpreted):
    """What nobody signed could hide in its headers; unpacked it is taken."""
    path, keys = packed
    with zipfile.ZipFile(path) as good:
        (tmp_path / "other.zip").write_bytes(zipped([(one, good.read(one)) for one in good.namelist()]))
        assert "belong to no file" in refused(tmp_path / "other.zip", keys).message
        good.extractall(tmp_path / "folder")
    assert verify(tmp_path / "folder", keys).signer is not None


def test_a_folder_that_is_replaced_while_it_is_read_stays_the_one_that_was_opened(release, tmp_path):
    from medattn_edge.release.container import opened_container

    path, _ = release
    copy = shutil.copytree(path, tmp_path / "copy")
    with opened_container(copy) as container:
        copy.rename(tmp_path / "moved")
        copy.mkdir()
        (copy / "net.bin").write_bytes(b"evil")
        assert b"".join(container.chunks("net.bin", 1000)) == (path / "net.bin").read_bytes()


def test_a_file_that_becomes_a_link_after_it_was_listed_is_not_followed(release, tmp_path):
    from medattn_edge.release.container import opened_container

    path, _ = release
    copy = shutil.copytree(path, tmp_path / "copy")
    with opened_container(copy) as container:
        (copy / "net.bin").unlink()
        (copy / "net.bin").symlink_to("/etc/hostname")
        with pytest.raises(IntegrityError, match=r"net\.bin cannot be read"):
            list(container.chunks("net.bin", 1000))
        (copy / "net.bin").unlink()
        os.mkfifo(copy / "net.bin")
        with pytest.raises(IntegrityError, match="no plain file any more"):
            list(container.chunks("net.bin", 1000))
