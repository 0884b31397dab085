"""The shell completes commands and options; files are the shell's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("medattn-edge")


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the program is not installed beside this Python")
@pytest.mark.parametrize(
    ("words", "wanted"), [("medattn-edge in", {"infer", "inspect"}), ("medattn-edge infer --over", {"--overlap"})]
)
def test_commands_and_options_are_completed(words: str, wanted: set[str]) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    environment = {**os.environ, **typed, "_MEDATTN_EDGE_COMPLETE": "complete_bash"}
    done = subprocess.run([str(PROGRAM)], env=environment, capture_output=True, text=True, check=True)
    assert wanted <= set(done.stdout.split())
    assert all(one.startswith(words.split()[-1]) for one in done.stdout.split())


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the program is not installed beside this Python")
@pytest.mark.parametrize(("shell", "answer", "code"), [("bash", "", 0), ("zsh", "_files", 0), ("fish", "", 1)])
@pytest.mark.parametrize(
    "words", ["medattn-edge infer ", "medattn-edge infer net.onnx s", "medattn-edge bench --scan "]
)
def test_names_of_files_are_left_to_the_shell(shell: str, answer: str, code: int, words: str, tmp_path: Path) -> None:
    """The shell quotes spaces, expands ~ and goes on into folders; what is given by name here would get none of it."""
    (tmp_path / "scan.nii.gz").touch()
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    typed |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
    environment = {**os.environ, **typed, "_MEDATTN_EDGE_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([str(PROGRAM)], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == (answer, code), done.stderr
