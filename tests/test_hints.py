"""A hint is a command that can be typed: paths in it are quoted as a shell needs them."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.errors import MedattnError, quoted

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "medattn_edge").rglob("*.py"), *(ROOT / "cli").glob("*.py")])
# The last name of an expression that holds a path, or a part of one.
PATHS = {
    *("path", "paths", "parent", "output", "folder", "root", "reference", "source", "config", "scan", "artifact"),
    *("target", "certificate", "authorities", "stem", "resume", "overlay", "checkpoint", "file", "sidecar"),
}


def hints(tree: ast.AST) -> Iterator[ast.JoinedStr]:
    """Every f-string in a `hint=`, and every one that names a next command."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from (inner for inner in _outside_quotes(node.value) if isinstance(inner, ast.JoinedStr))
        elif isinstance(node, ast.JoinedStr) and any(
            isinstance(part, ast.Constant) and any(mark in part.value for mark in ("next: ", "-> medattn-edge"))
            for part in node.values
        ):
            yield node


def _outside_quotes(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but not what is in a call of `quoted`."""
    yield node
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "quoted":
        return
    for inner in ast.iter_child_nodes(node):
        yield from _outside_quotes(inner)


def unquoted(hint: ast.JoinedStr) -> Iterator[str]:
    for part in hint.values:
        if not isinstance(part, ast.FormattedValue):
            continue
        value = part.value
        if isinstance(value, ast.Call) and ast.unparse(value.func).rsplit(".", 1)[-1] in ("str", "Path"):
            value = value.args[0]
        names = [value.id] if isinstance(value, ast.Name) else [value.attr] if isinstance(value, ast.Attribute) else []
        if isinstance(value, ast.Attribute) and value.attr == "name" and ast.unparse(value.value) in PATHS:
            names = ["path"]
        if names and names[0] in PATHS:
            yield ast.unparse(part)


def test_no_path_stands_bare_in_a_hint() -> None:
    bare, seen = [], 0
    for source in SOURCES:
        for hint in hints(ast.parse(source.read_text(encoding="utf-8"))):
            seen += 1
            bare += [f"{source.relative_to(ROOT)}:{hint.lineno}: {value}" for value in unquoted(hint)]
            texts = [part.value for part in hint.values if isinstance(part, ast.Constant)]
            quotes = "".join(text for text in texts if "pip install" not in text).count("'{")
            bare += [f"{source.relative_to(ROOT)}:{hint.lineno}: quoted by hand"] if quotes else []
    assert bare == []
    assert seen > 60


@pytest.mark.parametrize("name", ["plain.nii.gz", "two words.nii", "it's.nii", "$HOME.nii", "a;rm -rf b.nii", "*.nii"])
def test_a_quoted_path_is_one_word_to_a_shell(name: str) -> None:
    assert shlex.split(quoted(Path("folder") / name)) == [f"folder/{name}"]


def test_the_hint_of_a_missing_file_can_be_typed_whatever_its_folder_is_called(tmp_path: Path) -> None:
    from medattn_edge.atomic import check_folder
    from medattn_edge.io import read_volume
    from medattn_edge.models.checkpoint import load

    folder = tmp_path / "it's $HOME; a folder"
    folder.mkdir()
    calls: list[Callable[[], Any]] = [
        lambda: read_volume(folder / "scan.nii.gz"),
        lambda: load(folder / "net.pth"),
        lambda: check_folder(folder / "no" / "labels.nii.gz"),
    ]
    for call in calls:
        with pytest.raises(MedattnError) as raised:
            call()
        words = shlex.split(raised.value.hint)
        assert any(Path(word).is_relative_to(folder) for word in words), raised.value.hint
