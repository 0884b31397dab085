"""What a result follows from, by content: the scan's files, the artifact, and every setting that decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.cohort.case import Case, CaseError, ScanChoices
from medattn_edge.cohort.naming import Job
from medattn_edge.errors import ScanError
from medattn_edge.inference import SegmentSettings
from medattn_edge.inference.dicom_results import label_settings
from medattn_edge.io import Scan
from medattn_edge.io.metaimage import files_of
from medattn_edge.reasons import CHANGED_SCAN
from medattn_edge.spec import ModelSpec

_HEADER_ALONE: Final = ".mhd"  # its voxels lie in a file beside it


def artifact_sha256(path: Path) -> str:
    """Of everything that an artifact computes with, companions included; of a checkpoint of its file."""
    if manifest_path(path).is_file():
        return Artifact.read(path).content_sha256
    return sha256(path)


@dataclass(frozen=True)
class ScanContent:
    """The files of a scan at one time.

    Attributes:
        sha256: of all of them in their order.
        states: of each file: size, time of change and place on the disk.
    """

    sha256: str
    states: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """The bytes of all of them."""
        return sum(state[0] for state in self.states)

    @classmethod
    def of(cls, scan: Scan) -> ScanContent:
        """Read every byte once.

        Raises:
            ScanError: a file cannot be read.
        """
        files = _files(scan)
        states = _states(files)
        digest = hashlib.sha256()
        for file in files:
            try:
                digest.update(bytes.fromhex(sha256(file)))
            except OSError as error:
                raise _unreadable(file, error) from error
        return cls(digest.hexdigest(), states)

    def check(self, scan: Scan, shown: str) -> None:
        """Raise CaseError when a file changed since: what was read may not be what was hashed."""
        if _states(_files(scan)) != self.states:
            raise CaseError(CHANGED_SCAN, shown)


class Opened(Protocol):
    """What decides of an open session: its own, or what a worker says of its one."""

    @property
    def spec(self) -> ModelSpec:
        """What the network expects."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What runs where."""


def settings_of(session: Opened, job: Job, segment: SegmentSettings, choices: ScanChoices) -> dict[str, Any]:
    """Every setting that decides a case's files, beside the artifact's own bytes."""
    spec, outputs = session.spec, job.outputs
    facts = session.facts
    decided = label_settings(
        segment.overlap, segment.skip_air, str(facts.get("backend", "")), spec, outputs.regions_as(spec)
    )
    settings = decided | {
        "device": str(facts.get("device", "")),
        "provider": str(facts.get("provider", "")),
        "spec_sha256": hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode()).hexdigest(),
        "any_modality": segment.any_modality,
        "pixel_spacing": list(choices.pixel_spacing),
        "geometry": choices.geometry,
        "volume": choices.volume,
        "resample_to_first": choices.resample_to_first,
        "channels": channels_of(job.case, spec),
        "seg_kind": outputs.seg_kind,
        "names": list(job.names),
        "medattn_edge": version("medattn-edge"),
    }
    stored: dict[str, Any] = json.loads(json.dumps(settings))  # as a record gives it back: lists, and no tuples
    return stored


def channels_of(case: Case, spec: ModelSpec) -> list[str]:
    """What becomes which channel of a network with several; of DICOM without names of folders."""
    lines = case.scan.assignment(spec) if case.scan is not None else ()
    return [line.partition(" <- ")[0] if case.hidden else line for line in lines]


def _files(scan: Scan) -> tuple[Path, ...]:
    found: list[Path] = []
    for file in scan.files:
        found += files_of(file) if file.suffix.lower() == _HEADER_ALONE else (file,)
    return tuple(found)


def _states(files: tuple[Path, ...]) -> tuple[tuple[int, ...], ...]:
    states = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        states.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(states)


def _unreadable(file: Path, error: OSError) -> ScanError:
    return ScanError(
        f"{file} cannot be read: {error.strerror or error}",
        expected="a scan that is there and may be read",
        hint="look at the file, then give --resume",
    )
