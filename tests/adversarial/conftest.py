"""A node of its own for every test."""

from tests.scanner.conftest import model, node

__all__ = ["model", "node"]
