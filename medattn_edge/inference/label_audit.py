"""Label audit: which values a labels file has, how much of each, and which label each was taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medattn_edge.volume import Volume

_IN_A_LINE = 12  # values that an error names, the most frequent first


@dataclass(frozen=True)
class LabelCount:
    """One value of a file.

    Attributes:
        value: as the file has it; of a file with a map for each region the map's number, from 1.
        labels: the labels, or regions, that it was taken for; none: it counts as background.
        voxels: how many have it.
        millilitres: the same as a volume; None where the scan has no millimetres.
    """

    value: int
    labels: tuple[str, ...]
    voxels: int
    millilitres: float | None

    def __str__(self) -> str:
        volume = "" if self.millilitres is None else f", {self.millilitres:,.1f} ml"
        return f"{self.value} ({self.voxels:,} voxels{volume}{': ' if self.labels else ''}{', '.join(self.labels)})"


@dataclass(frozen=True)
class LabelAudit:
    """Every value but 0 of one labels file, and every value that a label was looked for under.

    Attributes:
        file: its name, without folders, which may name people.
        counts: by value; one that no voxel has is there with 0 where a label should have had it.
    """

    file: str
    counts: tuple[LabelCount, ...]

    @classmethod
    def of(cls, file: str, labels: Volume, mapping: Mapping[str, Sequence[int]]) -> LabelAudit:
        """Of labels (D, H, W) as the file has them.

        Args:
            file: its name.
            labels: whole numbers from 0 up.
            mapping: label -> its values in the file.
        """
        values, counts = np.unique(labels.voxels, return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        return cls._of(file, {value: count for value, count in found.items() if value}, mapping, labels)

    @classmethod
    def of_maps(cls, file: str, maps: Volume, mapping: Mapping[str, Sequence[int]]) -> LabelAudit:
        """Of maps (K, D, H, W) of 0 and 1, one for each region; mapping: region -> the numbers of its maps, from 1."""
        counts = {number: int(np.count_nonzero(one)) for number, one in enumerate(maps.voxels, start=1)}
        return cls._of(file, counts, mapping, maps)

    @classmethod
    def _of(
        cls, file: str, counts: Mapping[int, int], mapping: Mapping[str, Sequence[int]], volume: Volume
    ) -> LabelAudit:
        wanted = {value for values in mapping.values() for value in values}
        rows = []
        for value in sorted({*counts, *wanted}):
            labels = tuple(name for name, values in mapping.items() if value in values)
            voxels = counts.get(value, 0)
            rows.append(LabelCount(value, labels, voxels, voxels * volume.voxel_ml if volume.calibrated else None))
        return cls(file, tuple(rows))

    @property
    def present(self) -> set[str]:
        """The labels, or regions, of which the file has a voxel."""
        return {name for row in self.counts if row.voxels for name in row.labels}

    @property
    def text(self) -> str:
        """What the file has, in a line."""
        rows = sorted((row for row in self.counts if row.voxels), key=lambda row: -row.voxels)
        more = f" and {len(rows) - _IN_A_LINE} more" if len(rows) > _IN_A_LINE else ""
        return f"{self.file} has the values {', '.join(map(str, rows[:_IN_A_LINE])) or 'none but 0'}{more}"

    @property
    def mapping(self) -> str:
        """Under which values each label was looked for, as it is typed."""
        names = dict.fromkeys(name for row in self.counts for name in row.labels)
        values = {name: [str(row.value) for row in self.counts if name in row.labels] for name in names}
        return ", ".join(f"{name}={','.join(numbers)}" for name, numbers in values.items())

    def hint(self, labels: Sequence[str]) -> str:
        """The options that give some labels other values."""
        free = [str(row.value) for row in self.counts if row.voxels and not row.labels]
        options = " ".join(f"--label-value {name}=VALUE" for name in labels)
        return f"{options}, VALUE being one of {', '.join(free[:_IN_A_LINE])}" if free else options

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"file": self.file, "values": [{**asdict(row), "labels": list(row.labels)} for row in self.counts]}
