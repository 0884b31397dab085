"""What the store takes and gives: plain records. Times are seconds since 1970, sizes bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from medattn_edge.errors import UsageError

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


@dataclass(frozen=True)
class Header:
    """What is read from a DICOM object to file it. For routing and filing only: never logged.

    sha256: of what makes two objects the same, in hex; empty: of all bytes of the file. A receiver gives that of the
    encoded data set, so that another sender's file meta information makes no conflict.
    """

    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    modality: str = ""
    body_part: str = ""
    description: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Instance:
    """A received object that is durable in the spool. name: of its file. calling_ae: the sender, empty for a folder."""

    header: Header
    name: str
    sha256: str
    bytes: int
    calling_ae: str = ""


@dataclass(frozen=True)
class StagedObject:
    """A received object that is durable in the spool under a name of its own.

    Attributes:
        path: where it is, until it is kept or removed.
        bytes: how many.
        sha256: of all of them, in hex.
    """

    path: Path
    bytes: int
    sha256: str


Content = bytes | StagedObject


class Fate(StrEnum):
    """What became of a received object."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the same bytes again: harmless
    CONFLICT = "conflict"  # the same SOPInstanceUID with other bytes: the first stays, this one is in quarantine


@dataclass(frozen=True)
class Received:
    """version: of the series, that the object belongs to. late: it opened that version after one was complete."""

    key: str
    version: int
    fate: Fate
    late: bool = False


@dataclass(frozen=True)
class Completion:
    """Keys of the series that are queued now, and of those that are quarantined, because they are not whole."""

    queued: tuple[str, ...]
    quarantined: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One version of a series to segment. names: its files in the series's folder. attempt: from 1, a token: what is
    told about an earlier attempt is not heard any more.
    """

    id: int
    key: str
    version: int
    attempt: int
    names: tuple[str, ...]
    modality: str
    body_part: str
    description: str
    calling_ae: str


@dataclass(frozen=True)
class Output:
    """A file of a result. kind: `seg`, `sc` (both delivered), or another code (kept only). name: in its folder."""

    kind: str
    name: str
    sop_uid: str = ""


@dataclass(frozen=True)
class Delivery:
    """The outputs of one version for one destination. attempts: those that failed. failing once fails all of it:
    what arrived already is sent again, under the same identity.
    """

    id: int
    key: str
    version: int
    destination: str
    attempts: int
    outputs: tuple[Output, ...]

    def without_last_attempt(self) -> Delivery:
        """The same with one attempt fewer."""
        return replace(self, attempts=self.attempts - 1)


@dataclass(frozen=True)
class Policy:
    """When a series is complete, and how often anything is tried.

    quiet_s: without a new object until a series is complete, where no association that delivered to it is open.
    longest_wait_s: the same where one is open: some senders never close theirs.
    retries: of a series whose segmentation failed. interruptions: of a series by restarts of the node, before it is
    taken for the cause. max_instances, max_bytes: of one series; more of it is refused.
    first_retry_s, most_retry_s: pause before a delivery is tried again; it doubles from the one to the other, less up
    to half of it by chance (seed). delivery_attempts: before it is dead. The defaults try for four days.
    """

    quiet_s: float = 60.0
    longest_wait_s: float = 900.0
    retries: int = 1
    interruptions: int = 4
    max_instances: int = 10_000
    max_bytes: int = 8_000_000_000
    first_retry_s: float = 5.0
    most_retry_s: float = 900.0
    delivery_attempts: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a policy under which nothing would ever happen."""
        least: dict[str, float] = dict.fromkeys(("quiet_s", "retries", "interruptions", "first_retry_s"), 0)
        least |= dict.fromkeys(("max_instances", "max_bytes", "delivery_attempts"), 1)
        least |= {"longest_wait_s": self.quiet_s, "most_retry_s": self.first_retry_s}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UsageError(
                    f"{name} is {getattr(self, name):g}", expected=f"at least {bound:g}", hint=f"{name} = {bound:g}"
                )


def code(text: str) -> str:
    """The text, which must be a code: reasons are shown and logged, so that nobody's name may stand in one."""
    if not _CODE.fullmatch(text):
        raise ValueError("a reason is a code of at most 48 lower-case letters, digits and _, that starts with a letter")
    return text
