"""What the node asks of a worker, and what a worker answers: plain records that travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medattn_edge.errors import BackendError
from medattn_edge.reasons import JOB_REASONS
from medattn_edge.scanner.config.sections import Channel, Model
from medattn_edge.scanner.store.records import Output


@dataclass(frozen=True)
class Task:
    """Segment a series, or the series of the channels of a study.

    Attributes:
        model: its name.
        files: of the series; of all channels, one after the other.
        folder: for the results; it is there and empty.
        contents: as of a `Job`: results of corrected objects have an identity of their own.
        channels: of a study, the name of each channel and how many of the files it has; empty for a series.
    """

    model: str
    files: tuple[Path, ...]
    folder: Path
    contents: str = ""
    channels: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, model: str, channels: Sequence[tuple[str, Sequence[Path]]], folder: Path, contents: str = "") -> Task:
        """A task from the files of each channel, as `Custody.channel_files` gives them."""
        files = tuple(path for _, paths in channels for path in paths)
        counts = tuple((name, len(paths)) for name, paths in channels if name)
        return cls(model, files, folder, contents, counts)

    def of_channels(self) -> dict[str, tuple[Path, ...]]:
        """The files of each channel, in the order of the channels."""
        files, start = {}, 0
        for name, count in self.channels:
            files[name] = self.files[start : start + count]
            start += count
        return files

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        files = [str(path) for path in self.files]
        about = {"model": self.model, "folder": str(self.folder), "contents": self.contents}
        return {**about, "files": files, "channels": [list(one) for one in self.channels]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        """The reverse."""
        files = tuple(Path(one) for one in value["files"])
        channels = tuple((name, count) for name, count in value["channels"])
        return cls(value["model"], files, Path(value["folder"]), value["contents"], channels)


@dataclass(frozen=True)
class Done:
    """A series that was segmented.

    Attributes:
        outputs: files in the folder of the task.
        seconds: of each stage (read, infer, write).
        notes: for people, about the results.
        volumes_ml: of every label.
    """

    outputs: tuple[Output, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        outputs = [asdict(output) for output in self.outputs]
        about = {"seconds": dict(self.seconds), "notes": list(self.notes), "volumes_ml": dict(self.volumes_ml)}
        return {"outputs": outputs, **about}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Done:
        """The reverse."""
        outputs = tuple(Output(**one) for one in value["outputs"])
        return cls(outputs, value["seconds"], tuple(value["notes"]), value["volumes_ml"])


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
    channels = tuple(Channel(**one) for one in value["channels"])
    changed = {"artifact": Path(value["artifact"]), "destinations": tuple(value["destinations"]), "channels": channels}
    return Model(**{**value, **changed})
