"""The lowest versions: floors.txt is pyproject.toml's lower bounds, and what is tested and installed is within them."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from tests.support import ROOT
from tests.support.floors import constrained_versions, floors, lower_bounds


def numbers(text: str) -> tuple[int, ...]:
    """A version as numbers that compare: 1.26 as (1, 26)."""
    return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdigit())


def test_floors_txt_is_what_pyproject_says():
    assert (ROOT / "floors.txt").read_text(encoding="utf-8") == floors(), "python -m tests.support.floors > floors.txt"


def test_no_tested_version_is_below_its_floor():
    bounds = lower_bounds()
    below = {
        name: (tested, bounds[name])
        for name, tested in constrained_versions().items()
        if name in bounds and numbers(tested) < numbers(bounds[name])
    }
    assert below == {}


def test_nothing_that_is_installed_is_below_its_floor():
    below = {}
    for name, bound in lower_bounds().items():
        with suppress(PackageNotFoundError):  # no environment has the packages of every vendor
            if numbers(version(name)) < numbers(bound):
                below[name] = (version(name), bound)
    assert below == {}
