"""The private names of pynetdicom that the node stands on: each is named here, and is there."""

from __future__ import annotations

import ast
import inspect

import pytest

pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from pynetdicom import AE, _config
from pynetdicom.transport import RequestHandler

from tests.support import ROOT

FOUND_IN = {
    "_config": _config,
    "_create_association": RequestHandler,
    "_servers": AE(),
}


def private_names() -> set[str]:
    """Names with an underscore that come from elsewhere: attributes of others, imports, and overridden methods."""
    names: set[str] = set()
    for path in sorted((ROOT / "medattn_edge" / "scanner").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("medattn_edge"):
                names |= {one.name for one in node.names if one.name.startswith("_")}
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value
                is_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
                is_self = isinstance(owner, ast.Name) and owner.id in {"self", "cls"}
                if is_super or not (is_self or node.attr in ours):
                    names.add(node.attr)
    return names


def test_the_list_is_complete():
    libraries = private_names() - {"_log", "_exit", "_hide"}  # our Log of our handlers; os._exit
    assert libraries == set(FOUND_IN)


@pytest.mark.parametrize("name", FOUND_IN)
def test_it_is_there(name):
    assert inspect.ismodule(_config) if name == "_config" else hasattr(FOUND_IN[name], name)


def test_what_is_set_in_the_configuration_is_there():
    assert isinstance(_config.LOG_HANDLER_LEVEL, str)


def test_an_association_has_what_is_taken_from_it():
    """Without an underscore, and without a word of documentation."""
    from pynetdicom.association import Association

    association = Association(AE(), "acceptor")
    for name in ("event_queue", "to_user_queue", "socket"):
        assert hasattr(association.dul, name)
    assert callable(association.acse.send_reject)
    assert callable(association.kill)
