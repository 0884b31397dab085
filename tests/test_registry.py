"""A variant is one file with one record; two that cannot be told apart are an error, not a surprise."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from medattn_edge.backends import backend_of, backends
from medattn_edge.errors import HostError, MissingDependency, UsageError
from medattn_edge.exporters import exporters
from medattn_edge.io import read_volume
from medattn_edge.models import network_record, networks
from medattn_edge.newer_python import tomllib
from medattn_edge.registry import check_distinct, is_default, records
from tests.support import ROOT


@dataclass(frozen=True)
class Record:
    name: str
    suffixes: tuple[str, ...] = ()
    default: bool = True
    on_request: tuple[str, ...] = ()


def origins(*variants: Record) -> dict[str, Record]:
    return {f"module {number}": variant for number, variant in enumerate(variants, start=1)}


def test_different_names_and_suffixes_pass():
    other = Record("d", (".x",), default=False)
    check_distinct(origins(Record("a", (".x",)), Record("b", (".y", ".z")), Record("c"), other))
    check_distinct({})


def test_a_name_that_comes_twice_is_an_error_that_names_both():
    with pytest.raises(HostError, match="module 1 and module 3 have the same name 'a'"):
        check_distinct(origins(Record("a", (".x",)), Record("b"), Record("a", (".y",))))


def test_a_suffix_has_exactly_one_default():
    with pytest.raises(HostError, match=r"\.x are for module 1 and module 2, and the default is module 1 and module 2"):
        check_distinct(origins(Record("a", (".x",)), Record("b", (".x",))))
    with pytest.raises(HostError, match=r"\.x are for module 1, and the default is none of them"):
        check_distinct(origins(Record("a", (".x",), default=False)))


def test_a_record_may_leave_the_default_of_some_suffixes_to_others():
    shared = Record("a", (".x", ".y"), on_request=(".y",))
    check_distinct(origins(shared, Record("b", (".y",))))
    assert (is_default(shared, ".x"), is_default(shared, ".y")) == (True, False)
    with pytest.raises(HostError, match=r"\.y are for module 1, and the default is none"):
        check_distinct(origins(shared))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path to install packages in; what was imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    records.cache_clear()
    yield tmp_path
    records.cache_clear()
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {path.stem for path in tmp_path.iterdir()}:
            del sys.modules[name]


def install(site: Path, distribution: str, group: str, module: str, code: str, value: str = "VARIANT") -> None:
    """A distribution with one module and one entry point, as pip leaves it."""
    (site / f"{module}.py").write_text(code)
    metadata = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{module} = {module}:{value}\n")


RECORD = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Record:
    name: str
    suffixes: tuple = ()
    default: bool = True
"""


def own_package(site: Path) -> None:
    package = site / "variants_of_a_test"
    (package / "below").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "below" / "__init__.py").write_text("")
    (package / "no_variant.py").write_text("raise AssertionError('nobody needs this module')\n")
    (package / "record.py").write_text(RECORD)
    for file, name in (("a", "second"), ("below/b", "first")):
        code = f"from variants_of_a_test.record import Record\nVARIANT = Record({name!r})\n"
        (package / f"{file}.py").write_text(code)


THEIRS = "from variants_of_a_test.record import Record\nVARIANT = Record({})\n"


def test_records_are_found_by_looking_into_the_folder_and_ordered_by_name(site):
    own_package(site)
    assert [record.name for record in records("variants_of_a_test", "VARIANT")] == ["first", "second"]
    assert records("variants_of_a_test", "SOMETHING_ELSE") == ()
    assert "variants_of_a_test.no_variant" not in sys.modules


def test_a_module_may_hold_several_records(site):
    own_package(site)
    code = "from variants_of_a_test.record import Record\nVARIANT = (Record('third'), Record('fourth'))\n"
    (site / "variants_of_a_test" / "c.py").write_text(code)
    assert [record.name for record in records("variants_of_a_test", "VARIANT")] == [
        "first",
        "fourth",
        "second",
        "third",
    ]
    (site / "variants_of_a_test" / "d.py").write_text(code.replace("third", "fifth"))
    records.cache_clear()
    both = r"record 2 of variants_of_a_test\.c and record 2 of variants_of_a_test\.d have the same name 'fourth'"
    with pytest.raises(HostError, match=both):
        records("variants_of_a_test", "VARIANT")


def test_a_subpackage_that_cannot_be_imported_is_not_passed_over(site):
    own_package(site)
    (site / "variants_of_a_test" / "below" / "__init__.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(ImportError, match="a_module_that_is_not_there"):
        records("variants_of_a_test", "VARIANT")


def test_records_of_other_packages_are_found_by_their_entry_points(site):
    own_package(site)
    install(site, "acme-variants", "variants.of.a.test", "acme_variants", THEIRS.format("'middle'"))
    install(site, "other-tools", "another.group", "other_tools", THEIRS.format("'never'"))
    found = records("variants_of_a_test", "VARIANT", "variants.of.a.test")
    assert [record.name for record in found] == ["first", "middle", "second"]
    assert "other_tools" not in sys.modules


@pytest.mark.parametrize(
    ("code", "value", "said"),
    [
        ("import a_module_that_is_not_there\n", "VARIANT", "ModuleNotFoundError: .*a_module_that_is_not_there"),
        ("raise RuntimeError('no licence')\n", "VARIANT", "RuntimeError: no licence"),
        (THEIRS.format("'x'"), "RECORD", "AttributeError: .*RECORD"),
        ("VARIANT = 'x'\n", "VARIANT", "is a str; expected a Record"),
    ],
)
def test_an_entry_point_that_is_no_record_is_an_error_that_names_its_distribution(site, code, value, said):
    own_package(site)
    install(site, "acme-variants", "variants.of.a.test", "acme_variants", code, value)
    with pytest.raises(HostError, match=f"acme_variants:{value} of acme-variants 1.2 .*{said}") as raised:
        records("variants_of_a_test", "VARIANT", "variants.of.a.test")
    assert "pip uninstall acme-variants" in raised.value.hint


def test_an_entry_point_with_a_name_that_is_taken_is_an_error_that_names_both(site):
    own_package(site)
    install(site, "acme-variants", "variants.of.a.test", "acme_variants", THEIRS.format("'second'"))
    both = "variants_of_a_test.a and acme_variants:VARIANT of acme-variants 1.2 have the same name 'second'"
    with pytest.raises(HostError, match=both):
        records("variants_of_a_test", "VARIANT", "variants.of.a.test")


FORMAT = """
import numpy as np
from medattn_edge.io.format import PICTURE_AFFINE, Format
from medattn_edge.volume import Volume

def read(path):
    return Volume(np.full((1, 2, 3), int(path.read_text())), PICTURE_AFFINE, calibrated=False)

FORMAT = Format("acme", (".acme",), "", (), read, None, None)
LACKING = Format("acme", (".acme",), "", ("acme_codec",), read, None, None)
"""


def test_a_format_of_another_package_reads_a_file(site):
    install(site, "acme-formats", "medattn_edge.formats", "acme_formats", FORMAT, "FORMAT")
    (site / "scan.acme").write_text("7")
    volume = read_volume(site / "scan.acme")
    assert (volume.shape, volume.voxels.max()) == ((1, 2, 3), 7)
    with pytest.raises(UsageError, match=r"one of .*\.acme"):
        read_volume(site / "scan.unknown")


def test_what_a_format_of_another_package_lacks_is_not_looked_for_among_our_extras(site):
    install(site, "acme-formats", "medattn_edge.formats", "acme_formats", FORMAT, "LACKING")
    (site / "scan.acme").write_text("7")
    with pytest.raises(MissingDependency) as raised:
        read_volume(site / "scan.acme")
    assert raised.value.hint == "pip install acme_codec"


@pytest.mark.parametrize(
    ("registry", "group"), [(backends, "medattn_edge.backends"), (networks, "medattn_edge.networks")]
)
def test_backends_and_networks_look_for_entry_points_too(site, registry, group):
    install(site, "acme-tools", group, "acme_tools", "VARIANT = 'no record'\n")
    with pytest.raises(HostError, match=r"acme_tools:VARIANT of acme-tools 1\.2 is a str; expected a [BN]"):
        registry()


def test_listing_the_formats_imports_neither_readers_nor_libraries():
    code = "import sys\nfrom medattn_edge.io import formats\nformats()\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "medattn_edge.io.dicom.record" in loaded
    unwanted = {"io.dicom.volume", "io.dicom.seg", "io.dicom.decoder", "io.overlay", "io.page", "process.child"}
    assert loaded & {"pydicom", "nibabel", "nrrd", "PIL", *(f"medattn_edge.{name}" for name in unwanted)} == set()


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
