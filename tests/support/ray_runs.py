"""Tests on Ray: they take seconds more than others, and a host that has it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

RAY = (
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),
)
