"""What the store takes and gives: plain records. Times are seconds since 1970, sizes bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Literal

from medattn_edge.errors import MedattnError, UsageError
from medattn_edge.newer_python import StrEnum

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


@dataclass(frozen=True)
class Header:
    """What is read from a DICOM object to file it. For routing and filing only: never logged.

    Attributes:
        sop_uid: SOPInstanceUID.
        sop_class: SOPClassUID.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        modality: as it stands in the object.
        body_part: BodyPartExamined.
        description: SeriesDescription.
        sha256: of what makes two objects the same, in hex; empty: of all bytes of the file. A receiver gives that of
            the encoded data set, so that another sender's file meta information makes no conflict.
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
    """A received object that is durable in the spool.

    Attributes:
        header: what it says of itself.
        name: of its file.
        sha256: of what makes two objects the same, in hex.
        bytes: of its file.
        calling_ae: the sender, empty for a folder.
        file_sha256: of the whole file, in hex.
    """

    header: Header
    name: str
    sha256: str
    bytes: int
    calling_ae: str = ""
    file_sha256: str = ""


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


# In memory, open and seekable, or staged.
Content = bytes | BinaryIO | StagedObject


class Fate(StrEnum):
    """What became of a received object."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the same bytes again: harmless
    REPLACED = "replaced"  # the same SOPInstanceUID with other bytes: it takes the place of the one before


# What is done with an object that comes again with other bytes.
Conflict = Literal["new_version", "refuse"]


class ConflictRefused(MedattnError):
    """An object with a known UID and other bytes is not taken; whoever sent it has it still.

    Attributes:
        reason: a code of ADMISSION_REASONS or JOB_REASONS.
        key: of its series.
    """

    code = "conflict"

    def __init__(self, reason: str, key: str) -> None:
        self.reason, self.key = reason, key
        super().__init__(
            f"an object of the series {key} has the UID of another one with other contents ({reason})",
            expected="one content for each SOPInstanceUID",
            hint='correct the sender, or conflict = "new_version" and a larger max_replacements',
        )


@dataclass(frozen=True)
class Received:
    """What became of a received object.

    Attributes:
        key: of its series.
        version: of the series, that the object belongs to.
        fate: whether it is new.
        late: whether it opened that version after one was complete.
    """

    key: str
    version: int
    fate: Fate
    late: bool = False


@dataclass(frozen=True)
class Completion:
    """What a look for complete series found.

    Attributes:
        queued: keys of the series that are queued now.
        quarantined: keys of those that are quarantined, because they are not whole.
    """

    queued: tuple[str, ...]
    quarantined: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Which channel of a study's job a series is.

    Attributes:
        model: that takes the study, by its name.
        channels: those that the series fits: one, or the series is ambiguous.
        wanted: all channels of the model, in its order.
    """

    model: str
    channels: tuple[str, ...]
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A series that is a channel of a study's job.

    Attributes:
        channel: its name.
        key: of the series.
        version: of the series.
        names: its files in the series's folder.
    """

    channel: str
    key: str
    version: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class StudyGathering:
    """What a look for complete studies found.

    Attributes:
        joined: keys of series that are channels of a study from now on, each with the key of the study.
        queued: keys of the studies that are queued now.
        quarantined: keys of studies and series that are quarantined now, each with the code of the reason.
    """

    joined: tuple[tuple[str, str], ...] = ()
    queued: tuple[str, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Job:
    """One version of a series, or of a study for a network of several channels, to segment.

    Attributes:
        id: of the version.
        key: of the series, or of the study.
        version: from 1.
        attempt: from 1, a token: what is reported of an earlier attempt is not heard any more.
        names: its files in the series's folder; none for a study.
        modality: for routing.
        body_part: for routing.
        description: for routing.
        calling_ae: for routing.
        contents: of its objects, as a short hash, where one of them replaced another; "" for a series as it first came.
        model: of a study, the name of the model that its channels were gathered for.
        parts: of a study, the series of each channel, in the order of the model's channels.
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
    contents: str = ""
    model: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Output:
    """A file of a result.

    Attributes:
        kind: `seg`, `rtstruct`, `sr`, `probabilities`, `sc` (all delivered), or another code (kept only).
        name: in its folder.
        sop_uid: of a DICOM object, else empty.
        sha256: of the file as it was recorded, in hex.
    """

    kind: str
    name: str
    sop_uid: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Delivery:
    """The outputs of one version for one destination.

    Failing once fails all of it: what arrived already is sent again, under the same identity.

    Attributes:
        id: of the delivery.
        key: of the series.
        version: of the series.
        destination: its name.
        attempts: those that failed.
        outputs: what is delivered.
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
    """When a series is complete, and how often anything is tried. The defaults try a delivery for four days.

    Attributes:
        quiet_s: without a new object until a series is complete, where no association that delivered to it is open.
        max_wait_s: the same where one is open: some senders never close theirs.
        max_study_wait_s: for the other channels of a study since the last one came, before what is missing is told.
        retries: of a series whose segmentation failed.
        interruptions: of a series by restarts of the node, before it is taken for the cause.
        max_instances: of one series; more of it is refused.
        max_bytes: of one series; more of it is refused.
        max_replacements: of one object by other contents under its UID; more are refused.
        retry_initial_s: pause before a delivery is tried again; it doubles each time, less up to half of it by chance.
        retry_max_s: the longest pause.
        delivery_attempts: before a delivery is dead.
        seed: of the chance in the pauses.
    """

    quiet_s: float = 60.0
    max_wait_s: float = 900.0
    max_study_wait_s: float = 3600.0
    retries: int = 1
    interruptions: int = 4
    max_instances: int = 10_000
    max_bytes: int = 8_000_000_000
    max_replacements: int = 4
    retry_initial_s: float = 5.0
    retry_max_s: float = 900.0
    delivery_attempts: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a policy under which nothing would ever happen."""
        zero = ("quiet_s", "max_study_wait_s", "retries", "interruptions", "retry_initial_s", "max_replacements")
        least: dict[str, float] = dict.fromkeys(zero, 0)
        least |= dict.fromkeys(("max_instances", "max_bytes", "delivery_attempts"), 1)
        least |= {"max_wait_s": self.quiet_s, "retry_max_s": self.retry_initial_s}
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
