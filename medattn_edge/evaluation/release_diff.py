"""Release diff: what changes for whoever replaces one release by another; the evidence for a change.

Both artifacts segment every scan as `infer` does, each in a process of its own, so that spec, runtime and weights may
all differ; structures are compared by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends import AUTO
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.errors import UsageError
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.samples import sample_patches
from medattn_edge.inference.segment import Segmentation, segment
from medattn_edge.io import Scan
from medattn_edge.release import OpenedArtifact, TrustedKey, opened_artifact
from medattn_edge.timing import in_turn
from medattn_edge.volume import Volume

Progress = Callable[[str, int, int], None]  # what is going on, done, of how many
_ABOUT = ("precision", "exporter", "sha256", "thresholds", "calibration", "rewrites", "target", "tools")


@dataclass(frozen=True)
class DiffSettings:
    """How two releases are compared.

    Attributes:
        min_dice: that every label must reach between the two on every scan, None for no limit.
        time: whether one run of each is timed as well.
        duration_s: of the timing, for each.
        threads: of the CPU, 0 for as many as there are usable cores.
        device: auto (what each file is for), cpu or cuda:INDEX.
    """

    min_dice: float | None = None
    time: bool = False
    duration_s: float = 5.0
    threads: int = 0
    device: str = AUTO


@dataclass(frozen=True)
class StructureChange:
    """One label or region of one scan in both releases; None where a release does not have it.

    Attributes:
        old_voxels: of the old release.
        new_voxels: of the new one.
        old_ml: millilitres; None also for a scan without millimetres.
        new_ml: millilitres.
        dice: between the two; 1 where neither found it.
    """

    old_voxels: int | None
    new_voxels: int | None
    old_ml: float | None
    new_ml: float | None
    dice: float | None


@dataclass(frozen=True)
class ScanChange:
    """One scan.

    Attributes:
        scan: its name.
        voxels: of the whole scan.
        changed_voxels: that belong to another structure now.
        labels: name -> what became of it.
    """

    scan: str
    voxels: int
    changed_voxels: int
    labels: Mapping[str, StructureChange]


@dataclass(frozen=True)
class ReleaseDiff:
    """What differs.

    Attributes:
        releases: `old` and `new` -> path, artifact, name, version, manifest_sha256, signed_by.
        spec: field -> `old` and `new` value, of those that differ.
        artifact: precision, thresholds, tools and the like -> `old` and `new`, of those that differ.
        scans: in the order in which they were given.
        min_dice: what was asked, None for nothing.
        latency: p50_ms of both, their ratio old / new with its quartiles, None where it was declined, why, and the
            patches; None unless asked for.
    """

    releases: Mapping[str, Mapping[str, Any]]
    spec: Mapping[str, Mapping[str, Any]]
    artifact: Mapping[str, Mapping[str, Any]]
    scans: tuple[ScanChange, ...]
    min_dice: float | None
    latency: Mapping[str, Any] | None

    @property
    def failures(self) -> list[str]:
        """A line for every label of every scan that is below the limit, or that one release does not have."""
        if self.min_dice is None:
            return []
        rows = [(one.scan, name, change.dice) for one in self.scans for name, change in one.labels.items()]
        return [
            f"{scan}: Dice of {name} is {dice:.6g}, below {self.min_dice:g}"
            if dice is not None
            else f"{scan}: {name} is not a label of both"
            for scan, name, dice in rows
            if dice is None or not dice >= self.min_dice
        ]

    @property
    def passed(self) -> bool:
        """Whether every label is as near as was asked."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{name: dict(about) for name, about in self.releases.items()},
            "verdict": "pass" if self.passed else "fail",
            "failures": self.failures,
            "min_dice": self.min_dice,
            "spec": {name: dict(values) for name, values in self.spec.items()},
            "artifact": {name: dict(values) for name, values in self.artifact.items()},
            "scans": [asdict(one) for one in self.scans],
            "latency": None if self.latency is None else dict(self.latency),
        }


_USUAL = DiffSettings()


def diff_releases(
    old: Path,
    new: Path,
    scans: Sequence[Scan],
    *,
    trusted: Sequence[TrustedKey] = (),
    settings: DiffSettings = _USUAL,
    progress: Progress | None = None,
) -> ReleaseDiff:
    """Compare two releases on scans.

    Args:
        old: a release, or RELEASE#ARTIFACT.
        new: the one that would replace it.
        scans: at least one.
        trusted: keys, one of which must have signed each; none: signatures are not looked at.
        settings: how.
        progress: called with what is going on, windows done and windows in total.

    Raises:
        UsageError: without scans.
        IntegrityError, InputError: as `opened_artifact` does.
        ScanError, BackendError: as `segment` does.
    """
    if not scans:
        raise UsageError("no scan", expected="at least one", hint="medattn-edge release diff OLD NEW SCAN.nii.gz")
    report = progress or (lambda what, done, total: None)
    with ExitStack() as stack:
        sides = [stack.enter_context(_side(path, trusted, settings)) for path in (old, new)]
        changes = tuple(_on_scan(sides, scan, report) for scan in scans)
        latency = _latency(sides, scans[0], settings, report) if settings.time else None
        specs = [Artifact.read(side.opened.file).spec.to_json() for side in sides]
        about = [{key: side.values.get(key) for key in _ABOUT} for side in sides]
        releases = dict(zip(("old", "new"), (side.about for side in sides), strict=True))
        return ReleaseDiff(releases, _differing(*specs), _differing(*about), changes, settings.min_dice, latency)


@dataclass(frozen=True)
class _Side:
    opened: OpenedArtifact
    session: IsolatedSession

    @property
    def values(self) -> Mapping[str, Any]:
        """What the release says of the artifact."""
        return self.opened.release.manifest.artifacts[self.opened.file.name]

    @property
    def about(self) -> dict[str, Any]:
        release = self.opened.release
        return {
            "release": str(release.path),
            "artifact": self.opened.file.name,
            "name": release.manifest.name,
            "version": release.manifest.version,
            "manifest_sha256": release.manifest_sha256,
            "signed": release.signed,
            "signed_by": None if release.signer is None else release.signer.signer,
        }


@contextmanager
def _side(path: Path, trusted: Sequence[TrustedKey], settings: DiffSettings) -> Iterator[_Side]:
    options = Options(settings.device, settings.threads or usable_cores())
    with opened_artifact(path, trusted) as opened, IsolatedSession(opened.file, options=options) as session:
        yield _Side(opened, session)


def _on_scan(sides: Sequence[_Side], scan: Scan, report: Progress) -> ScanChange:
    results = []
    for side, which in zip(sides, ("old", "new"), strict=True):
        volume = scan.read_for(side.session.spec)
        name = scan.described(side.session.spec)

        def tell(done: int, total: int, what: str = f"{name}, {which}") -> None:
            report(what, done, total)

        results.append(segment(side.session, volume, progress=tell))
    old, new = results
    labels = {
        structure: _change(old, new, structure)
        for structure in dict.fromkeys((*old.meaning.structures, *new.meaning.structures))
    }
    changed = np.zeros(old.labels.voxels.shape, bool)
    for structure in labels:
        changed |= _mask(old, structure) ^ _mask(new, structure)
    return ScanChange(name, int(changed.size), int(np.count_nonzero(changed)), labels)


def _change(old: Segmentation, new: Segmentation, structure: str) -> StructureChange:
    in_both = structure in old.meaning.structures and structure in new.meaning.structures
    dice = None
    if in_both:
        first, second = _mask(old, structure), _mask(new, structure)
        total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
        dice = 2.0 * int(np.count_nonzero(first & second)) / total if total else 1.0
    return StructureChange(
        old.voxel_counts.get(structure),
        new.voxel_counts.get(structure),
        old.volumes_ml.get(structure),
        new.volumes_ml.get(structure),
        dice,
    )


def _mask(found: Segmentation, structure: str) -> Any:
    voxels = found.labels.voxels
    if structure in found.meaning.structures:
        return found.meaning.mask(voxels, structure)
    return np.zeros(voxels.shape, bool)


def _latency(sides: Sequence[_Side], scan: Scan, settings: DiffSettings, report: Progress) -> dict[str, Any]:
    """One run of each on real windows, in turn: paired, so that a host whose speed drifts is unfair to none."""
    report("timing, in s", 0, 1)
    calls, patches = {}, {}
    for side, which in zip(sides, ("old", "new"), strict=True):
        volume: Volume = scan.read_for(side.session.spec)
        patch = sample_patches(volume, side.session.spec, 1)
        patch = np.repeat(patch, side.session.batch or 1, axis=0)
        patches[which] = list(patch.shape)
        calls[which] = _timed(side.session, patch)
    times = in_turn(
        calls, duration_s=settings.duration_s, progress=lambda done, total: report("timing, in s", done, total)
    )
    ratio = times["new"].ratio_of(times["old"])
    return {
        "old": {"p50_ms": times["old"].p50_ms, "p90_ms": times["old"].p90_ms, "patches": patches["old"]},
        "new": {"p50_ms": times["new"].p50_ms, "p90_ms": times["new"].p90_ms, "patches": patches["new"]},
        "ratio_to_old": ratio.figure,
        "ratio_spread": ratio.spread,
        "ratio_declined": ratio.declined or None,
        "runs": len(times["new"].samples_ms),
    }


def _timed(session: IsolatedSession, patch: Any) -> Callable[[], float]:
    def call() -> float:
        session.run(patch)
        return session.last_ms

    return call


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys((*old, *new))
    return {name: {"old": old.get(name), "new": new.get(name)} for name in names if old.get(name) != new.get(name)}
