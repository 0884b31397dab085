"""Side by side: one reference and any number of candidates on one scan, in a single pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, of_labels
from medattn_edge.backends.session import Session
from medattn_edge.errors import BackendError, UsageError
from medattn_edge.evaluation.reference_cache import ReferenceCache
from medattn_edge.inference.batch import batch_for
from medattn_edge.inference.cleanup import check_cleanup, check_scan, clean
from medattn_edge.inference.mirrored import mirrored
from medattn_edge.inference.preprocess import Prepared, prepare
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.restore import restore
from medattn_edge.inference.segment import STANDARD, SegmentSettings
from medattn_edge.inference.sliding_window import Progress, Slab, slabs
from medattn_edge.labels import Meaning
from medattn_edge.spec import Cleanup, ModelSpec
from medattn_edge.volume import Array, Volume


@dataclass(frozen=True, eq=False)
class SideBySide:
    """What was seen on one scan.

    Attributes:
        meaning: of the labels.
        labels: the reference's (D, H, W).
        agreed: name -> agreement and labels of every candidate that reached the end.
        failed: name -> error of every one whose runtime failed on the way.
    """

    meaning: Meaning
    labels: Volume
    agreed: Mapping[str, tuple[Agreement, Volume]]
    failed: Mapping[str, BackendError]


def side_by_side(
    reference: Session,
    candidates: Mapping[str, Session],
    volume: Volume,
    settings: SegmentSettings = STANDARD,
    progress: Progress | None = None,
    cache: ReferenceCache | None = None,
) -> SideBySide:
    """The agreement of every candidate with the reference, which is run once for all of them.

    The logits are those on the scan's own grid, from which the labels are taken; mirroring and cleanup are the spec's,
    as when a scan is segmented, and so are the windows of each session, where the settings name no overlap. Logits of a
    candidate that are not finite make Agreement.finite False. A candidate that raises BackendError is left out from
    there and the others go on. Memory: a slab of logits and a label map for each.

    Args:
        reference: what the candidates are held to.
        candidates: name -> session.
        volume: the scan.
        settings: overlap and batch are used: no window is left out, and one thread does it all, because two sessions
            that run at a time would take the cores from each other.
        progress: called with the windows done and the windows in total of all sessions.
        cache: of the reference's logits: it is not run where they were kept.

    Raises:
        UsageError: when the specs differ in what they see (patch, spacing, intensity, ...) or in their labels.
        ScanError, MissingDependency, BackendError: as `segment` does, for the reference.
    """
    for candidate in candidates.values():
        _check_alike(reference.spec, candidate.spec)
    check_cleanup(reference.spec)
    check_scan(volume, reference.spec)
    prepared = prepare(volume, reference.spec)
    kept = None if cache is None else cache.of(reference, prepared, _how(reference, settings))
    there = kept is not None and kept.there
    count = _Count(len(candidates) + (not there), progress)
    expected = _Side(reference, prepared, settings, count)
    if kept is not None:
        expected.rows = kept.rows() if there else kept.keeping(expected.rows)
    sides = {name: _Side(session, prepared, settings, count) for name, session in candidates.items()}
    failed: dict[str, BackendError] = {}
    # Row by row: slabs end where windows do, which may be others. No stream is in front by more than a slab.
    for index, row in enumerate(expected.rows):
        expected.take(index, row)
        for name in [name for name in sides if name not in failed]:
            try:
                answer = next(sides[name].rows)
            except BackendError as error:
                failed[name] = error
                count.leave(sides[name])
                continue
            sides[name].distance.add(row, answer)
            sides[name].take(index, answer)
    meaning = Meaning.of(reference.spec)
    done = {name: side for name, side in sides.items() if name not in failed}
    for side in (expected, *done.values()):
        clean(side.labels, reference.spec, prepared.oriented.voxel_ml)
    return SideBySide(
        meaning,
        prepared.on_scan(expected.labels),
        {
            name: (of_labels(expected.labels, side.labels, meaning, side.distance), prepared.on_scan(side.labels))
            for name, side in done.items()
        },
        failed,
    )


def _how(session: Session, settings: SegmentSettings) -> tuple[float, int]:
    """The overlap of a session's windows, and how many are in a run."""
    overlap = session.spec.overlap if settings.overlap is None else settings.overlap
    return overlap, settings.batch if isinstance(settings.batch, int) else 0


class _Side:
    """One session on its way through the scan, and its labels so far, oriented as the network sees them."""

    def __init__(self, session: Session, prepared: Prepared, settings: SegmentSettings, count: _Count) -> None:
        session = mirrored(session)
        self.distance, self._meaning = LogitsDistance(), Meaning.of(session.spec)
        self.labels: Array = np.zeros(prepared.oriented.shape, self._meaning.label_type)
        self._view = prepared.in_network_order(self.labels)
        report = count.of(self)
        batch = batch_for(session, prepared.image, settings.overlap, settings.batch)
        network_slabs = slabs(session, prepared.image, settings.overlap, batch, progress=report)
        self.rows = _rows(restore(network_slabs, prepared))

    def take(self, index: int, row: Floats) -> None:
        """Keep the labels of a row (K, H, W)."""
        self._view[index] = self._meaning.labels_of(row)


def _rows(stream: Iterable[Slab]) -> Iterator[Floats]:
    """One row (K, H, W) of the scan after the other."""
    for slab in stream:
        for index in range(slab.logits.shape[1]):
            yield slab.logits[:, index]


class _Count:
    """Windows of several sessions, reported as one."""

    def __init__(self, sessions: int, progress: Progress | None) -> None:
        self._sessions, self._progress = sessions, progress
        self._done: dict[_Side, tuple[int, int]] = {}  # windows, and in total

    def of(self, side: _Side) -> Progress:
        """The progress of one session."""

        def report(windows: int, total: int) -> None:
            self._done[side] = windows, total
            if self._progress is not None:
                later = (self._sessions - len(self._done)) * max(of for _, of in self._done.values())
                self._progress(
                    sum(done for done, _ in self._done.values()), later + sum(of for _, of in self._done.values())
                )

        return report

    def leave(self, side: _Side) -> None:
        """Count what a session that failed will not do as done."""
        total = self._done.get(side, max(self._done.values(), key=operator.itemgetter(1), default=(0, 0)))[1]
        self.of(side)(total, total)


# What decides the labels of a scan beside the network.
_ALIKE = (
    *("in_channels", "labels", "outputs", "activation", "patch", "spacing", "orientation", "intensity", "axes"),
    *("mirror", "cleanup"),
)


def _check_alike(reference: ModelSpec, candidate: ModelSpec) -> None:
    patch = "x".join(map(str, reference.patch))
    for name in _ALIKE:
        expected, found = getattr(reference, name), getattr(candidate, name)
        if expected != found:
            raise UsageError(
                f"the candidate's {name} is {_shown(found)}",
                expected=f"the reference's {_shown(expected)}",
                hint=f"--patch {patch}" if name == "patch" else "compare two artifacts of one checkpoint",
            )


def _shown(value: object) -> str:
    """Steps of a cleanup as they are given; what is empty by name."""
    if isinstance(value, tuple) and value and isinstance(value[0], Cleanup):
        return ", ".join(map(str, value))
    return "none" if value in ((), "") else str(value)
