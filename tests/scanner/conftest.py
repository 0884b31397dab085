"""A node of its own for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # durable_node.py, which the killed processes use as well

from durable_node import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """The durable half of a node in a folder of its own."""
    made = Node(tmp_path / "node")
    yield made
    made.store.close()
