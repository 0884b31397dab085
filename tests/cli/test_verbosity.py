"""-q and -v are taken wherever they stand: before the command, after it, and at the end of the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from medattn_edge.cli import _COMMANDS, console
from tests.cli.conftest import Run


@pytest.mark.parametrize("command", [*_COMMANDS, "node init", "node status", "release write", "release diff"])
def test_every_command_takes_them(medattn: Run, command: str) -> None:
    told = medattn(*command.split(), "--help").stdout
    assert "--verbose" in told
    assert "--quiet" in told


@pytest.mark.parametrize("place", ["before", "after", "end"])
@pytest.mark.parametrize(
    ("word", "level"),
    [("-q", 0), ("--quiet", 0), ("", 1), ("-v", 2), ("--verbose", 2)],
    ids=["q", "quiet", "", "v", "verbose"],
)
def test_they_count_wherever_they_stand(medattn: Run, place: str, word: str, level: int, scan: Path) -> None:
    words = ["inspect", str(scan)]
    words.insert({"before": 0, "after": 1, "end": 2}[place], word)
    done = medattn(*filter(None, words))
    assert done.returncode == 0, done.stderr
    assert console.verbosity == level


def test_the_level_of_one_command_is_not_that_of_the_next(medattn: Run, scan: Path) -> None:
    assert medattn("inspect", scan, "-q").returncode == 0
    assert medattn("inspect", scan).returncode == 0
    assert console.verbosity == 1


def test_they_are_taken_by_the_commands_of_a_group(medattn: Run, tmp_path: Path) -> None:
    done = medattn("release", "show", tmp_path / "nothing", "-q")
    assert done.returncode == 4
    assert console.verbosity == 0
