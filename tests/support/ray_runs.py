"""Tests on Ray: they take seconds more than others, and a host that has it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

RAY = (
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),
)


def on_ray(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test that runs there alone."""
    for mark in RAY:
        test = mark(test)
    return test
