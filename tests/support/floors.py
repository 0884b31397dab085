"""The lowest versions that pyproject.toml allows, as constraints: `python -m tests.support.floors > floors.txt`."""

from __future__ import annotations

import re
import sys

from medattn_edge.newer_python import tomllib
from tests.support import ROOT

# The one floor that is not run: torch's wheels for Linux bring several gigabytes of CUDA, all but the tested one's.
TESTED_AS_CONSTRAINED = ("torch",)
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)>=([\w.]+)(?:,<[\w.]+)?(?:; python_version < '[\d.]+')?")


def normalised(name: str) -> str:
    """A project's name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lower_bounds() -> dict[str, str]:
    """The lower bound of every dependency and of every extra's, by project name.

    Raises:
        ValueError: A requirement without a lower bound, or two bounds for one project.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    bounds: dict[str, str] = {}
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):
            continue
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"{requirement!r} in pyproject.toml is neither NAME>=VERSION nor NAME>=VERSION,<VERSION")
        name, version = normalised(match[1]), match[2]
        if bounds.setdefault(name, version) != version:
            raise ValueError(f"{name} has two lower bounds in pyproject.toml: {bounds[name]} and {version}")
    return bounds


def constrained_versions() -> dict[str, str]:
    """The versions in constraints.txt, by project name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {normalised(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def floors() -> str:
    """The text of floors.txt: the lower bounds, then what they need in turn, as tested, so that it does not move."""
    bounds, tested = lower_bounds(), constrained_versions()
    bounds |= {name: tested[name] for name in TESTED_AS_CONSTRAINED}
    lines = [
        "# Written by: python -m tests.support.floors > floors.txt",
        "# The lowest versions that pyproject.toml allows; of torch, the tested version.",
        *(f"{name}=={bounds[name]}" for name in sorted(bounds)),
        "# What these need, as in constraints.txt.",
        *(f"{name}=={tested[name]}" for name in sorted(tested.keys() - bounds.keys())),
    ]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(floors())
