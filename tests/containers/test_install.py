"""What the image for CPUs runs, run here: its own scripts in a clean environment, from its context alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.io import read_labels
from tests.containers.test_files import CONTAINERS, extras
from tests.support import ROOT
from tests.support.dicom_phantoms import real_ct
from tests.support.running_node import command, tiny_model
from tests.support.scans import write_nifti

pytestmark = pytest.mark.slow

BASE_BYTES = 110e6  # Debian's slim image (75 MB) with its python3 (30 MB); the image was not built here
IMAGE_BYTES = 600e6


def run(*words: object, cwd: Path, **more: str) -> str:
    """The stdout of a command that must succeed, in an environment that knows nothing of this one."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**clean, **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_context(folder: Path) -> None:
    """The files that .dockerignore lets through to the daemon."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    for name in (line[1:] for line in lines if line.startswith("!")):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "trial"))
        else:
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What /opt/medattn of the image is."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "src").mkdir()
    copy_context(folder / "src")
    scripts, prefix = folder / "src" / "containers", folder / "medattn"
    names = ",".join(extras(CONTAINERS / "Dockerfile.cpu"))
    python = Path(sys.base_prefix) / "bin" / "python3"
    said = run(scripts / "install.sh", prefix, names, scripts / "cpu.lock", cwd=folder, PYTHON=str(python))
    assert "every package by its SHA-256" in said
    run(scripts / "trim.sh", prefix, cwd=folder)
    shutil.rmtree(folder / "src")  # the image has none either
    return prefix


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def test_the_image_is_small_and_has_no_torch_and_nothing_that_installs(installed: Path, tmp_path: Path) -> None:
    assert size(installed) + BASE_BYTES < IMAGE_BYTES
    code = "import importlib.util as u; print([name for name in {} if u.find_spec(name)])"
    absent = "('torch', 'safetensors', 'pip', 'setuptools')"
    assert run(installed / "bin" / "python", "-c", code.format(absent), cwd=tmp_path) == "[]\n"


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_it_segments_as_the_environment_of_development_does(suffix: str, installed: Path, tmp_path: Path) -> None:
    model = tiny_model()
    artifact = tmp_path / f"net{suffix}"
    if suffix == ".xml":
        assert command("compile", model, "-o", artifact).returncode == 0
    else:
        shutil.copy(model, artifact)
        shutil.copy(model.with_name(f"{model.name}.json"), artifact.with_name(f"{artifact.name}.json"))
    scan = write_nifti(tmp_path / "scan.nii.gz", real_ct())
    here, there = tmp_path / "here.nii.gz", tmp_path / "there.nii.gz"
    assert command("infer", artifact, scan, "-o", here).returncode == 0
    run(installed / "bin" / "medattn-edge", "infer", artifact, scan, "-o", there, cwd=tmp_path)
    np.testing.assert_array_equal(read_labels(there).voxels, read_labels(here).voxels)
    assert len(np.unique(read_labels(there).voxels)) > 1


def test_a_node_of_the_image_passes_its_own_check(installed: Path, tmp_path: Path) -> None:
    program = installed / "bin" / "medattn-edge"
    run(program, "node", "init", tiny_model(), "-o", "node.toml", cwd=tmp_path)
    found = json.loads(run(program, "node", "check", "--config", "node.toml", "--json", cwd=tmp_path))
    assert found["ok"] is True
    assert {one["kind"] for one in found["checks"]} == {"model", "destination"}
