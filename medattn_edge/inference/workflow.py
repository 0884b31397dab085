"""Segment a scan on disk into files: what `infer` does, and what a node's worker does for one series."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.backends import AUTO, open_session
from medattn_edge.backends.session import Session
from medattn_edge.errors import MedattnError, UsageError
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.dicom_results import algorithm_of, label_settings
from medattn_edge.inference.outputs import Outputs
from medattn_edge.inference.segment import STANDARD, Segmentation, SegmentSettings, segment
from medattn_edge.inference.sliding_window import Progress
from medattn_edge.io import Scan, as_scan
from medattn_edge.io.modality import ModalityCheck, check_modality, notes_of_modality
from medattn_edge.io.scan import facts_of_grid
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.uids import Algorithm
    from medattn_edge.spec import ModelSpec


@dataclass(frozen=True)
class Opening:
    """How to open an artifact, or a checkpoint in eager PyTorch.

    Attributes:
        backend: its name, empty for the usual one of the file's suffix.
        device: auto, cpu or cuda:INDEX, as `open_session` takes it.
        threads: of the CPU, 0 for as many as there are usable cores.
        provider: of ONNX Runtime on a GPU: cuda or tensorrt; empty for cuda.
        cache: a private folder to keep OpenVINO's compiled models in, None to keep none.
        shared_cores: whether other processes compute on the same cores at the same time; see `open_session`.
    """

    backend: str = ""
    device: str = AUTO
    threads: int = 0
    provider: str = ""
    cache: Path | None = None
    shared_cores: bool = False

    @contextmanager
    def open(self, artifact: Path | str) -> Iterator[Session]:
        """The session, closed in the end; raises what `open_session` raises."""
        with (
            _cached_in(self.cache),
            open_session(
                Path(artifact),
                backend=self.backend or None,
                device=self.device,
                threads=self.threads or usable_cores(),
                provider=self.provider,
                shared_cores=self.shared_cores,
            ) as session,
        ):
            yield session


@dataclass(frozen=True)
class OpenArtifact:
    """An artifact that is open already, for many scans.

    Attributes:
        session: the network, which its owner closes.
        algorithm: how DICOM results name it (`algorithm_of`), None where none are written.
    """

    session: Session
    algorithm: Algorithm | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one scan.

    Attributes:
        scan: what was read.
        segmentation: labels, and the maps that were written.
        written: what each file is (`labels`, `rtstruct`, `sr`, `key slice 1`, `probabilities`, ...) -> its path.
        notes: what people should know of the files.
        session: the session's facts: what ran where.
        geometry: which form of the scan's header placed its voxels, where it has several.
        channels: what became which channel of a network with several, a line each.
        modality: the network's and the scan's, where they were compared.
        seconds: `read`, `infer` and `write` -> how long each took. An artifact is opened while the scan is read, and
            that counts as reading.
    """

    scan: Scan
    segmentation: Segmentation
    written: Mapping[str, Path]
    notes: tuple[str, ...]
    session: Mapping[str, Any]
    seconds: Mapping[str, float]
    geometry: Mapping[str, Any] | None = None
    channels: tuple[str, ...] = ()
    modality: ModalityCheck | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without identifiers of the patient."""
        series = self.scan.series
        about = None
        if series is not None:
            about = {"series_hash": series.hash, "modality": series.modality, "slices": series.slices}
            about |= {"volume": series.volume} if series.volume else {}
        return {
            "scan": self.scan.shown,
            "written": {what: str(path) for what, path in self.written.items()},
            "series": about,
            "geometry": None if self.geometry is None else dict(self.geometry),
            "channels": list(self.channels),
            "modality": None if self.modality is None else self.modality.to_json(),
            "notes": list(self.notes),
            "volumes_ml": self.segmentation.volumes_ml,
            "voxels": self.segmentation.voxel_counts,
            "windows": self.segmentation.windows.to_json(),
            "session": dict(self.session),
            "seconds": dict(self.seconds),
        }


_USUAL = Opening()


def segment_to(
    artifact: Path | str | Session | OpenArtifact,
    scan: Path | str | Scan,
    outputs: Outputs | Path | str,
    *,
    settings: SegmentSettings = STANDARD,
    opening: Opening = _USUAL,
    progress: Progress | None = None,
    volume: Volume | None = None,
) -> Outcome:
    """Read a scan, segment it, and write the files that are asked for.

    Args:
        artifact: an artifact or a checkpoint, opened while the scan is read; or an open one.
        scan: a file of any format, a folder of DICOM files, a DICOMDIR; several joined by `+`, as `as_scan` takes them,
            for the channels of a network; or a Scan, to choose a series or to give a picture its spacing.
        outputs: the files; a path stands for the labels only.
        settings: how to segment. Which maps are made follows from the outputs.
        opening: how to open the artifact; not used for an open one.
        progress: called with the windows done and the windows in total.
        volume: what the scan's own `read` gave, where that was done before; None to read it here.

    Raises:
        UsageError: for outputs or settings that make no sense together; nothing is read then.
        InputError: for a scan or an artifact that cannot be used; of both, the scan's error is raised.
        ModalityError: for a scan of another modality than the network's, unless the settings allow that.
        BackendError, OutputError, HostError: as `segment`, the writers of the formats and `open_session` do.
    """
    scan = as_scan(scan)
    outputs = outputs if isinstance(outputs, Outputs) else Outputs(Path(outputs))
    outputs.check(scan)
    settings.check()
    if isinstance(artifact, Session):
        artifact = OpenArtifact(artifact)
    if isinstance(artifact, OpenArtifact) and outputs.dicom_file is not None and artifact.algorithm is None:
        raise UsageError(
            f"{outputs.dicom_file.name} from a session, which does not say which file it is",
            expected="an artifact's path, or an OpenArtifact with its algorithm",
            hint="OpenArtifact(session, algorithm_of(path, session.spec, settings))",
        )
    start = time.perf_counter()

    def voxels() -> Volume:
        if scan.is_dicom:
            outputs.check_apart_from(scan.files)
            outputs.check_frame_of_reference(scan)
        return scan.read() if volume is None else volume

    with _opened_and_read(artifact, scan, voxels, opening, settings.any_modality) as (session, taken):
        read = time.perf_counter()
        outputs.check_spec(session.spec)
        outputs.check_size(session.spec, taken)
        channels = scan.assignment(session.spec)
        modality = check_modality(session.spec, scan.all_series, settings.any_modality)
        said = notes_of_modality(session.spec, modality, taken)
        taken = scan.arranged(taken, session.spec)
        # A picture shows attention where the artifact has it; the file is an order, and fails where it has not.
        drawn = outputs.overlay is not None and outputs.overlay_attention and bool(session.attention_names)
        attention = outputs.attention is not None or drawn
        wanted = replace(settings, probabilities=outputs.probabilities is not None, attention=attention)
        segmentation = segment(session, taken, settings=wanted, progress=progress)
        facts, spec = session.facts, session.spec
    inferred = time.perf_counter()
    algorithm = None
    if outputs.dicom_file is not None:
        if isinstance(artifact, OpenArtifact):
            algorithm = artifact.algorithm
        else:
            algorithm = algorithm_of_run(Path(artifact), str(facts["backend"]), spec, outputs, settings)
        algorithm = _of_scan(algorithm, scan, spec)
    written, notes = outputs.write(segmentation, taken, scan, spec, algorithm)
    seconds = {"read": read - start, "infer": inferred - read, "write": time.perf_counter() - inferred}
    notes = (*scan.notes(), *notes, *said)
    return Outcome(scan, segmentation, written, notes, facts, seconds, facts_of_grid(taken), channels, modality)


def algorithm_of_run(
    artifact: Path, backend: str, spec: ModelSpec, outputs: Outputs, settings: SegmentSettings
) -> Algorithm:
    """How DICOM results name an artifact that is run with these settings; raises as `algorithm_of` does."""
    identity = label_settings(settings.overlap, settings.skip_air, backend, spec, outputs.regions_as(spec))
    return algorithm_of(artifact, spec, identity)


def _of_scan(algorithm: Algorithm | None, scan: Scan, spec: ModelSpec) -> Algorithm | None:
    """The algorithm with what was taken of the scan: another volume or channel of it is another object."""
    chosen = "" if algorithm is None else scan.identity(spec)
    if algorithm is None or not chosen:
        return algorithm
    return replace(algorithm, settings=f"{algorithm.settings} {chosen}".strip())


@contextmanager
def _opened_and_read(
    artifact: Path | str | OpenArtifact, scan: Scan, read: Callable[[], Volume], opening: Opening, any_modality: bool
) -> Iterator[tuple[Session, Volume]]:
    """A scan is read while its session opens; when neither can be, the scan's error is the one that is raised."""
    if isinstance(artifact, OpenArtifact):
        scan.assignment(artifact.session.spec)
        check_modality(artifact.session.spec, scan.all_series, any_modality)
        yield artifact.session, read()
        return
    with ThreadPoolExecutor(1, thread_name_prefix="medattn-edge read") as pool, ExitStack() as stack:
        reading = pool.submit(read)
        try:
            session = stack.enter_context(opening.open(artifact))
        except MedattnError:
            reading.result()
            raise
        scan.assignment(session.spec)  # scans that are not the network's channels are worth no reading
        check_modality(session.spec, scan.all_series, any_modality)
        yield session, reading.result()


@contextmanager
def _cached_in(folder: Path | None) -> Iterator[None]:
    """OpenVINO is told by a variable where to keep compiled models, so that its child processes know too."""
    from medattn_edge.backends.openvino.model import CACHE

    before = os.environ.get(CACHE)
    if folder is not None:
        os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(CACHE)
            os.environ |= {} if before is None else {CACHE: before}
