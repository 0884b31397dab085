"""What the README says is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from medattn_edge.io import read_labels
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = Path(sys.executable).with_name("medattn-edge")


def blocks(language: str) -> list[str]:
    return [text for found, text in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL) if found == language]


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
    commands = set(re.findall(r"`medattn-edge (\w+)", README))
    assert commands == {
        *("train", "inspect", "export", "calibrate", "lint", "compile", "infer", "compare", "bench", "doctor", "node"),
    }
    for command in commands:
        done = subprocess.run([PROGRAM, command, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0


def test_every_extra_and_every_folder_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for names in re.findall(r"medattn-edge\[([\w,-]+)\]", README):
        for name in names.split(","):
            assert re.search(rf"^{name} = \[", project, re.MULTILINE), name
    tree = next(block for block in blocks("") if block.startswith("medattn_edge/"))
    for folder in re.findall(r"^(\s*)(\w+)/", tree, re.MULTILINE):
        assert (ROOT / ("medattn_edge" if folder[0] else "") / folder[1]).is_dir(), folder


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
