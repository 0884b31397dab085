"""Segment: a session and a scan become labels on the scan's own grid."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.agreement import dice_per_label
from medattn_edge.backends.session import Session
from medattn_edge.errors import BackendError, OutputError, UsageError
from medattn_edge.host.system import allocate
from medattn_edge.inference.batch import Batch, batch_for
from medattn_edge.inference.body import windows_of_air
from medattn_edge.inference.cleanup import check_cleanup, check_scan, clean
from medattn_edge.inference.handover import consume_in_thread, prefetch
from medattn_edge.inference.mirrored import mirrored
from medattn_edge.inference.preprocess import Prepared, prepare
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.restore import labelled, restore
from medattn_edge.inference.skipping import Skipping
from medattn_edge.inference.sliding_window import Answer, Progress, Slab, SlidingWindow, sliding_window
from medattn_edge.labels import Meaning
from medattn_edge.volume import Array, Volume


@dataclass(frozen=True)
class SegmentSettings:
    """How to segment a scan, and what to return beside the labels.

    Attributes:
        overlap: of neighbouring windows, 0 <= overlap < 1; None: that of the session's spec.
        batch: windows per run, where the session leaves the choice, as `batch_for` reads it.
        probabilities: return a map for every label or region as well.
        attention: return the attention maps as well.
        scratch: the folder for maps above `in_memory_bytes`, None for the system's temporary folder.
        skip_air: leave out the windows that lie outside the body: their voxels become background.
        threaded: read windows, and stitch and label, in a thread each while the session runs; the answer is the same,
            bit for bit.
        in_memory_bytes: larger probabilities and attention maps go to a scratch file.
        check_skipped: where windows were skipped, segment the scan once more with all of them, and say how well that
            agrees.
        any_modality: take a scan of another modality than the network was trained on, and say so, instead of refusing
            it; only `segment_to` knows the modality of a scan.
    """

    overlap: float | None = None
    batch: Batch = None
    probabilities: bool = False
    attention: bool = False
    scratch: Path | None = None
    skip_air: bool = False
    threaded: bool = True
    in_memory_bytes: int = 256 * 2**20
    check_skipped: bool = False
    any_modality: bool = False

    def check(self) -> None:
        """Raise UsageError for settings that make no sense together."""
        if self.check_skipped and not self.skip_air:
            raise UsageError("--check-skipped without --skip-air", expected="something to check", hint="--skip-air")


STANDARD = SegmentSettings()


@dataclass(frozen=True)
class WindowStats:
    """How a scan was covered.

    Attributes:
        total: windows of the scan.
        batch: windows per run.
        skipped: windows that lay outside the body.
        checked: those of the skipped that were run all the same.
        background: the fraction of the checked windows' voxels that the network too calls background, None when none
            was checked.
        agreement: with the labels of all windows, `label_match` and `dice` per label that is found; None unless it was
            asked for.
    """

    total: int
    batch: int
    skipped: int = 0
    checked: int = 0
    background: float | None = None
    agreement: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the agreement only where there is one."""
        values = asdict(self)
        return values if self.agreement is not None else {key: values[key] for key in values if key != "agreement"}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a network saw in a scan, on the scan's own grid and orientation.

    Attributes:
        labels: (D, H, W), of the smallest unsigned type that holds a voxel; cleaned as the spec says.
        meaning: of their values: an index into the names, 0 the background, or a bit for each region.
        windows: how the scan was covered.
        probabilities: float32 (len(names), D, H, W), as the network gave them, None unless they were asked for.
        attention: float32 (A, D, H, W), in the order of attention_names, None unless it was asked for.
        attention_names: of the attention maps.
        seconds: `prepare` (onto the network's grid), `network` (its runs) and `restore` (what of stitching, labelling
            and cleaning was not done while the network ran).
    """

    labels: Volume
    meaning: Meaning
    windows: WindowStats
    probabilities: Volume | None = None
    attention: Volume | None = None
    attention_names: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """names[value] of the labels, the background first, as `write_labels` takes them.

        Raises:
            UsageError: for regions that may overlap, whose voxels are bits and no label values.
        """
        if self.meaning.overlapping:
            raise UsageError(
                f"a label map of the regions {', '.join(self.meaning.names)}, which may overlap",
                expected="a map for each of them",
                hint="write_regions(path, segmentation.regions, segmentation.meaning.names)",
            )
        return self.meaning.names

    @property
    def regions(self) -> Volume:
        """A map (structures, D, H, W) of 0 and 1 for every label but the background, or for every region."""
        return self.labels.with_voxels(self.meaning.maps(self.labels.voxels))

    @property
    def voxel_counts(self) -> dict[str, int]:
        """Voxels of every label but the background, or of every region."""
        return self.meaning.counts(self.labels.voxels)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of every label but the background, or of every region; empty when the scan has no millimetres."""
        if not self.labels.calibrated:
            return {}
        return {name: count * self.labels.voxel_ml for name, count in self.voxel_counts.items()}


def segment(
    session: Session, volume: Volume, *, settings: SegmentSettings = STANDARD, progress: Progress | None = None
) -> Segmentation:
    """Labels of a scan (D, H, W), or (C, D, H, W) for a network of several channels.

    Args:
        session: the network.
        volume: the scan.
        settings: how, and what to return beside the labels.
        progress: called with the windows done and the windows in total, by the thread that runs the session.

    Raises:
        ScanError: for a scan that the network cannot judge.
        UsageError: for settings that the session cannot follow.
        BackendError: when the runtime fails or answers with logits that are not finite.
        OutputError: without scratch space.
        MissingDependency: without scipy, where the spec has a cleanup.
    """
    settings.check()
    check_cleanup(session.spec)
    check_scan(volume, session.spec)
    session = mirrored(session)
    start = time.perf_counter()
    prepared = prepare(volume, session.spec)
    spent = {"prepare": time.perf_counter() - start}
    segmentation = _segmented(session, prepared, settings, progress)
    segmentation = replace(segmentation, seconds=spent | dict(segmentation.seconds))
    if not settings.check_skipped:
        return segmentation
    voxels = whole = segmentation.labels.voxels
    if segmentation.windows.skipped:
        all_windows = SegmentSettings(settings.overlap, segmentation.windows.batch)
        whole = _segmented(session, prepared, all_windows, progress).labels.voxels
    agreement: dict[str, Any] = {
        "label_match": float((whole == voxels).mean()),
        "dice": dice_per_label(whole, voxels, segmentation.meaning),
    }
    return replace(segmentation, windows=replace(segmentation.windows, agreement=agreement))


def _segmented(
    session: Session, prepared: Prepared, settings: SegmentSettings, progress: Progress | None
) -> Segmentation:
    start = time.perf_counter()
    meaning = Meaning.of(session.spec)
    windows = _windows(session, prepared, settings, progress)
    labels = np.zeros(prepared.oriented.shape, meaning.label_type)
    probabilities = _maps((len(meaning.names), *labels.shape), settings) if settings.probabilities else None
    attention = _maps((len(session.attention_names), *labels.shape), settings) if settings.attention else None

    def take(answers: Iterator[Answer]) -> None:
        stitched = windows.stitched(answers)
        if probabilities is None and attention is None:
            for slab, rows in labelled(stitched, prepared, meaning):
                _check_finite(slab)
                _put(prepared, labels, slab.start, rows)
            return
        for slab in restore(stitched, prepared):
            _check_finite(slab)
            _put(prepared, labels, slab.start, meaning.labels_of(slab.logits))
            if probabilities is not None:
                _put(prepared, probabilities, slab.start, meaning.probabilities_of(slab.logits))
            if attention is not None and slab.attention is not None:
                _put(prepared, attention, slab.start, slab.attention)

    if settings.threaded:
        consume_in_thread(windows.answers(prefetch(windows.batches())), take)
    else:
        with closing(windows.answers(windows.batches())) as answers:
            take(answers)
    clean(labels, session.spec, prepared.oriented.voxel_ml)
    network = math.fsum(windows.run_seconds)
    return Segmentation(
        prepared.on_scan(labels),
        meaning,
        _stats(windows),
        None if probabilities is None else prepared.on_scan(probabilities),
        None if attention is None else prepared.on_scan(attention),
        session.attention_names if settings.attention else (),
        {"network": network, "restore": max(0.0, time.perf_counter() - start - network)},
    )


def _windows(
    session: Session, prepared: Prepared, settings: SegmentSettings, progress: Progress | None
) -> SlidingWindow:
    batch = batch_for(session, prepared.image, settings.overlap, settings.batch)
    windows = sliding_window(session, prepared.image, settings.overlap, batch, settings.attention, progress)
    if not settings.skip_air:
        return windows
    return replace(windows, skipping=Skipping(windows_of_air(prepared, windows.tiling)))


def _stats(windows: SlidingWindow) -> WindowStats:
    skipping = windows.skipping
    background = skipping.kept / skipping.seen if skipping.seen else None
    return WindowStats(
        len(windows.tiling.windows), windows.batch, len(skipping.skipped), len(skipping.checked), background
    )


def _put(prepared: Prepared, whole: Array, start: int, rows: Array) -> None:
    view = prepared.in_network_order(whole)
    view[..., start : start + rows.shape[-3], :, :] = rows


def _check_finite(slab: Slab) -> None:
    # A NaN survives both min and max, so no array of truth values is needed.
    if not (np.isfinite(slab.logits.min()) and np.isfinite(slab.logits.max())):
        raise BackendError(
            f"the network's logits are not finite from row {slab.start} of the scan on",
            expected="finite numbers",
            hint="an fp16 artifact may overflow: medattn-edge compare it with its checkpoint, or use --precision fp32",
        )


def _maps(shape: tuple[int, ...], settings: SegmentSettings) -> Floats:
    """Room for float32 maps: in memory or, when they are large, in a file without a name that goes with the array."""
    size = 4 * math.prod(shape)
    if size <= settings.in_memory_bytes:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=settings.scratch) as file:
            allocate(file.fileno(), size)  # a full disk is an error now, not a crash in the middle
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise OutputError(
            f"no scratch space in {settings.scratch or tempfile.gettempdir()}: {error.strerror or error}",
            expected=f"{size / 2**20:.0f} MiB of free space and permission to write",
            hint="--scratch FOLDER on a larger disk",
        ) from error
