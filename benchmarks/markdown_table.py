"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table with a head."""
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, ("---",) * len(head), *lines))
