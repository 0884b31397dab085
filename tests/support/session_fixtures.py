"""A network of one line of numpy, and scans to show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume
from tests.support.sessions import FakeSession, Function, make_spec, make_volume, positional


@pytest.fixture(scope="session")
def fake() -> type[FakeSession]:
    return FakeSession


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., ModelSpec]:
    return make_spec


@pytest.fixture(scope="session")
def volume_of() -> Callable[..., Volume]:
    return make_volume


@pytest.fixture(scope="session")
def network() -> Callable[[int], Function]:
    """A network whose logits depend on the place in the patch: seams would show."""
    return positional
