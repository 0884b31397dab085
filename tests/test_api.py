"""The public names: each can be imported, says what it does, and is all that there is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import medattn_edge


@pytest.mark.parametrize("name", medattn_edge.__all__)
def test_every_public_name_exists_and_is_documented(name):
    thing = getattr(medattn_edge, name)
    assert thing.__module__.startswith("medattn_edge.")
    assert inspect.getdoc(thing)
    assert name in dir(medattn_edge)


def test_the_public_names_are_those_that_are_found_on_first_use():
    assert set(medattn_edge.__all__) == set(medattn_edge._HOME)
    assert len(medattn_edge.__all__) == len(set(medattn_edge.__all__))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"medattn_edge.*segmnt"):
        _ = medattn_edge.segmnt
    with pytest.raises(ImportError):
        importlib.import_module("medattn_edge.segmnt")


def test_every_module_and_what_it_offers_is_documented():
    undocumented = []
    for found in pkgutil.walk_packages(medattn_edge.__path__, "medattn_edge."):
        if found.name.startswith("medattn_edge.cli"):
            continue
        module = importlib.import_module(found.name)
        if not module.__doc__ and Path(str(module.__file__)).stat().st_size:  # an empty __init__ offers nothing
            undocumented.append(found.name)
        for name, thing in vars(module).items():
            offered = inspect.isclass(thing) or inspect.isfunction(thing)
            if offered and thing.__module__ == found.name and not name.startswith("_") and not thing.__doc__:
                undocumented.append(f"{found.name}.{name}")
    assert undocumented == []
