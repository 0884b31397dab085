"""Why a series, a job or a delivery is refused: one catalogue for errors, page, log and retries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        code: for programs: lower case, with underscores; it never changes.
        meaning: what happened, for people; one clause without a full stop, never an identifier of a patient.
        action: what to do about it, in the imperative.
        requeue: whether trying again without changing anything can succeed.
    """

    code: str
    meaning: str
    action: str
    requeue: bool = False


def catalogue(reasons: Iterable[Reason]) -> Mapping[str, Reason]:
    """Reasons by code; raises ValueError when a code comes twice."""
    by_code: dict[str, Reason] = {}
    for reason in reasons:
        if reason.code in by_code:
            raise ValueError(f"two reasons have the code {reason.code}")
        by_code[reason.code] = reason
    return MappingProxyType(by_code)
