"""Explain: what a network attends to in a scan, as its checkpoint says and as the deployed file says."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medattn_edge import gates
from medattn_edge.agreement import dice_per_label
from medattn_edge.artifact import Artifact
from medattn_edge.backends.runtimes import Runtime, choose
from medattn_edge.errors import AgreementError, InputError, MissingDependency, UsageError, quoted
from medattn_edge.evaluation.attention.agreement import MapAgreement, agreement_of
from medattn_edge.evaluation.attention.records import (
    FROM_COPY,
    FROM_FILE,
    ExplainSettings,
    Explanation,
    MapSource,
    Side,
)
from medattn_edge.evaluation.attention.sessions import MAX_MATRICES, ExplainedSession
from medattn_edge.evaluation.source import read_source
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.segment import SegmentSettings, segment
from medattn_edge.io import Scan, as_scan
from medattn_edge.io.format import check_calibrated
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.models.checkpoint import Checkpoint

Progress = Callable[[str, int, int], None]  # what is going on, windows done, windows in total


_USUAL = ExplainSettings()


def explain(
    checkpoint: Path | str,
    scan: Path | str | Scan,
    artifact: Path | str | None = None,
    *,
    settings: ExplainSettings = _USUAL,
    progress: Progress | None = None,
) -> Explanation:
    """The attention maps of a checkpoint's network in a scan, and beside them those of a deployed artifact.

    Both are stitched from windows as labels are, on the scan's own grid. Where the artifact has no attention output, a
    copy of its graph gives the maps: it reads the deployed graph's own tensors, and its logits are held to those of the
    deployed file on every window (`gates.ATTENTION_COPY`).

    Args:
        checkpoint: the reference; any source of `export` whose network has attention maps.
        scan: a file of any format, a folder of DICOM files or a DICOMDIR, or a Scan.
        artifact: what is deployed, made from the checkpoint.
        settings: how it is run.
        progress: called with what is going on, the windows done and the windows in total.

    Raises:
        UsageError: the network has no attention maps, or the artifact has none and takes none afterwards.
        InputError, ScanError: for files that cannot be used, and an artifact that was not made from the checkpoint.
        AgreementError: the copy's logits are not those of the deployed file.
        BackendError, HostError: as the runtimes do.
    """
    from medattn_edge.evaluation.attention.networks import why_no_matrices

    checkpoint, scan = Path(checkpoint), as_scan(scan)
    report = progress or (lambda what, done, total: None)
    deployed = None if artifact is None else Artifact.read(Path(artifact))
    runtime = None if deployed is None else _runtime(deployed, settings.runtime)
    loaded, notes = _loaded(checkpoint, settings, deployed)
    volume = scan.read_for(loaded.spec)
    check_calibrated(Path("attention.nii.gz"), volume)
    notes += [_without_names(note, scan) for note in scan.notes()]
    if left_out := why_no_matrices(loaded.network, loaded.spec.patch):
        notes.append(left_out)
    reference = _eager(loaded, volume, settings, report)
    windows = reference.segmentation.windows.total
    if len(reference.matrices) < windows and reference.matrices.shape[1]:
        notes.append(f"channel attention: of the first {MAX_MATRICES} windows of {windows}")
    if deployed is None or runtime is None:
        maps = _agreements(reference, None)
        return Explanation(
            _key(scan, volume), volume, loaded.spec, reference, None, None, *maps, None, {}, tuple(notes)
        )
    side, source = _deployed(deployed, runtime, loaded, volume, settings, report)
    first, second = reference.segmentation, side.segmentation
    notes += [source.matrices_missing] if source.matrices_missing else []
    if reference.matrices.size and side.matrices.size and not _same_windows(reference, side):
        notes.append(
            f"channel attention has no agreement: it is of single windows, which overlap by {loaded.spec.overlap:g} in "
            f"the reference and by {deployed.spec.overlap:g} in {deployed.path.name}; --overlap gives both the same"
        )
    return Explanation(
        _key(scan, volume),
        volume,
        loaded.spec,
        reference,
        side,
        source,
        *_agreements(reference, side),
        float((first.labels.voxels == second.labels.voxels).mean()),
        dice_per_label(first.labels.voxels, second.labels.voxels, first.meaning),
        tuple(notes),
    )


def _runtime(artifact: Artifact, name: str) -> Runtime:
    """Where the deployed file is run."""
    if name and artifact.path.suffix.lower() != ".onnx":
        raise UsageError(
            f"--runtime {name} for {artifact.path.name}",
            expected="an .onnx file: any other is run by what it was made for",
            hint="leave --runtime out",
        )
    # Without a name a reduced precision would be run in all there are: here one is looked at.
    return choose(artifact.path, artifact.manifest.precision if name else "fp32", (name,) if name else ())[0][0]


def _loaded(path: Path, settings: ExplainSettings, artifact: Artifact | None) -> tuple[Checkpoint, list[str]]:
    """The reference under the spec of what was made from it."""
    try:
        from medattn_edge.models import checkpoint as checkpoints
        from medattn_edge.models.checkpoint import Checkpoint
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "torch") from error
    manifest = None if artifact is None else artifact.manifest
    source, notes = read_source(path, settings.source, manifest), list[str]()
    if source is not None:
        loaded, notes = source.loaded, list(source.notes)
    else:
        loaded = checkpoints.load(path, config=None if manifest is None else manifest.spec.config)
        notes = list(loaded.remarks)
    if not isinstance(loaded, Checkpoint) or not loaded.network.attention_names:
        raise UsageError(
            f"the network of {path.name} has no attention maps with names",
            expected="a network of this package with gates, or with position and channel attention",
            hint=f"medattn-edge inspect {quoted(path)}",
        )
    if artifact is not None and manifest is not None:
        if loaded.sha256 not in manifest.lineage:
            raise InputError(
                f"{artifact.path.name} was not made from {path.name}: its maps would be another network's",
                expected=f"the checkpoint with the SHA-256 {manifest.lineage[0][:16]}...",
                hint=f"medattn-edge explain CHECKPOINT {quoted(artifact.path)} SCAN -o FOLDER",
            )
        loaded = loaded.with_spec(manifest.reference_spec)
    loaded.network.check_shape(loaded.spec.patch)
    return loaded, notes


def _eager(loaded: Checkpoint, volume: Volume, settings: ExplainSettings, report: Progress) -> Side:
    from medattn_edge.backends.session import Options
    from medattn_edge.backends.torch.eager import EagerSession
    from medattn_edge.evaluation.attention.networks import WithMatrices, channel_matrices

    network = WithMatrices(loaded.network, loaded.spec.patch)
    threads = settings.threads or usable_cores()
    names, (_, channels) = loaded.network.attention_names, channel_matrices(loaded.network, loaded.spec.patch)
    with EagerSession(network, loaded.spec, Options(threads=threads)) as session:
        return _seen(ExplainedSession(session, names, channels=channels), volume, settings, "eager", report)


def _deployed(
    artifact: Artifact,
    runtime: Runtime,
    loaded: Checkpoint,
    volume: Volume,
    settings: ExplainSettings,
    report: Progress,
) -> tuple[Side, MapSource]:
    from medattn_edge.evaluation.attention.graft import Graft, graft_maps, no_copy_of
    from medattn_edge.evaluation.attention.networks import channel_matrices

    names = loaded.network.attention_names
    count, channels = channel_matrices(loaded.network, loaded.spec.patch)
    threads, own = settings.threads or usable_cores(), artifact.manifest.attention_maps
    onnx, graft = artifact.path.suffix.lower() == ".onnx", None
    if own and own != names:
        raise InputError(
            f"{artifact.path.name} has the maps {', '.join(own)}", expected=", ".join(names), hint="export it again"
        )
    if not own and not onnx:
        raise no_copy_of(artifact.path)
    with ExitStack() as stack:
        if onnx and (count or not own):
            report("finding the maps", 0, 1)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medattn-edge-")))
            graft = graft_maps(artifact, loaded, folder / "copy.onnx")
        session = stack.enter_context(runtime.open(artifact.path, threads, settings.timeout_s))
        copied = None
        if isinstance(graft, Graft):
            copied = stack.enter_context(runtime.open(graft.artifact.path, threads, settings.timeout_s))
        joined = ExplainedSession(session, names, copy=copied, channels=channels)
        side = _seen(joined, volume, settings, f"{artifact.path.name} in {runtime.name}", report)
        near = joined.copy_facts()
    missing = ""
    if count and graft is None:
        missing = f"channel attention of {artifact.path.name} is not shown: it is no output of a {artifact.path.suffix}"
    if graft is None or near is None:
        return side, MapSource(FROM_FILE, matrices_missing=missing)
    source = MapSource(FROM_FILE if own else FROM_COPY, graft.added, graft.tensors, near)
    check_copy(near, f"{artifact.path.name} in {runtime.name}")
    return side, source


def check_copy(near: Mapping[str, float], what: str) -> None:
    """Refuse maps of a copy that is not what is deployed.

    Args:
        near: its logits', as `ExplainedSession.copy_facts` has them.
        what: the deployed file and its runtime.

    Raises:
        AgreementError: they do not reach `gates.ATTENTION_COPY`.
    """
    limit = gates.ATTENTION_COPY.limits["min_sqnr_db"]
    if not near["sqnr_db"] >= limit:
        raise AgreementError(
            f"the copy of {what} that answers its maps computes something else: its logits are "
            f"{near['sqnr_db']:.1f} dB from the deployed file's",
            expected=f"at least {limit:g} dB",
            hint="another --runtime, or export it with its maps: medattn-edge export CHECKPOINT -o NAME.onnx "
            "--attention",
        )


def _seen(session: ExplainedSession, volume: Volume, settings: ExplainSettings, what: str, report: Progress) -> Side:
    wanted = SegmentSettings(settings.overlap, settings.batch, attention=True, scratch=settings.scratch)
    segmentation = segment(session, volume, settings=wanted, progress=lambda done, total: report(what, done, total))
    count = len(session.matrix_names)
    matrices = np.stack(session.matrices) if session.matrices else np.zeros((0, count, 0, 0), np.float32)
    return Side(segmentation, matrices, session.facts)


def _agreements(reference: Side, deployed: Side | None) -> tuple[tuple[MapAgreement, ...], tuple[MapAgreement, ...]]:
    first = reference.segmentation
    assert first.attention is not None
    second = None if deployed is None else deployed.segmentation.attention
    maps = [
        agreement_of(name, first.attention.voxels[index], None if second is None else second.voxels[index])
        for index, name in enumerate(first.attention_names)
    ]
    ours, theirs = reference.matrices, None if deployed is None else deployed.matrices
    if not len(ours):
        return tuple(maps), ()
    if theirs is None or theirs.shape != ours.shape or not _same_windows(reference, deployed):
        theirs = None  # a matrix is of one window
    matrices = [
        agreement_of(f"channel_{index + 1}", ours[:, index], None if theirs is None else theirs[:, index])
        for index in range(ours.shape[1])
    ]
    return tuple(maps), tuple(matrices)


def _same_windows(reference: Side, deployed: Side | None) -> bool:
    return deployed is not None and reference.segmentation.windows.total == deployed.segmentation.windows.total


def _without_names(note: str, scan: Scan) -> str:
    """A note in which no file or folder of the scan has its name, which may be a patient's."""
    names = {text for path in (*scan.paths, *scan.files) for text in (str(path), path.name, path.resolve().name)}
    for name in sorted(names, key=len, reverse=True):
        note = note.replace(name, "the scan")
    return note


def _key(scan: Scan, volume: Volume) -> str:
    """What stands for a scan where its name may be a patient's."""
    keys = [series.hash for series in scan.all_series]
    if keys:
        return "series " + " + ".join(keys)
    hashed = hashlib.sha256(np.ascontiguousarray(volume.voxels).tobytes())
    hashed.update(np.ascontiguousarray(volume.affine).tobytes())
    return f"scan {hashed.hexdigest()[:12]}"
