"""Damaged files: every one is read or refused with a known reason, in bounded time and memory, and nothing crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.errors import ScanError
from medattn_edge.io.dicom.volume import search
from medattn_edge.reasons import SERIES_REASONS
from tests.support import ROOT
from tests.support.dicom_phantoms import real_ct, write_medium, write_series

SLOWEST_S = 20.0  # of the processor, for one damaged file: CharLS searches a damaged code for about 3 s
MOST_MB = 700  # of the process, libraries and decoders included


def fuzzed(folder: Path, seed: int, count: int, write_every: int) -> tuple[Counter[str], float, int]:
    """Outcomes, the slowest file in seconds and the peak in MB of a child that reads damaged files."""
    words = [sys.executable, "-m", "tests.support.fuzzed_reader", folder, str(seed), str(count), str(write_every)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("w") as told, (folder / "errors").open("w") as errors:
        done = subprocess.run(words, stdout=told, stderr=errors, check=False, env=environment, cwd=ROOT)
    lines = (folder / "said").read_text().splitlines()
    begun = [line for line in lines if line.startswith("begin ")]
    ends = [line.split(" ", 1)[1] for line in lines if line.startswith("end ")]
    last = f"{begun[-1] if begun else 'nothing began'}\n{(folder / 'errors').read_text(errors='replace')[-3000:]}"
    assert done.returncode == 0, f"the process ended with {done.returncode} at {last}"
    bugs = [(name, end) for name, end in zip(begun, ends, strict=True) if end.startswith("bug")]
    assert bugs == []
    assert len(ends) == count
    # Decoders in C tell of broken markers by themselves; nothing may quote the header.
    said = (folder / "errors").read_text(errors="replace")
    assert not any(word in said for word in ("Phantom", "PHANTOM", "Warning", "Traceback"))
    seconds = [float(end.rsplit(" ", 1)[1]) for end in ends]
    return Counter(end.rsplit(" ", 1)[0] for end in ends), max(seconds), int(lines[-1].split()[1])


def check(found: tuple[Counter[str], float, int]) -> None:
    outcomes, slowest, peak = found
    reasons = {outcome.split()[1] for outcome in outcomes if outcome.startswith("refused")}
    assert reasons <= {*SERIES_REASONS, "scan"}
    assert outcomes["read"] > 0
    assert outcomes["written"] > 0
    assert len(reasons) >= 6
    assert slowest < SLOWEST_S
    assert peak < MOST_MB


@pytest.mark.slow
def test_600_damaged_files_are_read_or_refused_with_a_reason(tmp_path: Path) -> None:
    check(fuzzed(tmp_path, seed=20_260, count=600, write_every=2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1_000, 2_000, 3_000])
def test_2000_more_damaged_files_are_read_or_refused_with_a_reason(tmp_path: Path, seed: int) -> None:
    check(fuzzed(tmp_path, seed, count=2_000, write_every=2))


def test_a_damaged_dicomdir_lists_files_or_is_refused(tmp_path: Path) -> None:
    from tests.support.dicom_mutations import mutations

    scan = real_ct(3, 12, 10)
    directory = write_medium(write_series(tmp_path / "in", scan.voxels, scan.affine), tmp_path / "medium")
    outcomes = Counter[str]()
    for _, data in mutations([directory], 150, seed=4):
        directory.write_bytes(data)
        try:
            found = search(directory).series
        except ScanError as error:
            outcomes[type(error).__name__] += 1
            continue
        assert {series.reason for series in found} <= {None, *SERIES_REASONS}
        outcomes.update("accepted" if series.accepted else "refused" for series in found)
    assert outcomes["accepted"] > 0
    assert outcomes["RefusedSeries"] > 0
