"""Tests of `bench` run beside other tests: a host so busy that it declines a ratio, with exit code 3, is no failure."""

from __future__ import annotations

import re
from typing import Protocol


class Ended(Protocol):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def check_measured(done: Ended) -> None:
    """Exit code 3 when a ratio was declined, in a table or in JSON, and 0 when none was."""
    declined = re.search(r'a ratio was declined|"ratio_declined": "', done.stdout)
    assert done.returncode == (3 if declined else 0), done.stdout + done.stderr
