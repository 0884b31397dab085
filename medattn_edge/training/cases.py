"""Cases: scans with their labels, as training needs them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.io import Scan
from medattn_edge.io.scan import read_labels_of
from medattn_edge.volume import Volume

_NAMED = 3  # files whose values an error shows
_LABEL = re.compile(r"(\d+)=([^:=,\s]+)(?::(\d+(?:,\d+)*))?")


@dataclass(frozen=True)
class Label:
    """One label to learn.

    Attributes:
        index: Its value in the network's labels, from 1.
        name: As the spec lists it.
        sources: Its values in the labels files.
    """

    index: int
    name: str
    sources: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Label:
        """From the command line's form INDEX=NAME[:VALUE[,VALUE...]]; without values the files use INDEX itself.

        Raises:
            UsageError: The text has another form.
        """
        match = _LABEL.fullmatch(text)
        if match is None:
            raise UsageError(
                f"the label {text!r} cannot be read",
                expected="INDEX=NAME or INDEX=NAME:VALUE[,VALUE...], a name without blanks",
                hint="--label 1=right_lung:5",
            )
        index, name, values = match.groups()
        return cls(int(index), name, tuple(map(int, (values or index).split(","))))


def check_labels(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels ordered by index.

    Raises:
        UsageError: The indices are not 1, 2, ..., or two labels share a name or a value.
    """
    ordered = tuple(sorted(labels, key=lambda label: label.index))
    names = ["background", *(label.name for label in ordered)]
    sources = [value for label in ordered for value in label.sources]
    if not ordered or [label.index for label in ordered] != list(range(1, len(ordered) + 1)):
        raise UsageError(
            f"the label indices {[label.index for label in ordered]}",
            expected="1, 2, ... without a gap; 0 is the background",
            hint="--label 1=right_lung:5 --label 2=left_lung:6",
        )
    if len(set(names)) != len(names) or len(set(sources)) != len(sources) or 0 in sources:
        raise UsageError(
            f"the labels {names[1:]} of the values {sources}",
            expected="every name and every value once; the name background and the value 0 are taken",
            hint="--label 1=right_lung:5 --label 2=left_lung:6, or one label of two values: --label 1=lungs:5,6",
        )
    return ordered


@dataclass(frozen=True, eq=False)
class Case:
    """A scan and its labels on the scan's own grid.

    Attributes:
        name: The scan's, without its folder, which may name people.
        scan: Voxels (D, H, W) or (C, D, H, W).
        labels: (D, H, W), 0 the background, else a Label's index.
        audit: Of the labels file, where they come from one.
    """

    name: str
    scan: Volume
    labels: Volume
    audit: LabelAudit | None = None

    @property
    def sha256(self) -> str:
        """Of voxels, labels and grid: two cases with the same one train alike."""
        digest = hashlib.sha256()
        for volume in (self.scan, self.labels):
            digest.update(f"{volume.voxels.dtype} {volume.voxels.shape}".encode())
            digest.update(np.ascontiguousarray(volume.voxels).data)
            digest.update(volume.affine.tobytes())
        return digest.hexdigest()


def read_cases(pairs: Sequence[tuple[Path | Scan, Path]], labels: Sequence[Label]) -> list[Case]:
    """Read (scan, labels) files; raises what `Scan.read` and `read_labels` do as well.

    A Scan says of its file which form of the header and which volume count; its `notes` are those of this reading.

    Raises:
        GeometryError: Labels are not on their scan's grid.
        ScanError: A label's value is in none of the files, or the scans differ in their channels.
    """
    labels = check_labels(labels)
    cases, mapping = list[Case](), {label.name: label.sources for label in labels}
    for scan_path, labels_path in pairs:
        source = scan_path if isinstance(scan_path, Scan) else Scan(scan_path)
        scan = source.read()
        stored = read_labels_of(labels_path, scan)
        audit = LabelAudit.of(Path(labels_path).name, stored, mapping)
        cases.append(Case(source.name, scan, remapped(stored, labels), audit))
    _check_values([case.audit for case in cases if case.audit is not None], labels)
    channels = sorted({case.scan.channels for case in cases})
    if len(channels) > 1:
        raise ScanError(
            f"scans of {' and '.join(map(str, channels))} channels",
            expected="the same channels in every scan",
            hint="train on scans of one kind",
        )
    return cases


def _check_values(audits: Sequence[LabelAudit], labels: Sequence[Label]) -> None:
    """Raise ScanError for a value of a label that is in none of the files."""
    seen = {row.value for audit in audits for row in audit.counts if row.voxels}
    for label in labels:
        if missing := sorted(set(label.sources) - seen):
            raise ScanError(
                f"no voxel has the value {missing[0]} of the label {label.name}: "
                + "; ".join(audit.text for audit in audits[:_NAMED]),
                expected=f"one of the values that the labels have: {', '.join(map(str, sorted(seen))) or 'none'}",
                hint=f"--label {label.index}={label.name}:VALUE",
            )


def remapped(stored: Volume, labels: Sequence[Label]) -> Volume:
    """Labels with the files' values as labels with our indices; any other value becomes background."""
    ours = np.zeros(stored.shape, np.uint8 if len(labels) < 256 else np.uint16)
    for label in labels:
        ours[np.isin(stored.voxels, label.sources)] = label.index
    return stored.with_voxels(ours)
