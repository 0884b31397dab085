"""Options that have another name now: the old one is refused, and the new one is said."""

from __future__ import annotations

from typing import Any

import typer

from medattn_edge.errors import UsageError


def renamed(old: str, new: str) -> Any:
    """A hidden option that raises UsageError, naming the new one, when it is given.

    Args:
        old: `--time-limit`.
        new: `--timeout`.
    """

    def refuse(value: str | None) -> None:
        if value is not None:
            raise UsageError(f"{old} is now {new}", expected=f"{new} {value}", hint=f"{new} {value}")

    return typer.Option(old, hidden=True, callback=refuse)


def renamed_flag(old: str, new: str) -> Any:
    """As `renamed`, of an option without a value, `--no-fuse`."""

    def refuse(given: bool) -> None:
        if given:
            raise UsageError(f"{old} is now {new}", expected=new, hint=new)

    return typer.Option(old, hidden=True, callback=refuse)
