"""What to type for an extra fits where this installation came from; every hint takes it from the one place."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.errors import MissingDependency
from medattn_edge.installation import install_line, upgrade_line
from tests.support import ROOT

SOURCES = sorted([*(ROOT / "medattn_edge").rglob("*.py"), *(ROOT / "cli").glob("*.py")])


def installed_from(folder: Path, monkeypatch: pytest.MonkeyPatch, direct: dict[str, Any] | str | None) -> None:
    """A distribution as pip writes it down, found before any other."""
    about = folder / "medattn_edge-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: medattn-edge\nVersion: 0.1.0\n")
    if direct is not None:
        (about / "direct_url.json").write_text(direct if isinstance(direct, str) else json.dumps(direct))
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("direct", "line", "newer"),
    [
        (
            {"url": "file://AT/a%20clone", "dir_info": {"editable": True}},
            "pip install -e 'AT/a clone[nifti]'",
            "git -C 'AT/a clone' pull && pip install -e 'AT/a clone'",
        ),
        (
            {"url": "file://AT/clone", "dir_info": {}},
            "pip install 'AT/clone[nifti]'",
            "a newer medattn-edge than AT/clone, then pip install it",
        ),
        (
            {"url": "file://AT/medattn_edge-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'AT/medattn_edge-0.1.0-py3-none-any.whl[nifti]'",
            "a newer medattn-edge than AT/medattn_edge-0.1.0-py3-none-any.whl, then pip install it",
        ),
        (
            {"url": "https://example.org/medattn_edge-0.1.0.tar.gz", "archive_info": {}},
            "pip install 'medattn-edge[nifti] @ https://example.org/medattn_edge-0.1.0.tar.gz'",
            "a newer medattn-edge than https://example.org/medattn_edge-0.1.0.tar.gz, then pip install it",
        ),
        (
            {"url": "https://example.org/m.git", "vcs_info": {"vcs": "git", "commit_id": "5" * 40}},
            f"pip install 'medattn-edge[nifti] @ git+https://example.org/m.git@{'5' * 40}'",
            f"a newer medattn-edge than git+https://example.org/m.git@{'5' * 40}, then pip install it",
        ),
        ("{}", "pip install 'medattn-edge[nifti]'", "pip install --upgrade medattn-edge"),
        ("[", "pip install 'medattn-edge[nifti]'", "pip install --upgrade medattn-edge"),
    ],
)
def test_the_line_is_that_of_a_clone_an_archive_or_an_index(
    direct: dict[str, Any] | str, line: str, newer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a clone", "clone", "medattn_edge-0.1.0-py3-none-any.whl"):
        (tmp_path / name).mkdir()
    direct, line, newer = (json.loads(json.dumps(one).replace("AT", str(tmp_path))) for one in (direct, line, newer))
    installed_from(tmp_path, monkeypatch, direct)
    assert (install_line("nifti"), upgrade_line()) == (line, newer)
    assert install_line("nifti", again=True) == line.replace("install ", "install --force-reinstall ")
    assert MissingDependency.of_extra("nibabel", "nifti").hint == line


@pytest.mark.parametrize("editable", [True, False])
def test_sources_that_are_gone_are_not_named(editable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(tmp_path, monkeypatch, {"url": f"file://{tmp_path}/src", "dir_info": {"editable": editable}})
    assert install_line("nifti") == "pip install 'medattn-edge[nifti]'"


def test_a_clone_that_pip_says_nothing_of_is_told_by_its_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_from(tmp_path, monkeypatch, None)
    assert install_line("nifti") == f"pip install -e '{ROOT}[nifti]'"


def test_no_message_has_an_install_line_of_its_own() -> None:
    own, calls = [], 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            calls += isinstance(node, ast.Call) and ast.unparse(node.func) in ("install_line", "upgrade_line")
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or path.name == "installation.py":
                continue
            if "medattn-edge[" in node.value or "upgrade medattn-edge" in node.value:
                own.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert own == []
    assert calls > 15
