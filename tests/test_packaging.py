"""The wheel holds the package and nothing else, and works where it is installed."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCES = ("medattn_edge", "cli", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


def run(*words: object, cwd: Path) -> str:
    """The stdout of a command that must succeed, run where the source tree is not in the way."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources."""
    pytest.importorskip("build", reason="build is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, folder / "source" / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source", cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # Appended to sys.path, so that the wheel comes first; a nested .pth, such as an editable install's, is not read.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    borrowed = {path for path in sys.path if Path(path).name == "site-packages"}  # those that .pth files added as well
    borrowed = sorted(borrowed | {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    [info] = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {"medattn_edge", info}
    expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("medattn_edge/**/*.py")}
    expected |= {f"medattn_edge/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("cli/*.py")}
    expected |= {f"medattn_edge/data/{path.name}" for path in (ROOT / "medattn_edge" / "data").glob("*.safetensors")}
    expected |= {f"medattn_edge/data/{path.name}" for path in (ROOT / "medattn_edge" / "data").glob("*.onnx*")}
    templates = ROOT.glob("medattn_edge/scanner/observe/templates/*.html")
    expected |= {path.relative_to(ROOT).as_posix() for path in templates}
    expected |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("medattn_edge/evidence/templates/*")}
    assert {name for name in names if not name.startswith(info)} >= expected | {"medattn_edge/py.typed"}
    assert {Path(name).suffix for name in names if not name.startswith(info)} <= {
        ".py",
        ".typed",
        ".safetensors",
        ".onnx",
        ".md",
        ".json",
        ".html",
        ".css",
    }
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names


def test_the_wheel_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_string(archive.read(name).decode())
    assert metadata["Name"] == "medattn-edge"
    assert metadata["License-Expression"] == "Apache-2.0"
    always = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">")[0] for line in always} == {"numpy", "typer", "rich", "tomli"}
    [tomli] = [line for line in always if line.startswith("tomli")]
    assert tomli.endswith('; python_version < "3.11"')
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"torch", "export", "onnxruntime", "nifti", "demo", "dicom", "dicom-codecs", "node"} <= extras
    node = [line for line in metadata.get_all("Requires-Dist", []) if 'extra == "node"' in line]
    assert {re.split("[<>;@ ]", line)[0] for line in node} == {"medattn-edge[dicom]", "jinja2", "pynetdicom"}


def test_the_installed_command_exports_a_checkpoint(installed, small_checkpoint, tmp_path):
    from medattn_edge.artifact import Artifact
    from medattn_edge.artifact import sha256 as hash_of

    where = run(installed / "bin" / "python", "-c", "import medattn_edge; print(medattn_edge.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    command = installed / "bin" / "medattn-edge"
    assert run(command, "--version", cwd=tmp_path).startswith("medattn-edge ")

    shutil.copy(small_checkpoint, tmp_path / "small.safetensors")
    run(command, "export", "small.safetensors", "-o", "small.onnx", "--attention", cwd=tmp_path)
    artifact = Artifact.read(tmp_path / "small.onnx")
    assert artifact.manifest.parent_sha256 == hash_of(tmp_path / "small.safetensors")
    assert artifact.manifest.attention_maps
    assert {case["input"] for case in artifact.manifest.agreement} > {"random"}
    assert all(case["sqnr_db"] >= 90 for case in artifact.manifest.agreement)
