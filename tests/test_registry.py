"""A variant is one file with one record; two that cannot be told apart are an error, not a surprise."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from medattn_edge.backends import backend_of, backends
from medattn_edge.errors import UsageError
from medattn_edge.exporters import exporters
from medattn_edge.models import network_record, networks
from medattn_edge.registry import check, is_default, records
from tests.support import ROOT


@dataclass(frozen=True)
class Record:
    name: str
    suffixes: tuple[str, ...] = ()
    default: bool = True
    on_request: tuple[str, ...] = ()


def test_different_names_and_suffixes_pass():
    check([Record("a", (".x",)), Record("b", (".y", ".z")), Record("c"), Record("d", (".x",), default=False)])
    check([])


def test_a_name_that_comes_twice_is_an_error():
    with pytest.raises(ValueError, match=r"duplicate record names: \['a', 'a'\]"):
        check([Record("a", (".x",)), Record("a", (".y",))])


def test_a_suffix_has_exactly_one_default():
    with pytest.raises(ValueError, match=r"\.x: one default .* \['a', 'b'\]"):
        check([Record("a", (".x",)), Record("b", (".x",))])
    with pytest.raises(ValueError, match=r"\.x: one default .* found \[\]"):
        check([Record("a", (".x",), default=False)])


def test_a_record_may_leave_the_default_of_some_suffixes_to_others():
    shared = Record("a", (".x", ".y"), on_request=(".y",))
    check([shared, Record("b", (".y",))])
    assert (is_default(shared, ".x"), is_default(shared, ".y")) == (True, False)
    with pytest.raises(ValueError, match=r"\.y: one default .* found \[\]"):
        check([shared])


def test_records_are_found_by_looking_into_the_folder_and_ordered_by_name(tmp_path, monkeypatch):
    package = tmp_path / "variants_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "no_variant.py").write_text("")
    for file, name in (("a", "second"), ("b", "first")):
        (package / f"{file}.py").write_text(f"class VARIANT:\n    name = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert [record.name for record in records(package.name, "VARIANT")] == ["first", "second"]
        assert records(package.name, "SOMETHING_ELSE") == ()
    finally:
        for module in [one for one in sys.modules if one.split(".")[0] == package.name]:
            del sys.modules[module]


@pytest.mark.parametrize("registry", [backends, exporters, networks])
def test_every_registry_is_full_and_keyed_by_its_names(registry):
    found = registry()
    assert found
    assert all(name == record.name for name, record in found.items())
    assert list(found) == sorted(found)


@pytest.mark.parametrize("registry", [backends, exporters])
def test_every_record_has_an_extra_that_installs_its_packages(registry):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    always = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}

    def installs(extra: str) -> set[str]:
        lines = extras[extra]
        ours = [re.fullmatch(r"medattn-edge\[(.*)\]", line) for line in lines]
        nested = {name for one in ours if one for inner in one[1].split(",") for name in installs(inner)}
        return nested | {re.split(r"[<>=\[]", line)[0] for line in lines}

    for record in registry().values():
        assert record.extra in extras, record.name
        # A wheel's name has a dash where the module that it installs has an underscore.
        packages = {package.replace("_", "-") for package in record.packages}
        assert packages <= installs(record.extra) | always, record.name


@pytest.mark.parametrize("registry", [backends, exporters])
def test_every_suffix_has_one_default(registry):
    found = registry().values()
    for suffix in {suffix for record in found for suffix in record.suffixes}:
        assert suffix == suffix.lower()
        assert sum(is_default(record, suffix) for record in found if suffix in record.suffixes) == 1


def test_what_an_exporter_writes_a_backend_opens():
    for exporter in exporters().values():
        for suffix in exporter.suffixes:
            assert suffix in backend_of(Path(f"network{suffix}")).suffixes


def test_a_network_that_nobody_knows_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="self-guided"):
        network_record("unet++")
