"""What is installed is what was locked: hashes of every pin, an audit that says what it skips, a bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.audit import verdict
from tests.support.floors import constrained_versions, lower_bounds, normalised

WITHOUT_HASHES = {"torch"}  # its CPU build comes from whatever index a site has: SECURITY.md


def locked() -> dict[str, tuple[str, int]]:
    """The version and the number of hashes of every package in requirements.lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in filter(None, text.splitlines()):
        name, version = re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line).groups()  # type: ignore[union-attr]
        assert normalised(name) not in found, name
        found[normalised(name)] = (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}(?= |$)", line)))
    return found


def test_the_lock_file_has_the_hashes_of_every_pin_and_no_other_version() -> None:
    versions = {name: version for name, (version, _) in locked().items()}
    pins = constrained_versions()
    assert versions == {name: pins[name] for name in pins.keys() - WITHOUT_HASHES}, "make lock"
    assert [name for name, (_, hashes) in locked().items() if not hashes] == []


def test_everything_that_pyproject_asks_for_is_locked() -> None:
    optional = {"nnunet", "torch-tensorrt", "dynamic-network-architectures", "tensorrt"}  # in no environment of ours
    assert lower_bounds().keys() - locked().keys() - WITHOUT_HASHES <= optional


def test_what_a_locked_package_needs_is_locked() -> None:
    """pip does not look for it: --no-deps."""
    from packaging.requirements import Requirement

    have, missing = locked().keys() | WITHOUT_HASHES | {"pip", "medattn-edge"}, []
    for name in locked():
        try:
            needs = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # for another version of Python
            continue
        missing += [
            (name, str(need))
            for need in needs
            if (need.marker is None or need.marker.evaluate({"extra": ""})) and normalised(need.name) not in have
        ]
    assert missing == []


def test_make_installs_by_hash_before_anything_else() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes --no-deps --requirement requirements.lock" in makefile
    recipe = makefile.split("$(VENV)/.dev:")[1].split("\n\n")[0].splitlines()
    assert "requirements.lock" in recipe[0]
    assert [line.strip().split()[0] for line in recipe[1:3]] == ["$(LOCKED)", "$(INSTALL)"]


FLAW = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": []}]}
CLEAN: dict[str, Any] = {"name": "b", "version": "2", "vulns": []}


@pytest.mark.parametrize(
    ("returncode", "out", "err", "code", "words"),
    [
        (0, json.dumps({"dependencies": [CLEAN]}), "", 0, "none of 1 packages"),
        (1, json.dumps({"dependencies": [CLEAN, FLAW]}), "", 1, "a 1: CVE-1"),
        (1, json.dumps({"dependencies": [CLEAN]}), "", 1, "fails"),
        (1, "", "requests.exceptions.ConnectionError: Failed to resolve", 0, "cannot be reached"),
        (1, "", "ERROR: requirements.lock: hash is missing", 1, "hash is missing"),
        (None, "", "", 0, "no answer within"),
    ],
)
def test_a_vulnerability_fails_and_what_cannot_be_asked_is_said(
    returncode: int | None, out: str, err: str, code: int, words: str
) -> None:
    assert verdict(returncode, out, err)[0] == code
    assert words in verdict(returncode, out, err)[1]


def bill(path: Path) -> dict[str, Any]:
    """The bill of materials of this environment, by the command of `make sbom`, which checks the one that it writes."""
    options = ("--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible", "--no-validate")
    words = [sys.executable, "-m", "cyclonedx_py", "environment", *options, "--output-file", str(path), sys.executable]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py", reason="the extra dev is not installed")
    document = bill(tmp_path / "sbom.json")
    assert document["metadata"]["component"]["name"] == "medattn-edge"
    parts = {normalised(part["name"]): part for part in document["components"]}
    assert {"numpy", "rich", "typer", "pydicom", "onnxruntime"} <= parts.keys()
    assert all(part["purl"].startswith("pkg:pypi/") and part["version"] for part in parts.values() if "purl" in part)
    for name in ("numpy", "pydicom", "typer"):
        assert parts[name]["purl"] == f"pkg:pypi/{name}@{constrained_versions()[name]}"


@pytest.mark.slow
def test_the_bill_of_materials_follows_the_schema_of_cyclonedx(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py", reason="the extra dev is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = bill(tmp_path / "sbom.json")
    validator = JsonStrictValidator(SchemaVersion.from_version(document["specVersion"]))
    assert validator.validate_str(json.dumps(document)) is None
    document["components"][0]["type"] = "nonsense"
    assert validator.validate_str(json.dumps(document)) is not None
