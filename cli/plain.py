"""Rich's console without its language: what is printed is text, and nothing in it is an order to the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from .visible import visible


class Plain(Console):
    """A console that prints text as it is: no markup, no emoji, no highlighting, nothing invisible."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Every string that is printed, a cell, a title or a line, becomes text here."""
        return super().render_str(visible(text), **options)
