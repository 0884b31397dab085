"""An artifact is moved to its place with its companions, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.artifact import Artifact, Manifest, manifest_path, move_into, sha256, writing
from medattn_edge.spec import ModelSpec

SPEC = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (32, 32), (16, 16))


def artifact_in(folder: Path) -> Artifact:
    folder.mkdir()
    (folder / "staged.xml").write_bytes(b"graph")
    (folder / "staged.bin").write_bytes(b"weights")
    companions = {".bin": sha256(folder / "staged.bin")}
    manifest = Manifest(SPEC, "fp32", sha256(folder / "staged.xml"), "p" * 64, "openvino", 1, {}, {}, {}, 1, 1.0)
    return Artifact(folder / "staged.xml", replace(manifest, companions=companions))


def test_every_file_is_moved_and_can_be_read_there(tmp_path: Path) -> None:
    staged, path = artifact_in(tmp_path / "staging"), tmp_path / "net.xml"
    with writing(path) as files:
        moved = move_into(files, staged, path)
        assert not path.exists()
    assert Artifact.read(path) == moved
    assert path.with_suffix(".bin").read_bytes() == b"weights"
    assert list((tmp_path / "staging").iterdir()) == []


def test_when_a_file_is_missing_the_older_artifact_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    with writing(path) as files:
        move_into(files, artifact_in(tmp_path / "first"), path)
    before = {one: one.read_bytes() for one in (path, path.with_suffix(".bin"), manifest_path(path))}
    staged = artifact_in(tmp_path / "second")
    staged.path.with_suffix(".bin").write_bytes(b"other weights")
    staged.path.unlink()
    with pytest.raises(FileNotFoundError), writing(path) as files:
        move_into(files, staged, path)
    assert {one: one.read_bytes() for one in before} == before
    assert {one.name for one in tmp_path.iterdir() if one.is_file()} == {one.name for one in before}
