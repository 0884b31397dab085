"""A scanner host runs with numpy and one runtime; imports point down; the library never prints."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume

FORBIDDEN = ("torch", "safetensors", "onnx", "onnxscript", "scipy", "slicerio")
WITHOUT = f"""
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN}:
            raise ImportError(f"{{name}} is not on this host", name=name)

sys.meta_path.insert(0, Forbidden())
"""


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Python code in a fresh process, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


@pytest.mark.parametrize(
    "module",
    [
        *("inference", "io", "backends", "artifact", "agreement", "labels", "timing", "volume", "spec", "cli"),
        *("io.dicom.volume", "io.dicom.seg", "io.dicom.secondary_capture", "inference.dicom_results"),
    ],
)
def test_it_imports_on_a_host_without_torch(module):
    done = run(WITHOUT + f"import medattn_edge.{module}\nimport medattn_edge; dir(medattn_edge)")
    assert done.returncode == 0, done.stderr


def test_every_backend_is_known_on_a_host_without_torch():
    done = run(WITHOUT + "from medattn_edge.backends import backends; sys.stdout.write(' '.join(backends()))")
    assert {"eager", "onnxruntime", "tensorrt", "torchscript"} <= set(done.stdout.split()), done.stderr


def test_a_host_without_torch_segments_a_scan(small_artifact, tmp_path):
    from medattn_edge.io import read_labels, read_volume

    voxels = np.random.default_rng(3).random((5, 36, 40)).astype(np.float32)
    write_nifti(tmp_path / "scan.nii.gz", make_volume(voxels, (4.0, 1.5, 1.5)))
    command = "sys.argv[0] = 'medattn-edge'\nfrom medattn_edge.cli import main\nmain()"
    done = run(WITHOUT + command, "infer", small_artifact, tmp_path / "scan.nii.gz", "-o", tmp_path / "labels.nii.gz")
    assert done.returncode == 0, done.stderr
    assert "organ" in done.stdout
    labels, scan = read_labels(tmp_path / "labels.nii.gz"), read_volume(tmp_path / "scan.nii.gz")
    assert labels.voxels.shape == (5, 36, 40)
    assert set(np.unique(labels.voxels)) == {0, 1}
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)


def test_a_host_without_torch_segments_a_dicom_series(small_artifact, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import write_series

    voxels = np.random.default_rng(3).integers(-1000, 1000, (4, 40, 36)).astype(np.int16)
    affine = np.array([[0, 0, 1.5, -20], [0, 1.25, 0, -30], [4.0, 0, 0, 7], [0, 0, 0, 1]])
    write_series(tmp_path / "series", voxels, affine)
    command = "sys.argv[0] = 'medattn-edge'\nfrom medattn_edge.cli import main\nmain()"
    words = ("infer", small_artifact, tmp_path / "series", "-o", tmp_path / "seg.dcm", "--key-slices", 1)
    done = run(WITHOUT + command, *words)
    assert done.returncode == 0, done.stderr
    assert pydicom.dcmread(tmp_path / "seg.dcm").Modality == "SEG"
    assert (tmp_path / "key_1.dcm").exists()


def test_a_host_without_torch_is_told_what_to_install(tmp_path):
    (tmp_path / "network.safetensors").write_bytes(b"")
    command = "sys.argv[0] = 'medattn-edge'\nfrom medattn_edge.cli import main\nmain()"
    done = run(WITHOUT + command, "export", tmp_path / "network.safetensors", "-o", tmp_path / "network.onnx")
    assert done.returncode == 3, done.stderr
    assert "[export]'" in done.stderr
    done = run(WITHOUT + command, "deploy", tmp_path / "network.safetensors", "-o", tmp_path / "release")
    assert done.returncode == 3, done.stderr
    assert "[deploy]'" in done.stderr


def test_help_imports_nothing_heavy():
    heavy = {"torch", "numpy", "onnxruntime", "onnx", "onnxscript", "safetensors", "nibabel", "scipy", "PIL", "nrrd"}
    heavy |= {"pydicom", "highdicom", "pynetdicom"}
    code = f"""
import sys
sys.argv = ["medattn-edge", "--help"]
from medattn_edge.cli import main
try:
    main()
except SystemExit as left:
    sys.stderr.write(f"{{left.code}} {{sorted({heavy} & set(sys.modules))}}")
"""
    done = run(code)
    assert done.stdout.count("\n") > 5
    assert done.stderr == "0 []"


def test_importing_the_package_imports_nothing_heavy():
    done = run("import sys, medattn_edge; sys.stdout.write(str({'torch', 'numpy', 'onnxruntime'} & set(sys.modules)))")
    assert done.stdout == "set()", done.stderr


def test_imports_point_down():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def sources() -> list[Path]:
    return sorted([*ROOT.glob("medattn_edge/**/*.py"), *ROOT.glob("cli/*.py")])


def test_no_module_is_a_drawer_for_odds_and_ends():
    assert [path for path in sources() if path.stem in {"utils", "util", "helpers", "helper", "common", "misc"}] == []


def test_the_library_never_prints_or_exits():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*print\(", text, re.MULTILINE), path
        if "cli" not in path.relative_to(ROOT).parts:
            # In code, not in texts: a command that a hint tells may say so.
            names = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
            assert not names & {"argv", "ArgumentParser"}, path
            assert not re.search(r"\bsys\.exit\b", text), path


def test_every_folder_of_the_library_is_in_the_wheel():
    from medattn_edge.newer_python import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("medattn_edge/**/__init__.py")}
    assert set(packages) == folders | {"medattn_edge.cli"}


def cycles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of names that lead to one another."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for name in imports.get(waiting.pop(), set()) - found:
                found.add(name)
                waiting.append(name)
        return found

    below = {name: reached(name) for name in imports}
    groups = [{other for other in below[name] if name in below.get(other, set())} for name in imports]
    return [group for index, group in enumerate(groups) if group and group not in groups[:index]]


def test_no_module_imports_itself_by_way_of_others():
    import grimp

    graph = grimp.build_graph("medattn_edge", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]
    assert cycles(imports) == []
