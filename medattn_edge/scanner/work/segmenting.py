"""A received series to results in a folder: what a worker does for one task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medattn_edge.artifact import Artifact, Manifest
from medattn_edge.backends import open_session
from medattn_edge.backends.session import Session
from medattn_edge.errors import InputError, IntegrityError
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference import OpenArtifact, Outputs, SegmentSettings, segment_to
from medattn_edge.inference.cleanup import check_cleanup
from medattn_edge.inference.workflow import algorithm_of_run
from medattn_edge.io.channels import ChannelScan
from medattn_edge.io.dicom.seg import Algorithm
from medattn_edge.io.dicom.volume import RefusedSeries, Series, series_of
from medattn_edge.io.scan import Scan
from medattn_edge.release import is_release_address, opened_artifact
from medattn_edge.scanner.config.sections import Model
from medattn_edge.scanner.store.layout import OVERLAY, PROBABILITIES, RTSTRUCT, SEG, SR
from medattn_edge.scanner.store.records import Output
from medattn_edge.scanner.work.canary import check_gate, run_canary
from medattn_edge.scanner.work.tasks import Done, Refused, Task

if TYPE_CHECKING:
    from typing_extensions import Self

_THUMBNAIL: Final = 512  # pixels of its longer side
_OWN_KINDS: Final = frozenset({"rtstruct", "sr", "probabilities"})  # of files; all others beside the labels are pictures


@dataclass(frozen=True)
class _Open:
    model: Model
    session: Session
    algorithm: Algorithm
    manifest: Manifest


class Segmenter:
    """Every model of one device, opened once. Close it, or use it as a context manager.

    Args:
        models: of the device.
        shared_cores: whether workers of other devices compute on the same cores.
    """

    def __init__(self, models: Sequence[Model], *, shared_cores: bool = False) -> None:
        """Raises what `open_session` raises, and what stands against writing the labels of a model."""
        self._stack, self._shared_cores = ExitStack(), shared_cores
        self._open: dict[str, _Open] = {}
        try:
            for model in models:
                self._open[model.name] = self._opened(model)
        except BaseException:
            self.close()
            raise

    def _opened(self, model: Model) -> _Open:
        # The copy of a release goes once it is open: a worker that is killed later leaves none.
        with opened_file(model) as file:
            _check_pin(model, file)
            threads = model.threads or usable_cores()
            device = _index(model.computes_on)
            session = self._stack.enter_context(
                open_session(file, device=device, threads=threads, shared_cores=self._shared_cores)
            )
            outputs = _outputs(model, Path())
            outputs.check_dicom()
            outputs.check_spec(session.spec)
            check_cleanup(session.spec)
            manifest = _check_pin(model, file).manifest  # and nobody swapped it while it was read
            backend = str(session.facts["backend"])
            algorithm = algorithm_of_run(file, backend, session.spec, outputs, _settings(model))
            return _Open(model, session, algorithm, manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every session."""
        self._stack.close()

    def canaries(self, root: Path) -> dict[str, str]:
        """The answer of every model's canary.

        Raises CanaryError when one is not the known one, or a manifest's own figures do not hold the gate in it.
        """
        for one in self._open.values():
            check_gate(one.manifest)
        return {name: run_canary(one.session, one.algorithm.model_sha256, root) for name, one in self._open.items()}

    def work(self, task: Task) -> Done | Refused:
        """Read, segment, write. Refused for a series that this network cannot judge.

        Raises BackendError when the runtime fails, OutputError when the folder cannot be written.
        """
        opened = self._open[task.model]
        try:
            return _segmented(opened, task)
        except RefusedSeries as refusal:
            return Refused(refusal.reason, refusal.detail)
        except InputError as error:
            return Refused(error.code, error.message)


@contextmanager
def opened_file(model: Model) -> Iterator[Path]:
    """The artifact; of a release a private copy, made of the bytes that were hashed when it was opened."""
    if not model.release_sha256 and not is_release_address(model.artifact):
        yield model.artifact
        return
    with opened_artifact(model.artifact, manifest_sha256=model.release_sha256) as opened:
        yield opened.file


def _check_pin(model: Model, file: Path) -> Artifact:
    """The model's artifact: one that was swapped since the configuration was read is not taken in silence."""
    artifact = Artifact.read(file)
    found = artifact.content_sha256
    if model.sha256 and found != model.sha256.lower():
        raise IntegrityError(
            f"{model.artifact.name} has the hash {found[:16]}... now",
            expected=f"{model.sha256[:16]}..., as when the node read its configuration",
            hint="put the file back, or have the node read its configuration again: kill -HUP PID",
        )
    return artifact


def _segmented(opened: _Open, task: Task) -> Done:
    model, started = opened.model, time.monotonic()
    scan = _scan(model, task)
    headers = time.monotonic() - started
    outputs = _outputs(model, task.folder)
    algorithm = opened.algorithm
    if task.contents:
        # Corrected objects have the UIDs of the first ones: without it their result would be a duplicate to an archive.
        algorithm = replace(algorithm, settings=f"{algorithm.settings} contents={task.contents}".strip())
    settings = replace(_settings(model), scratch=task.folder)  # large maps: on the node's disk, whose room is watched
    outcome = segment_to(OpenArtifact(opened.session, algorithm), scan, outputs, settings=settings)
    written = dict(outcome.written)
    seg, overlay = written.pop("labels"), written.pop("overlay")
    _shrink(overlay)
    results = [Output("seg", seg.name, _sop_uid(seg))]
    kinds = {what: what if what in _OWN_KINDS else "sc" for what in written}
    results += [Output(kinds[what], path.name, _sop_uid(path)) for what, path in written.items()]
    results.append(Output("overlay", overlay.name))
    seconds = {**outcome.seconds, "read": headers + outcome.seconds["read"]}
    return Done(tuple(results), seconds, outcome.notes, outcome.segmentation.volumes_ml)


def _scan(model: Model, task: Task) -> Scan:
    """The series, or those of the channels with the first channel's grid. Raises RefusedSeries, naming the channel."""
    if not task.channels:
        return Scan(task.folder, _only(series_of(task.files, model.volume)))
    volumes, scans = {one.name: one.volume for one in model.channels}, dict[str, Scan]()
    for name, files in task.of_channels().items():
        try:
            scans[name] = Scan(task.folder / name, _only(series_of(files, volumes[name])))
        except RefusedSeries as refusal:
            raise RefusedSeries(refusal.reason, f"{name}: {refusal.detail}", hint=refusal.hint) from None
    return ChannelScan(scans, resample_to_first=model.resample_to_first)


def _settings(model: Model) -> SegmentSettings:
    return SegmentSettings(model.overlap, skip_air=model.skip_air, any_modality=model.any_modality)


def _outputs(model: Model, folder: Path) -> Outputs:
    """The files of one series."""
    return Outputs(
        folder / SEG,
        probabilities=folder / PROBABILITIES if model.probabilities else None,
        overlay=folder / OVERLAY,
        key_slices=model.key_slices,
        seg_kind=model.kind,
        overlay_attention=False,
        rtstruct=folder / RTSTRUCT if model.rtstruct else None,
        sr=folder / SR if model.sr else None,
    )


def _only(groups: Sequence[Series]) -> Series:
    """The one series of the files; a damaged file among them is a reason of its own."""
    for series in groups:
        if series.reason is not None:
            raise RefusedSeries(series.reason, series.detail, hint=series.hint)
    if len(groups) != 1:
        raise RefusedSeries("mixed_series", f"{len(groups)} series in one")
    return groups[0]


def _sop_uid(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def _shrink(path: Path) -> None:
    """The picture is for a page of many: a few hundred pixels will do."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        if max(picture.size) > _THUMBNAIL:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            picture.save(path, format="PNG")


def _index(device: str) -> str:
    return "cuda:0" if device == "cuda" else device
