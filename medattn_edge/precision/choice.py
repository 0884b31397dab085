"""Which windows of which scans are calibrated on, and which are judged on: no voxel is in both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.tiling import Tiling, Window, starts
from medattn_edge.labels import Meaning
from medattn_edge.precision.windows import OVERLAP, Cut, ScanSource, TiledScan, Windows, answers
from medattn_edge.spec import ModelSpec

_SETS = 3  # of one scan: two are calibrated on, one is held out
_FEW = 8  # windows that tell which labels a part of a scan has


class BalancedChoice:
    """Windows of scans that are shown to the network one after the other: half with foreground in its answer.

    Evenly spread candidates are looked at, twice as many as wanted, from every scan alike.

    Args:
        session: says which windows have foreground.
        count: windows to choose at most.
        scans: how many scans there will be.
        seed: of the choice; the same arguments choose the same windows.

    Raises:
        UsageError: a count below 1.
    """

    def __init__(self, session: Session, count: int, scans: int = 1, seed: int = 0) -> None:
        if count < 1:
            raise UsageError(f"{count} patches", expected="at least 1", hint="--samples 32")
        self._session, self._count, self._left = session, count, scans
        self._meaning = Meaning.of(session.spec)
        self._rng = np.random.default_rng(seed)
        self._cuts: list[Cut] = []
        self._foreground: list[bool] = []

    def add(self, scan: TiledScan, windows: Sequence[Window]) -> None:
        """Take the candidates from these windows of the next scan."""
        wanted = max(1, math.ceil((2 * self._count - len(self._cuts)) / max(1, self._left)))
        self._left -= 1
        runs = np.array_split(np.arange(len(windows)), min(wanted, len(windows)))
        cuts = scan.cut(windows[int(self._rng.choice(run))] for run in runs)
        self._cuts += cuts
        logits = answers(self._session, (cut.patch for cut in cuts))
        self._foreground += [bool(self._meaning.labels_of(one).any()) for one in logits]

    def chosen(self) -> Windows:
        """At most `count` of the candidates; when one half is short, the other fills it."""
        halves: tuple[list[int], list[int]] = ([], [])
        for index, foreground in enumerate(self._foreground):
            halves[int(foreground)].append(index)
        background, foreground_ = (_spread(half, len(half)) for half in halves)
        many = max(self._count - len(background), (self._count + 1) // 2)
        kept = _spread(foreground_, min(many, len(foreground_)))
        kept += _spread(background, min(self._count - len(kept), len(background)))
        return Windows([self._cuts[index] for index in sorted(kept)])


def choose_windows(
    scans: Sequence[ScanSource],
    held_out: Sequence[ScanSource],
    session: Session,
    counts: tuple[int, int] = (32, 16),
    seed: int = 0,
) -> tuple[Windows, Windows]:
    """Windows to calibrate on, and to judge on, which have no voxel in common.

    Without scans to hold out it is the last one, or, when there is one only, a part of it (see `divided`).

    Args:
        scans: to calibrate on, and to hold out of when nothing else is.
        held_out: to judge on.
        session: the FP32 network, which says where foreground is.
        counts: windows of either at most.
        seed: of the choice.

    Raises:
        UsageError: there is no scan, one is in both, or the only one is too small to be divided.
    """
    if not scans:
        raise UsageError(
            "no scan to calibrate on", expected="at least one", hint="medattn-edge calibrate NET.onnx SCAN"
        )
    if not held_out and len(scans) == 1:
        scan = TiledScan(scans[0], session.spec)
        choices = [BalancedChoice(session, count, 1, seed) for count in counts]
        for choice, windows in zip(choices, divided(scan, session), strict=True):
            choice.add(scan, windows)
        return choices[0].chosen(), choices[1].chosen()
    calibrated, judged = (scans, held_out) if held_out else (scans[:-1], scans[-1:])
    first = _of_scans(calibrated, BalancedChoice(session, counts[0], len(calibrated), seed), session.spec, ())
    second = BalancedChoice(session, counts[1], len(judged), seed)
    return first, _of_scans(judged, second, session.spec, first.scans)


def _of_scans(
    sources: Sequence[ScanSource], choice: BalancedChoice, spec: ModelSpec, taken: Collection[str]
) -> Windows:
    def add(source: ScanSource) -> None:  # a call of its own: a scan is gone before the next one is read
        scan = TiledScan(source, spec)
        if scan.digest in taken:
            raise UsageError(
                f"{source.name} would be both calibrated and judged on",
                expected="held-out scans that are not among those to calibrate on",
                hint="--held-out OTHER_SCAN",
            )
        choice.add(scan, scan.tiling.windows)

    for source in sources:
        add(source)
    return choice.chosen()


def divided(scan: TiledScan, session: Session) -> tuple[list[Window], list[Window]]:
    """The windows of one scan as (to calibrate on, held out): a third of its longest axis, in patches, is held out.

    No voxel is in both. The axis is cut into six parts, or three where six are shorter than a patch; every third part
    is held out, beginning with the one that leaves most labels on both sides by what the session finds in a few windows
    of each.

    Raises:
        UsageError: the scan has too few windows.
    """
    tiling, shape = scan.tiling, scan.tiling.shape
    axis = max(range(3), key=lambda one: shape[one] / tiling.size[one])
    count = 2 * _SETS if shape[axis] >= 2 * _SETS * tiling.size[axis] else _SETS
    edges = [shape[axis] * index // count for index in range(count + 1)]
    parts = [_rows(tiling, axis, first, last) for first, last in itertools.pairwise(edges)]
    if not all(parts):
        raise UsageError(
            f"{scan.name} is too small to be divided: {'x'.join(map(str, shape))} voxels, "
            f"patches of {'x'.join(map(str, session.spec.patch))}",
            expected="a second scan to judge on",
            hint="--held-out OTHER_SCAN",
        )
    sets = [sorted(window for part in parts[index::_SETS] for window in part) for index in range(_SETS)]
    seen = [_labels_in(scan, windows, session) for windows in sets]

    def score(held: int) -> tuple[int, bool]:
        rest = set[str]().union(*(labels for index, labels in enumerate(seen) if index != held))
        return min(len(seen[held]), len(rest)), held == 1

    held = max(range(_SETS), key=score)
    outside = sorted(window for index, windows in enumerate(sets) if index != held for window in windows)
    return outside, sets[held]


def _labels_in(scan: TiledScan, windows: Sequence[Window], session: Session) -> set[str]:
    """The labels but the background, or the regions, that a session finds in a few evenly spread windows."""
    few = scan.cut(windows[index] for index in _spread(list(range(len(windows))), min(_FEW, len(windows))))
    logits = answers(session, (cut.patch for cut in few))
    meaning = Meaning.of(session.spec)
    return {name for one in logits for name in meaning.seen(meaning.labels_of(one))}


def _rows(tiling: Tiling, axis: int, first: int, last: int) -> list[Window]:
    """The windows that tile only these rows of an axis; none when a patch is longer than they are."""
    size = tiling.size[axis]
    if last - first < size:
        return []
    grid = [first + start for start in starts(last - first, size, OVERLAP)]
    moved = {(*window[:axis], start, *window[axis + 1 :]) for window in tiling.windows for start in grid}
    return [(d, h, w) for d, h, w in sorted(moved)]


def _spread(indices: list[int], count: int) -> list[int]:
    return [part[len(part) // 2].item() for part in np.array_split(np.array(indices), count)] if count else []
