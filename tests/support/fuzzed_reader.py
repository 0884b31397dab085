"""Reads damaged DICOM files one after the other; a process of its own, so that a crash is seen and survived.

`python -m tests.support.fuzzed_reader FOLDER SEED COUNT WRITE_EVERY` prints a line `begin NAME` before each file, and
a line `end OUTCOME SECONDS` behind it, SECONDS being of the processor, and at last `peak MB`, both with its decoder's.
An outcome is `read`, `written`, `refused REASON`, or `bug ...` for everything that no caller is prepared for.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom import uid

from medattn_edge.errors import MedattnError, ScanError
from medattn_edge.io.dicom.pixels import DECODER
from medattn_edge.io.dicom.seg import Algorithm, write_seg
from medattn_edge.io.dicom.volume import RefusedSeries, Series, read_series, search
from medattn_edge.reasons import SERIES_REASONS
from medattn_edge.volume import Volume
from tests.support.dicom_mutations import mutations
from tests.support.dicom_phantoms import LOSSLESS_JPEG, Stored, real_ct, write_series

SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    *LOSSLESS_JPEG,
)
_MEMORY = 6 << 30  # bytes of addresses: a decoder that asks for more gets an error, and this machine stays usable


def corpus(folder: Path) -> list[list[Path]]:
    """Whole series, one for each kind of file; the damaged file is the first of each."""
    scan = real_ct(3, 40, 36)
    voxels = np.maximum(scan.voxels, -1024)
    kinds = [("CT", False), ("MR", False), ("CT", True), ("MR", True)]
    made = []
    for number, syntax in enumerate(SYNTAXES):
        for modality, enhanced in (kinds[number % 2], kinds[2 + number % 2]):
            stored = Stored(intercept=-1024.0, signed=False, bits=12) if number % 2 else Stored()
            place = folder / f"{number}-{modality}-{enhanced}"
            settings = {"modality": modality, "enhanced": enhanced, "transfer_syntax": syntax, "stored": stored}
            made.append(write_series(place, voxels, scan.affine, **settings))
    return made


def damaged(folder: Path, seed: int, count: int) -> Iterator[tuple[str, Path]]:
    """(name, folder with one damaged file), `count` times; the folder is whole again afterwards."""
    series = corpus(folder)
    share = -(-count // len(series))
    number = 0
    for place, files in enumerate(series):
        whole = files[0].read_bytes()
        for what, data in mutations(files[:1], share, seed + place):
            if number == count:
                break
            files[0].write_bytes(data)
            yield f"{files[0].parent.name} {what}", files[0].parent
            number += 1
        files[0].write_bytes(whole)


def outcome(folder: Path, out: Path | None) -> str:
    """What becomes of a folder: every series of it is read, or refused with a reason that is known."""
    told = []
    try:
        found = search(folder).series
    except ScanError as error:
        return f"refused {_reason(error)}"
    for series in found:
        if series.reason is not None:
            if series.reason not in SERIES_REASONS or not series.detail:
                return f"bug a reason {series.reason!r} with the detail {series.detail!r}"
            told.append(f"refused {series.reason}")
            continue
        try:
            told.append(_used(series, out))
        except ScanError as error:
            told.append(f"refused {_reason(error)}")
    return told[0] if told else "bug no series at all"


def _used(series: Series, out: Path | None) -> str:
    volume = read_series(series)
    if not (np.isfinite(volume.voxels).all() and np.isfinite(volume.affine).all()):
        return "bug values that are no numbers"
    if out is None:
        return "read"
    labels = Volume((volume.voxels > np.median(volume.voxels)).astype(np.uint8), volume.affine)
    write_seg(out, labels, ("background", "bone"), series, Algorithm("fuzzed", "1", "0" * 64))
    return "written"


def _reason(error: MedattnError) -> str:
    return error.reason if isinstance(error, RefusedSeries) else error.code


def _seconds() -> float:
    """Of the processor, until now: of this process, and of its decoder if that is still the one it was."""
    used = time.process_time()
    if DECODER.pid is not None:
        times = Path(f"/proc/{DECODER.pid}/stat").read_text().rpartition(") ")[2].split()
        used += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _peak_mb(pid: int | None) -> int:
    """Of this program alone: ru_maxrss counts what its parent held before exec."""
    if pid is None:
        return 0
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    return peak // 1024


def main(folder: Path, seed: int, count: int, write_every: int) -> None:
    """Every damaged file in turn, each with a line before it and one behind it."""
    faulthandler.enable()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    say = sys.stdout.write
    for number, (name, place) in enumerate(damaged(folder / "series", seed, count)):
        say(f"begin {name}\n")
        sys.stdout.flush()
        start = _seconds()
        try:
            ended = outcome(place, folder / "seg.dcm" if number % write_every == 0 else None)
        except Exception:  # noqa: BLE001 - whatever it is, it is what this looks for
            ended = f"bug {traceback.format_exc()!r}"
        say(f"end {ended} {max(0.0, _seconds() - start):.2f}\n")
        sys.stdout.flush()
    say(f"peak {_peak_mb(os.getpid()) + _peak_mb(DECODER.pid)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
