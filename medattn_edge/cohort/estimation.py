"""What an archive would take, computed from cases that were measured here: core-hours, network, storage.

Nothing is assumed of the artifact or the scans: every figure is a mean of records in a folder of results. What is
assumed (`BUSY_SHARE`, the rates of networks) is in the answer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from medattn_edge.cohort.records import read_record
from medattn_edge.errors import InputError, UsageError, quoted

BUSY_SHARE: Final = 0.9  # of the time in which cores compute; the rest is waiting for disks, network and the last case
GIGABITS: Final = (1, 10)  # per second, of networks whose whole rate is there
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_PARTS: Final = ("cpu_seconds", "scan_bytes", "written_bytes")
FORMULAS: Final = {
    "core_hours": "studies x CPU seconds of a case / 3600 / share of the time that cores compute",
    "days_on_this_many_cores": "core-hours / cores / 24",
    "days_of_network": "studies x bytes read of a case x 8 / rate / 86400",
    "cores_that_a_network_feeds": "rate / (bytes read of a case x 8) x CPU seconds of a case / share",
    "terabytes_written": "studies x bytes written of a case / 1e12",
}


@dataclass(frozen=True)
class Measured:
    """One figure of the cases that were measured.

    Attributes:
        mean: of all of them.
        standard_error_percent: of the mean, in percent of it; None of a single case.
        max: of the largest case.
    """

    mean: float
    standard_error_percent: float | None
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Of at least one value."""
        mean = statistics.fmean(values)
        error = None
        if len(values) > 1 and mean:
            error = 100 * statistics.stdev(values) / math.sqrt(len(values)) / mean
        return cls(mean, error, max(values))


@dataclass(frozen=True)
class Estimate:
    """What so many studies take on hosts like this one.

    Attributes:
        studies: how many.
        cases: how many cases it follows from.
        not_counted: records of the folder that are of another artifact, or say no figures.
        cpu_seconds: of a case, of all threads.
        scan_bytes: of the files of a case's scan.
        written_bytes: of a case's results, without its record.
        busy_share: of the time, in which cores compute; assumed.
        cores: of this host that are usable.
        core_hours: in total.
        days: on `cores`.
        network_days: gigabits per second -> days until every scan has come, at the whole rate.
        fed_cores: gigabits per second -> cores that the scans which come keep busy.
        terabytes_read: in total, in 1e12 bytes.
        terabytes_written: in total.
    """

    studies: int
    cases: int
    not_counted: int
    cpu_seconds: Measured
    scan_bytes: Measured
    written_bytes: Measured
    busy_share: float
    cores: int
    core_hours: float
    days: float
    network_days: Mapping[str, float]
    fed_cores: Mapping[str, float]
    terabytes_read: float
    terabytes_written: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the formulas."""
        return {**asdict(self), "formulas": dict(FORMULAS)}


def estimate(folder: Path | str, studies: int, artifact_sha256: str, cores: int) -> Estimate:
    """What so many studies like the cases of a folder take.

    Args:
        folder: with results of `segment_cohort`.
        studies: how many there would be.
        artifact_sha256: only what it segmented counts.
        cores: of this host that are usable.

    Raises:
        UsageError: for less than one study.
        InputError: when no record of the folder has the figures.
    """
    if studies < 1:
        raise UsageError(f"{studies} studies", expected="1 or more", hint="--estimate 1000000")
    place = Path(folder)
    records = [record for path in sorted(place.glob("*.json")) if (record := read_record(path)) is not None]
    counted = [one for one in records if _counts(one, artifact_sha256)]
    if not counted:
        raise InputError(
            f"{place} has {len(records)} records of cases, and none with the figures of this artifact",
            expected="results of the same artifact, made by this version",
            hint=f"medattn-edge infer ARTIFACT SCANS -o {quoted(place)}/, then --estimate {studies}",
        )
    cpu, read, written = (Measured.of([float(one[part]) for one in counted]) for part in _PARTS)
    core_hours = studies * cpu.mean / _HOUR_S / BUSY_SHARE
    per_second = {f"{rate} Gb/s": rate * 1e9 / (8 * read.mean) for rate in GIGABITS}  # studies
    return Estimate(
        studies=studies,
        cases=len(counted),
        not_counted=len(records) - len(counted),
        cpu_seconds=cpu,
        scan_bytes=read,
        written_bytes=written,
        busy_share=BUSY_SHARE,
        cores=cores,
        core_hours=core_hours,
        days=core_hours / cores / 24,
        network_days={name: studies / rate / _DAY_S for name, rate in per_second.items()},
        fed_cores={name: rate * cpu.mean / BUSY_SHARE for name, rate in per_second.items()},
        terabytes_read=studies * read.mean / 1e12,
        terabytes_written=studies * written.mean / 1e12,
    )


def _counts(record: Mapping[str, Any], artifact_sha256: str) -> bool:
    """Whether a record is of an artifact, and has every figure; bytes of nothing cannot be divided by."""
    figures = [record.get(part) for part in _PARTS]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in figures)
    return numbers and record["fingerprint"].get("artifact_sha256") == artifact_sha256
