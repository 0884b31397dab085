"""The glossary of CONTRIBUTING.md: no public name uses a word that it replaces by another."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import medattn_edge
from tests.support import ROOT


def replaced() -> dict[tuple[str, ...], str]:
    """Every word of the table's second column, as its parts, with what to say instead."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", text.partition("## Words")[2], re.MULTILINE)[1:]  # without the head
    return {parts(word): use for use, words in rows for word in re.findall(r"`([^`]+)`", words)}


def parts(name: str) -> tuple[str, ...]:
    """The words of a name: `--first-retry-s`, `first_retry_s` and `FirstRetryS` have the same."""
    return tuple(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").strip("_").split("_"))


def faults(names: Iterator[str]) -> dict[str, str]:
    """The names that use a replaced word, with what to say instead."""
    wrong = {}
    for name in set(names):
        words = parts(name)
        for phrase, use in replaced().items():
            if any(words[start : start + len(phrase)] == phrase for start in range(len(words))):
                wrong[name] = use
    return wrong


def modules() -> Iterator[Any]:
    """Every module of the library."""
    for module in pkgutil.walk_packages(medattn_edge.__path__, "medattn_edge."):
        if not module.name.startswith("medattn_edge.cli"):
            yield importlib.import_module(module.name)


def classes() -> Iterator[type]:
    """Every class of the library, once."""
    for module in modules():
        for thing in vars(module).values():
            if inspect.isclass(thing) and thing.__module__ == module.__name__:
                yield thing


def options() -> Iterator[str]:
    """Every option that the help shows, of every command; a hidden one refuses an old word."""

    def of_command(command: Any) -> Iterator[str]:
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                yield from (word for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("-"))
        for one in getattr(command, "commands", {}).values():
            yield one.name
            yield from of_command(one)

    from medattn_edge.cli import app

    return of_command(typer.main.get_command(app))


def toml_keys() -> Iterator[str]:
    """Every key of the node's configuration."""
    from medattn_edge.scanner.config import sections

    for kind in vars(sections).values():
        if dataclasses.is_dataclass(kind):
            yield from (field.name for field in dataclasses.fields(kind))


def json_fields() -> Iterator[str]:
    """The fields of everything that becomes JSON as it is."""
    for kind in classes():
        if hasattr(kind, "to_json") and dataclasses.is_dataclass(kind):
            yield from (field.name for field in dataclasses.fields(kind))


def offered() -> Iterator[str]:
    """Every name in an `__all__`."""
    for module in (medattn_edge, *modules()):
        yield from getattr(module, "__all__", ())


@pytest.mark.parametrize("names", [options, toml_keys, json_fields, offered])
def test_no_public_name_uses_a_word_that_is_replaced(names):
    assert len(set(names())) > 10
    assert faults(names()) == {}


def test_the_table_is_read_and_its_words_are_found_in_names():
    assert len(replaced()) > 20
    wrong = ("--door", "most_used", "first_retry_s", "FusedGraph", "walk")
    assert set(faults(iter(wrong))) == set(wrong)
    assert faults(iter(("--quantizer", "max_used_fraction", "almost", "indoor"))) == {}
