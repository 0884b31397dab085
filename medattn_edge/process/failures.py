"""Errors on their way from one process of this program to another, as JSON."""

from __future__ import annotations

import traceback
from typing import Any, NoReturn

from medattn_edge import errors
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.process.channel import Message


def failure_to_json(error: Exception) -> dict[str, Any]:
    """What another process needs to raise an error; of one that is not ours, which is a bug, the traceback."""
    if isinstance(error, MemoryError):
        hint = "a smaller --batch, or a machine with more memory"
        error = BackendError("memory ran out", expected="room for the request and its reply", hint=hint)
    if isinstance(error, MedattnError):
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"kinds": kinds, "found": error.found, "expected": error.expected, "hint": error.hint}
    text = "".join(traceback.format_exception(error))
    return {"kinds": [], "found": text, "expected": "", "hint": ""}


def raise_failure(failure: Message) -> NoReturn:
    """Raise an error that `failure_to_json` wrote.

    Raises:
        MedattnError: of its own type, or of the nearest one that `errors` has.
        RuntimeError: for a bug, with the traceback of the other process.
    """
    if not failure["kinds"]:
        raise RuntimeError(f"in a child process:\n{failure['found']}")
    kind = next((getattr(errors, name) for name in failure["kinds"] if hasattr(errors, name)), MedattnError)
    # Subclasses have constructors of their own: the texts are those that the error had, whatever its constructor makes.
    error = kind.__new__(kind)
    MedattnError.__init__(error, failure["found"], expected=failure["expected"], hint=failure["hint"])
    raise error
