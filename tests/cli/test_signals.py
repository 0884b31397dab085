"""A command that is ended leaves no half file, and says how it ended; a name that is no text is named as the cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("json_wanted", [False, True])
def test_a_command_that_is_ended_removes_its_temporary_files(
    tmp_path: Path, number: int, code: int, word: str, json_wanted: bool
) -> None:
    path = tmp_path / "labels.npz"
    path.write_bytes(b"old")
    words = [sys.executable, "-m", "tests.cli.waiting_command", "wait", str(path)]
    words += ["--json"] if json_wanted else []
    program = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with program:
        assert program.stderr is not None
        assert program.stderr.readline() == "halfway\n"
        assert len(list(tmp_path.iterdir())) == 2
        program.send_signal(number)
        out, err = program.communicate(timeout=60)
    assert program.returncode == code
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    assert "Traceback" not in err
    if json_wanted:
        assert json.loads(out)["error"]["code"] == word
    else:
        assert word in err


@pytest.mark.parametrize(
    "words", [["inspect", b"caf\xe9.onnx"], ["infer", "net.onnx", b"it's \xff.nii.gz", "-o", "l.npz"]]
)
def test_a_name_that_is_not_utf_8_is_named_with_a_line_that_renames_it(tmp_path: Path, words: list[Any]) -> None:
    bad = next(os.fsdecode(word) for word in words if isinstance(word, bytes))
    (tmp_path / bad).write_bytes(b"")
    program = Path(sys.executable).with_name("medattn-edge")
    done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
    hint = done.stderr.split("next: ")[1].strip()
    renamed = subprocess.run(["bash", "-c", hint], cwd=tmp_path, capture_output=True, check=False)
    assert renamed.returncode == 0, renamed.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["ANOTHER_NAME"]


def test_a_name_that_is_not_utf_8_is_json_when_json_was_asked_for(medattn: Run) -> None:
    done = medattn("inspect", "caf\udce9.onnx", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert "is not UTF-8" in error["message"]
    assert r"$'caf\xe9.onnx'" in error["hint"]
