"""One scan through the product, in a process of its own: inspected, read, segmented, and held to other readers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np

from medattn_edge.backends import open_session
from medattn_edge.cli import main as command_line
from medattn_edge.errors import MedattnError
from medattn_edge.inference import OpenArtifact, SegmentSettings, segment_to
from medattn_edge.io import Scan, format_of
from medattn_edge.io.dicom.volume import RefusedSeries, series_of
from medattn_edge.process import Reply, serve
from medattn_edge.volume import Array
from tests.corpus.readers import READERS, SERIES_READERS, Reading, by_nibabel, difference

_FAST = SegmentSettings(overlap=0.0)
_sessions: dict[str, OpenArtifact] = {}


def main(descriptor: int) -> NoReturn:
    """Answer requests for verdicts."""
    warnings.simplefilter("ignore")  # of other people's files
    serve(descriptor, {"judge": _judge})


def _judge(request: dict[str, Any], arrays: list[Array]) -> Reply:
    """The verdict on a file, or on the files of a series; whatever the product does not expect is left to fail."""
    path, files, dicom = Path(request["path"]), [Path(file) for file in request["files"]], request["format"] == "dicom"
    try:
        scan = _series(files) if dicom else _file(path)
        volume = scan.read()
        ours = Reading("medattn-edge", volume.voxels, volume.affine if volume.calibrated else None)
        if dicom:
            every = [Path(file) for file in request["every_file"]]
            theirs, failures = _others([partial(reader, every) for reader in SERIES_READERS])
            wrong = _wrong(ours, theirs, _is_padded(every[0]))
        else:
            theirs, failures = _others([partial(READERS[request["format"]], path)])
            wrong = _wrong(ours, theirs)
        if not theirs:
            wrong = f"no other reader can read it: {failures}"
        labels = None if wrong else _labels(Path(request["network"]), scan, ours)
    except MedattnError as error:
        return {"verdict": "refused", "reason": _reason(error), "detail": _without(error.found, path)}, ()
    if labels is not None:
        wrong = _wrong_place(labels, theirs)
    if wrong:
        return {"verdict": "different", "reason": "", "detail": wrong}, ()
    told = f"{'x'.join(map(str, ours.voxels.shape))}, as {' and '.join(one.reader for one in theirs)}"
    return {"verdict": "accepted", "reason": "", "detail": told + ("" if labels else "; not segmented")}, ()


def _series(files: Sequence[Path]) -> Scan:
    [series] = series_of(files)
    series.usable_grid()
    return Scan(files[0], series)


def _file(path: Path) -> Scan:
    """The scan, after `inspect` has said what it is; raises what that refuses."""
    out = io.StringIO()
    with patch.object(sys, "argv", ["medattn-edge", "inspect", str(path), "--json"]), contextlib.redirect_stdout(out):
        try:
            command_line()
        except SystemExit as left:
            if left.code in (0, 4):
                facts = json.loads(out.getvalue())  # one document, whatever it says
            else:
                raise RuntimeError(f"inspect ended with {left.code}: {out.getvalue()}") from left
    if "error" not in facts and facts["scan"] != str(path):
        raise RuntimeError(f"inspect speaks of {facts['scan']}")
    return Scan(path)


def _labels(network: Path, scan: Scan, ours: Reading) -> Reading | None:
    """The labels that were written, read back by nibabel; of several volumes in one NIfTI file, the first one's.

    None for channels and pictures, which a network of one channel in mm does not take.
    """
    if ours.affine is None:
        return None
    if ours.voxels.ndim == 4:
        if not format_of(scan.path).name.startswith("nifti"):
            return None
        scan = Scan(scan.path, volume=1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.nii.gz"
        segment_to(_session(network), scan, output, settings=_FAST)
        return by_nibabel(output)


def _session(network: Path) -> OpenArtifact:
    if str(network) not in _sessions:
        _sessions[str(network)] = OpenArtifact(open_session(network))
    return _sessions[str(network)]


def _others(readers: Sequence[Callable[[], Reading]]) -> tuple[list[Reading], str]:
    """What those read that can, and why the others cannot."""
    readings, failures = [], []
    for reader in readers:
        try:
            readings.append(reader())
        except Exception as error:  # noqa: BLE001 - other programs fail in their own ways
            failures.append(" ".join(str(error).split())[:120])
    return readings, "; ".join(failures)


def _wrong(ours: Reading, theirs: Sequence[Reading], padded: bool = False) -> str:
    return "; ".join(filter(None, (difference(ours, one, padded) for one in theirs)))


def _wrong_place(labels: Reading, theirs: Sequence[Reading]) -> str:
    """Where labels lie elsewhere than the scan in another program's reading; their values are nobody else's affair."""

    def grid(reading: Reading) -> Reading:
        return Reading(reading.reader, np.zeros(reading.voxels.shape[-3:], np.uint8), reading.affine)

    wrong = _wrong(grid(labels), [grid(one) for one in theirs])
    return wrong and f"labels: {wrong}"


def _is_padded(path: Path) -> bool:
    import pydicom

    return "PixelPaddingValue" in pydicom.dcmread(path, stop_before_pixels=True)


def _reason(error: MedattnError) -> str:
    return error.reason if isinstance(error, RefusedSeries) else error.code


def _without(text: str, path: Path) -> str:
    """A message without the folder that it happened in."""
    return re.sub(r"\s+", " ", text.replace(str(path), path.name))
