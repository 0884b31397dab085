"""`make mutants`: every module has tests that must notice, and what it does to a line is what it says."""

from __future__ import annotations

import pytest

from medattn_edge.newer_python import tomllib
from tests.support import ROOT

CONFIG = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("pattern", sorted({one for tests in CONFIG["tests"].values() for one in tests}))
def test_every_pattern_of_tests_is_of_files_that_are_there(pattern: str) -> None:
    assert list(ROOT.glob(pattern)) != []


@pytest.mark.parametrize("pattern", [*CONFIG["modules"], *CONFIG["tests"]])
def test_every_pattern_of_modules_is_of_files_that_are_there(pattern: str) -> None:
    assert list(ROOT.glob(pattern)) != []


def test_every_module_has_tests() -> None:
    pytest.importorskip("cosmic_ray", reason="the extra mutants is not installed")
    from tests.support.mutants import tests_of

    modules = {str(path.relative_to(ROOT)) for one in CONFIG["modules"] for path in ROOT.glob(one)}
    assert len(modules) > 100
    assert [name for name in sorted(modules) if not tests_of(name, CONFIG["tests"])] == []


def test_a_dropped_call_and_the_names_of_failed_tests() -> None:
    pytest.importorskip("cosmic_ray", reason="the extra mutants is not installed")
    from tests.support.mutants import Mutant, failed_tests

    source = "def f(file):\n    x = g()\n    # why\n    os.fsync(file.fileno())\n    return h()\n"
    assert Mutant("m.py", 4, "DropCall", 0).code(source) == source.replace("os.fsync(file.fileno())", "pass")
    said = "ERROR other.dul:dul.py:315 x\n=== short test summary info ===\nFAILED tests/a.py::b[x - y] - E: z] - q\n"
    assert failed_tests(said + "ERROR tests/c.py\nERROR tests/c.py::d - E\n") == [
        "tests/a.py::b[x - y]",
        "tests/c.py",
        "tests/c.py::d",
    ]
