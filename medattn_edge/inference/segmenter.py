"""Segmenter: an artifact that is open, called with one scan after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medattn_edge.backends import AUTO
from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.segment import STANDARD, Segmentation, SegmentSettings, segment
from medattn_edge.inference.workflow import Opening
from medattn_edge.io.scan import Scan
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume


class Segmenter:
    """A network that segments whatever a scan may come as; close it, or use it as a context manager.

    Attributes:
        session: the network as it runs.
        spec: what it expects of a scan, and the names of its labels.
        settings: how it segments.
    """

    def __init__(
        self, session: Session, settings: SegmentSettings = STANDARD, closing: AbstractContextManager[Any] | None = None
    ) -> None:
        """Of an open session.

        Args:
            session: the network.
            settings: how to segment.
            closing: what is left when this is closed; by default the session is.
        """
        self.session, self.spec, self.settings = session, session.spec, settings
        self._closing = session if closing is None else closing

    def __call__(
        self, scan: Any, *, spacing: Sequence[float] | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Segment one scan; the labels lie on its own grid.

        Args:
            scan: a path (a file of any format, a folder with one DICOM series), a `Scan`, a `Volume`, a nibabel image,
                or an array (D, H, W) or (C, D, H, W) whose axes run to the head, to the back and to the left.
            spacing: of an array alone, mm (z, y, x).
            probabilities: a map for every label as well.

        Raises:
            UsageError: for an array without spacing, a spacing of what has its own, and what is no scan.
            ModalityError: for a DICOM series of another modality than the network's.
            MedattnError: as `read_volume`, `read_series` and `segment` do.
        """
        volume = _volume(scan, spacing, self.spec)
        return segment(self.session, volume, settings=replace(self.settings, probabilities=probabilities))

    def close(self) -> None:
        """Close the session."""
        self._closing.__exit__(None, None, None)

    def __enter__(self) -> Segmenter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()


def load(
    artifact: Path | str,
    *,
    device: str = AUTO,
    threads: int = 0,
    trusted: Path | None = None,
    settings: SegmentSettings = STANDARD,
) -> Segmenter:
    """Open an artifact, a release or a checkpoint to segment scans with: `load("net.xml")("scan.nii.gz").volumes_ml`.

    Args:
        artifact: its path; a release by its folder or `.zip`, `RELEASE#ARTIFACT` for one of several.
        device: `auto` for what the file is for, `cpu` or `cuda:INDEX`; `session.facts` have it.
        threads: of the CPU; 0 for one per core that this process may use.
        trusted: a file of keys, by one of which a release must be signed; without it nobody is asked who made it.
        settings: how to segment.

    Raises:
        UsageError: for keys where the artifact is no release.
        MedattnError: as `open_session` and `opened_artifact` do.
    """
    from medattn_edge.release import is_release_address, opened_artifact, trusted_keys

    with ExitStack() as stack:
        path = Path(artifact)
        if is_release_address(artifact):
            keys = () if trusted is None else trusted_keys(trusted)
            path = stack.enter_context(opened_artifact(artifact, keys)).file
        elif trusted is not None:
            raise UsageError(
                "trusted keys without a release",
                expected="a release: an artifact by itself has no signature",
                hint="medattn-edge release write ARTIFACT -o DIR",
            )
        session = stack.enter_context(Opening(device=device, threads=threads).open(path))
        return Segmenter(session, settings, stack.pop_all())


def _volume(scan: Any, spacing: Sequence[float] | None, spec: ModelSpec) -> Volume:
    if isinstance(scan, np.ndarray):
        return _of_array(scan, spacing)
    if spacing is not None:
        raise UsageError(
            f"a spacing of {type(scan).__name__}", expected="one for an array alone", hint="leave spacing out"
        )
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, str | Path):
        scan = Scan(scan)
    if isinstance(scan, Scan):
        return scan.read_for(spec)
    if hasattr(scan, "dataobj") and hasattr(scan, "update_header"):
        from medattn_edge.io.nifti import from_image

        return from_image(scan)
    raise UsageError(
        f"{type(scan).__name__} as a scan",
        expected="a path, a Scan, a Volume, a NIfTI image of nibabel or a numpy array",
        hint="medattn_edge.Volume(voxels, affine)",
    )


def _of_array(voxels: Any, spacing: Sequence[float] | None) -> Volume:
    steps = () if spacing is None else tuple(float(step) for step in spacing)
    if len(steps) != 3 or not all(0 < step < np.inf for step in steps):
        raise UsageError(
            f"an array of shape {voxels.shape} with the spacing {spacing}",
            expected="its three spacings in mm (z, y, x)",
            hint="load(artifact)(voxels, spacing=(3.0, 0.8, 0.8))",
        )
    affine = np.eye(4)[:, [2, 1, 0, 3]] @ np.diag((*steps, 1.0))  # D to the head, H to the back, W to the left
    return Volume(voxels, affine)
