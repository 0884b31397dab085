"""Killed before any call and resumed, a cohort has done every case once, lost none, and left nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.killed_cohort import CALLS


def kills(artifact: Path, scans: Path, root: Path, first: int, step: int) -> list[dict[str, Any]]:
    """The outcome of each kill, the last of a run that was not killed."""
    root.mkdir()
    words = [sys.executable, "-m", "tests.support.killed_cohort", artifact, scans, root, str(first), str(step)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(outcomes: list[dict[str, Any]]) -> None:
    *killed, whole = outcomes
    assert whole["call"] == ""
    assert sorted(whole["files"]) == sorted(
        ["volumes.csv", "failures.csv", "left_out.csv", *(f"{n}{s}" for n in "ab" for s in SUFFIXES)]
    )
    for one in killed:
        where = f"before call {one['number']}, {one['call']}"
        assert sorted(one["files"]) == sorted(whole["files"]), where
        different = [name for name in whole["files"] if one["files"][name] != whole["files"][name]]
        assert {Path(name).suffix for name in different} <= {".json"}, where  # of records the seconds differ
        assert sorted(one["done"] + one["skipped"]) == ["a", "b"], where
        assert one["skipped"] == one["whole"], where


SUFFIXES = ("_labels.nii.gz", ".png", ".json")


def test_a_cohort_that_is_killed_goes_on_where_it_was(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    outcomes = kills(small_artifact, scans, tmp_path / "kills", 2, 17)
    check(outcomes)
    assert len(outcomes) > 4
    assert any(len(one["whole"]) == 1 for one in outcomes), "one was killed between two cases"


@pytest.mark.slow
def test_it_does_so_before_every_call(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    outcomes = kills(small_artifact, scans, tmp_path / "kills", 1, 1)
    check(outcomes)
    assert len({one["call"] for one in outcomes}) > len(CALLS) / 2
