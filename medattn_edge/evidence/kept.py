"""Kept: a comparison and a measurement as files, so that a report made of them later has the same figures.

No name of a scan is in them, and nothing is run again: the labels that were compared are among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.artifact import sha256
from medattn_edge.errors import IntegrityError, UsageError
from medattn_edge.evaluation import Comparison, Measurement
from medattn_edge.evaluation.seen_scan import Observer, SeenScan
from medattn_edge.evidence.anonymity import CaseNames, voxels_sha256
from medattn_edge.io import Scan
from medattn_edge.labels import Meaning
from medattn_edge.spec import ModelSpec

_DOCUMENT: Final = "comparison.json"
_AGAIN: Final = "compare again: medattn-edge report"


@dataclass(frozen=True)
class KeptComparison:
    """A comparison of some artifacts on some scans, with the labels of all of them.

    Attributes:
        folder: that it was kept in.
        rows: of `Comparison.to_json`, an artifact by its file name and a scan by nothing.
        notes: what a reader of the figures should know.
        left_out: runtime -> why it was not run.
        digests: file name -> SHA-256 of what was compared.
        truths: the SHA-256 of each file of true labels, in the order of the scans; empty when there were none.
        labels: of each scan of each graph: its `index`, the SHA-256 of its `voxels`, `file` of its labels, and the
            `runs`, artifact and runtime of each map of labels in it.
    """

    folder: Path
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    truths: tuple[str, ...] = ()
    labels: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> KeptComparison:
        """What a `ComparisonKeeper` wrote; raises OSError or ValueError for a folder of something else."""
        values = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
        return cls(
            folder,
            tuple(values["rows"]),
            tuple(values["notes"]),
            values["left_out"],
            values["digests"],
            tuple(values["truths"]),
            tuple(values["labels"]),
        )

    def only(self, artifact: str, runtimes: Sequence[str]) -> KeptComparison:
        """The rows of one artifact in some runtimes."""
        rows = tuple(row for row in self.rows if row["artifact"] == artifact and row["backend"] in runtimes)
        return replace(self, rows=rows)

    def under(self, judged: str, artifact: str, runtimes: Sequence[str]) -> KeptComparison:
        """The rows of one artifact in some runtimes, which was judged under another name than it has now."""
        rows = tuple({**row, "artifact": artifact} for row in self.only(judged, runtimes).rows)
        labels = tuple(
            {**one, "runs": [[artifact if name == judged else "", runtime] for name, runtime in one["runs"]]}
            for one in self.labels
        )
        return replace(self, rows=rows, labels=labels, digests={artifact: self.digests[judged]})

    def of(self, artifacts: Sequence[Path], scans: Sequence[Scan], truths: Sequence[Path]) -> KeptComparison:
        """The part of some artifacts; the voxels of the scans are looked at when they are shown.

        Raises:
            UsageError: it has no row of one of them, or is of other scans or files of true labels.
            IntegrityError: an artifact is another than was compared.
        """
        count = len({one["index"] for one in self.labels})
        if count != len(scans) or [sha256(path) for path in truths] != list(self.truths):
            raise UsageError(
                f"a kept comparison on {count} scans with {len(self.truths)} files of true labels, for a report on "
                f"{len(scans)} with {len(truths)}",
                expected="the same scans and true labels, in the same order",
                hint=_AGAIN,
            )
        for path in artifacts:
            if path.name not in {row["artifact"] for row in self.rows}:
                raise UsageError(f"no comparison of {path.name} was kept", expected="one of every file", hint=_AGAIN)
            if sha256(path) != self.digests[path.name]:
                raise IntegrityError(
                    f"{path.name} is another file than the one that was compared",
                    expected=f"the SHA-256 {self.digests[path.name][:16]}...",
                    hint=_AGAIN,
                )
        names = {path.name for path in artifacts}
        return replace(self, rows=tuple(row for row in self.rows if row["artifact"] in names))

    def show(self, observer: Observer, artifacts: Sequence[Path], scans: Sequence[Scan], spec: ModelSpec) -> None:
        """Call an observer as the comparison called it, with the labels that were kept.

        Args:
            observer: takes a SeenScan, once for each scan of each graph.
            artifacts: what was compared.
            scans: what it was compared on, in the same order.
            spec: of the artifacts.

        Raises:
            IntegrityError: a scan is another than was compared on.
            MedattnError: as `Scan.read_for` does.
        """
        paths = {path.name: path for path in artifacts}
        rows = {(row["artifact"], row["backend"]) for row in self.rows}
        for index, scan in enumerate(scans):
            volume = scan.read_for(spec)
            for one in (one for one in self.labels if one["index"] == index):
                if one["voxels"] != voxels_sha256(volume):
                    raise IntegrityError(
                        f"scan {index + 1} is another than the one that was compared on",
                        expected="the same voxels at the same place",
                        hint=_AGAIN,
                    )
                with np.load(self.folder / one["file"], allow_pickle=False) as maps:
                    found = {
                        (paths[name], runtime): volume.with_voxels(maps[f"run_{number}"])
                        for number, (name, runtime) in enumerate(one["runs"])
                        if (name, runtime) in rows and name in paths
                    }
                    right = volume.with_voxels(maps["true_labels"]) if "true_labels" in maps else None
                    reference = volume.with_voxels(maps["reference"])
                if found:
                    name = scan.described(spec)
                    about = (volume, Meaning.of(spec), reference, right, found, spec.intensity, spec.codes)
                    observer(SeenScan(index, scan, name, *about))


class ComparisonKeeper:
    """The observer of a comparison that is to be kept.

    Args:
        folder: of its own; what is written into it appears there at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._labels: list[dict[str, Any]] = []

    def __call__(self, seen: SeenScan) -> None:
        """Keep the labels of one scan of one graph's runs."""
        maps = {"reference": seen.reference.voxels}
        if seen.true_labels is not None:
            maps["true_labels"] = seen.true_labels.voxels
        maps |= {f"run_{number}": labels.voxels for number, labels in enumerate(seen.candidates.values())}
        file = f"labels-{len(self._labels)}.npz"
        np.savez_compressed(self._folder / file, **maps)  # type: ignore[arg-type]
        runs = [[path.name, runtime] for path, runtime in seen.candidates]
        self._labels.append({"index": seen.index, "voxels": voxels_sha256(seen.volume), "file": file, "runs": runs})

    def finish(self, comparison: Comparison, names: CaseNames, truths: Sequence[Path] = ()) -> KeptComparison:
        """Keep its rows.

        Args:
            comparison: the one that was observed.
            names: of its scans: what stands for them is kept.
            truths: its files of true labels, in order.
        """
        rows = []
        for row in comparison.to_json()["candidates"]:
            cases = [{key: value for key, value in one.items() if key not in ("scan", "name")} for one in row["cases"]]
            rows.append(names.cleaned({**row, "artifact": Path(row["artifact"]).name, "cases": cases}))
        values = {
            "rows": rows,
            "notes": names.cleaned(list(comparison.notes)),
            "left_out": names.cleaned(dict(comparison.left_out)),
            "digests": {path.name: sha256(path) for path in comparison.candidates},
            "truths": [sha256(path) for path in truths],
            "labels": self._labels,
        }
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        (self._folder / _DOCUMENT).write_text(text, encoding="utf-8")
        return KeptComparison.read(self._folder)


@dataclass(frozen=True)
class KeptMeasurement:
    """A measurement as plain values, or why there is none.

    Attributes:
        environment: the host, its versions and its load.
        rows: of `Measurement.to_json`, the reference first, each with its `samples_ms`, None where it was not timed.
        left_out: runtime, or `artifact in runtime` -> why it is no row.
        notes: what a reader of the figures should know.
        reason: why nothing was timed; empty when something was.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, measurement: Measurement) -> KeptMeasurement:
        """What is kept of a measurement."""
        rows = []
        for row in measurement.report.rows:
            samples = None if row.latency is None else [round(one, 4) for one in row.latency.samples_ms.tolist()]
            rows.append({**row.to_json(), "samples_ms": samples})
        return cls(dict(measurement.report.environment), tuple(rows), measurement.left_out, measurement.notes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse."""
        kept = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}
        return {**kept, "rows": [dict(row) for row in self.rows], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> KeptMeasurement:
        """From `to_json`; raises TypeError for other fields."""
        return cls(**{**values, "rows": tuple(values["rows"]), "notes": tuple(values["notes"])})

    def beside(self, deadline_ms: float | None) -> list[dict[str, Any]]:
        """The rows with a deadline and the rate at which their runs missed it, None where they were not timed."""
        rows = []
        for row in self.rows:
            late = row.get("miss_rate") if row.get("deadline_ms") == deadline_ms else _miss_rate(row, deadline_ms)
            rows.append({**row, "deadline_ms": deadline_ms, "miss_rate": late})
        return rows


def _miss_rate(row: Mapping[str, Any], deadline_ms: float | None) -> float | None:
    samples = row["samples_ms"]
    if samples is None or deadline_ms is None:
        return None
    return float(sum(one > deadline_ms for one in samples) / len(samples))
