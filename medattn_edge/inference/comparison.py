"""Compare: two sessions on one scan, side by side, in the memory of two slabs."""

from __future__ import annotations

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, of_labels
from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.restore import restore
from medattn_edge.inference.segment import STANDARD, Settings
from medattn_edge.inference.sliding_window import Progress, slabs
from medattn_edge.labels import label_type, labels_of
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume


def compare(
    reference: Session,
    candidate: Session,
    volume: Volume,
    settings: Settings = STANDARD,
    progress: Progress | None = None,
) -> tuple[Agreement, Volume, Volume]:
    """The agreement of two sessions on a scan, and the labels (D, H, W) of the reference and of the candidate.

    The logits are those on the scan's own grid, from which the labels are taken. Logits of the candidate that are not
    finite make Agreement.finite False. progress counts the windows of both sessions.
    Raises UsageError when the specs differ in what they see (patch, spacing, intensity, ...) or in their labels, and
    what `segment` raises. settings.probabilities and settings.attention are not used.
    """
    _check_alike(reference.spec, candidate.spec)
    prepared = prepare(volume, reference.spec)
    names, distance = reference.spec.labels, LogitsDistance()
    done = {"reference": 0, "candidate": 0}

    def walk(session: Session, name: str) -> Progress:
        def say(windows: int, total: int) -> None:
            done[name] = windows
            if progress is not None:
                progress(sum(done.values()), 2 * total)

        return say

    maps = [np.zeros(prepared.lps.shape, label_type(len(names))) for _ in range(2)]
    views = [prepared.in_network_order(labels) for labels in maps]
    streams = [
        restore(
            slabs(session, prepared.image, settings.overlap, settings.batch, progress=walk(session, name)), prepared
        )
        for session, name in ((reference, "reference"), (candidate, "candidate"))
    ]
    # The patches are the same, so the slabs are: neither stream runs ahead by more than its batch.
    for expected, found in zip(*streams, strict=True):
        for row in range(expected.logits.shape[1]):  # one at a time: the distance works in double precision
            distance.add(expected.logits[:, row], found.logits[:, row])
        rows = slice(expected.start, expected.start + expected.logits.shape[1])
        views[0][rows], views[1][rows] = labels_of(expected.logits), labels_of(found.logits)
    agreement = of_labels(maps[0], maps[1], names, distance)
    return agreement, prepared.on_scan(maps[0]), prepared.on_scan(maps[1])


def _check_alike(reference: ModelSpec, candidate: ModelSpec) -> None:
    patch = "x".join(map(str, reference.patch))
    for name in ("in_channels", "labels", "outputs", "patch", "spacing", "intensity", "axes"):
        expected, found = getattr(reference, name), getattr(candidate, name)
        if expected != found:
            raise UsageError(
                f"the candidate's {name} is {found}",
                expected=f"the reference's {expected}",
                hint=f"--patch {patch}" if name == "patch" else "compare two artifacts of one checkpoint",
            )
