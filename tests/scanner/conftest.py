"""A node of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.durable_node import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """The durable half of a node in a folder of its own."""
    made = Node(tmp_path / "node")
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def model() -> Path:
    """The tiny network that the tests of whole nodes segment with."""
    from tests.support.running_node import tiny_model

    return tiny_model()


@pytest.fixture
def archive() -> Iterator[Any]:
    """An archive that stores what it is sent."""
    from tests.support.dicom_peers import Archive

    with Archive() as started:
        yield started
