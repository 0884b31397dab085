"""What README, CONTRIBUTING and the page of the pipeline say is what happens; tests/docs runs the other pages."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medattn_edge.io import read_labels
from tests.support import ROOT

README, CONTRIBUTING, PIPELINE = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "docs/pipeline.md")
)
PROGRAM = Path(sys.executable).with_name("medattn-edge")


def blocks(language: str, page: str = README) -> list[str]:
    return [text for found, text in re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL) if found == language]


def test_the_python_example_runs_as_it_is(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"'(\w+)':", done.stdout)) == {"right_lung", "left_lung"}
    assert set(read_labels(tmp_path / "lungs.nii.gz").voxels.ravel()) == {0, 1, 2}


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^make ([\w-]+)", blocks("sh")[0], re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_every_command_of_the_pipeline_exists() -> None:
    commands = set(re.findall(r"`medattn-edge (\w+)", PIPELINE))
    assert commands == {
        *("train", "inspect", "export", "calibrate", "lint", "compile", "infer", "compare", "bench", "doctor", "node"),
        *("release", "explain", "deploy", "report", "bisect"),
    }
    for command in commands:
        done = subprocess.run([PROGRAM, command, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0


def test_every_extra_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for names in re.findall(r"medattn-edge\[([\w,-]+)\]", README + PIPELINE):
        for name in names.split(","):
            assert re.search(rf"^{name} = \[", project, re.MULTILINE), name


def test_the_tree_has_every_folder_and_module_and_no_other() -> None:
    tree = next(block for block in blocks("", CONTRIBUTING) if block.startswith("medattn_edge/"))
    rows = re.findall(r"^( *)(\S.*?)(?: {2,}|$)", tree, re.MULTILINE)
    names = {name.rstrip("/") for indent, row in rows if indent for name in row.split()}
    package = ROOT / "medattn_edge"
    there = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names == there - {"__init__.py", "__main__.py"}
    assert all((ROOT / row.rstrip("/")).is_dir() for indent, row in rows if not indent)
    for folder, inner in re.findall(r"^  (\w+)/ .*?((?: \w+/,?)+)(?: |$)", tree, re.MULTILINE):
        assert all((package / folder / name).is_dir() for name in re.findall(r"\w+", inner)), inner


def test_what_the_pipeline_names_in_python_is_there() -> None:
    table = PIPELINE.partition("| step | command | in Python |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)", row.split("|")[3])]
    assert len(names) > 10
    for name in names:
        module, _, attribute = f"medattn_edge.{name}".rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name


def test_what_readme_links_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.slow
def test_the_demo_leaves_labels_and_pictures_of_both_networks(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "demo", "-o", tmp_path / "demo"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("lungs-attention-unet-2d", "lungs-self-guided"):
        for suffix in (".onnx", ".onnx.json", "-labels.nii.gz", "-overlay.png"):
            assert (tmp_path / "demo" / f"{name}{suffix}").is_file()
        assert f"verdict against {name}" in re.sub(r"against \S*/", "against ", done.stdout)
    assert done.stdout.count(": PASS (") == 2
