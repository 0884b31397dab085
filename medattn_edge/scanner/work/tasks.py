"""What the node asks of a worker, and what a worker answers: plain records that travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medattn_edge.errors import BackendError
from medattn_edge.reasons import JOB_REASONS
from medattn_edge.scanner.config.sections import Model
from medattn_edge.scanner.store.records import Output


@dataclass(frozen=True)
class Task:
    """Segment a series.

    Attributes:
        model: its name.
        files: of the series.
        folder: for the results; it is there and empty.
        contents: as of a `Job`: results of corrected objects have an identity of their own.
    """

    model: str
    files: tuple[Path, ...]
    folder: Path
    contents: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        files = [str(path) for path in self.files]
        return {"model": self.model, "files": files, "folder": str(self.folder), "contents": self.contents}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        """The reverse."""
        files = tuple(Path(one) for one in value["files"])
        return cls(value["model"], files, Path(value["folder"]), value["contents"])


@dataclass(frozen=True)
class Done:
    """A series that was segmented.

    Attributes:
        outputs: files in the folder of the task.
        seconds: of each stage (read, infer, write).
        notes: for people, about the results.
    """

    outputs: tuple[Output, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        outputs = [asdict(output) for output in self.outputs]
        return {"outputs": outputs, "seconds": dict(self.seconds), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Done:
        """The reverse."""
        return cls(tuple(Output(**one) for one in value["outputs"]), value["seconds"], tuple(value["notes"]))


@dataclass(frozen=True)
class Refused:
    """The series itself is the reason, and trying again would not help.

    Attributes:
        reason: a code of SERIES_REASONS or JOB_REASONS.
        detail: for people, without identifiers.
    """

    reason: str
    detail: str


class WorkerLost(BackendError):
    """A worker that crashed, hung, outgrew its memory, failed or did not start.

    Attributes:
        reason: a code of JOB_REASONS.
        why: a code of WORKER_REASONS or of an error where the worker could say it, else "".
    """

    def __init__(self, reason: str, found: str = "", why: str = "") -> None:
        self.reason, self.why = reason, why
        super().__init__(found or JOB_REASONS[reason].meaning, expected="an answer", hint="look at the log of the node")


def model_to_json(model: Model) -> dict[str, Any]:
    """What a worker needs to know of a model."""
    return {**asdict(model), "artifact": str(model.artifact), "destinations": list(model.destinations)}


def model_from_json(value: Mapping[str, Any]) -> Model:
    """The reverse."""
    changed = {"artifact": Path(value["artifact"]), "destinations": tuple(value["destinations"])}
    return Model(**{**value, **changed})
