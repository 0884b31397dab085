"""stdout and stderr that are closed, full or not read: no traceback, the right exit code, and whole files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from medattn_edge.cli import _COMMANDS, main
from medattn_edge.io import read_labels

PROGRAM = Path(sys.executable).with_name("medattn-edge")
WORDS = {
    **{f"{name} --help": (name, "--help") for name in _COMMANDS},
    **{f"node {name} --help": ("node", name, "--help") for name in ("init", "status", "check")},
    "help": ("--help",),
    "version": ("--version",),
    "inspect": ("inspect", "{artifact}"),
    "inspect --json": ("inspect", "{artifact}", "--json"),
    "lint --json": ("lint", "{artifact}", "--profile", "cpu", "--json"),
}
WAYS = {"closed": 3, "closed in the middle": 3, "full": 3, "not read": 141}


@contextmanager
def stream(way: str) -> Iterator[TextIO | None]:
    """A stream that takes nothing."""
    if way == "closed":
        yield None
    elif way == "closed in the middle":
        closed = open(os.devnull, "w")  # noqa: SIM115, PTH123
        closed.close()
        yield closed
    elif way == "full":
        with open("/dev/full", "w") as full:  # noqa: PTH123
            yield full
    else:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as pipe:  # noqa: PTH123
            yield pipe


def ended(monkeypatch: pytest.MonkeyPatch, words: Sequence[object], **streams: TextIO | None) -> int:
    """The exit code of a command in this process, in which a traceback is the test's own."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["medattn-edge", *map(str, words)])
        for name, one in streams.items():
            patch.setattr(sys, name, one)
        with pytest.raises(SystemExit) as left:
            main()
        assert all(getattr(sys, name) is one for name, one in streams.items())  # as they were
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WORDS)
def test_results_that_do_not_arrive_are_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], artifact: Path, name: str, way: str
) -> None:
    words = [word.format(artifact=artifact) for word in WORDS[name]]
    with stream(way) as out:
        assert ended(monkeypatch, words, stdout=out) == WAYS[way]
    said = capfd.readouterr().err
    assert ("cannot write to stdout" in said) == (way != "not read")
    assert "Traceback" not in said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_error_keeps_its_exit_code_and_is_said_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, way: str, more: tuple[str, ...]
) -> None:
    with stream(way) as out:
        assert ended(monkeypatch, ["inspect", tmp_path / "no.onnx", *more], stdout=out) == 4
    assert "no.onnx does not exist" in capfd.readouterr().err
    with stream(way) as err:
        assert ended(monkeypatch, ["inspect", tmp_path / "no.onnx", *more], stderr=err) == 4
    assert ("does not exist" in capfd.readouterr().out) == bool(more)


@pytest.mark.parametrize("way", WAYS)
def test_remarks_that_do_not_arrive_change_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], artifact: Path, scan: Path, tmp_path: Path,
    way: str,
) -> None:  # fmt: skip
    output = tmp_path / "labels.nii.gz"
    with stream(way) as err:
        assert ended(monkeypatch, ["-v", "infer", artifact, scan, "-o", output, "--json"], stderr=err) == 0
    assert json.loads(capfd.readouterr().out)["written"]["labels"] == str(output)
    assert read_labels(output).shape == (5, 40, 48)


@pytest.mark.parametrize(
    ("shell", "code"),
    [(">/dev/full", 3), ("| true", 141), ("2>&-", 0), ("<&- >&- 2>&-", 3)],
)
def test_files_are_whole_whatever_the_shell_does_with_the_streams(
    artifact: Path, scan: Path, tmp_path: Path, shell: str, code: int
) -> None:
    """Descriptors that are closed must not be given to the files that are written."""
    line = f'"$@" {shell}; exit ${{PIPESTATUS[0]}}'
    words = ["infer", str(artifact), str(scan), "-o", str(tmp_path / "labels.nii.gz"), "--overlay", "o.png", "--json"]
    done = subprocess.run(
        ["bash", "-c", line, "bash", str(PROGRAM), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert read_labels(tmp_path / "labels.nii.gz").shape == (5, 40, 48)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.nii.gz", "o.png"]
