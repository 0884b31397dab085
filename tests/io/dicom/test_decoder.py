"""The process that decodes compressed slices: what it may do to itself, and what its parent makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom import uid

from medattn_edge.io.dicom import pixels
from medattn_edge.io.dicom.decoder import Decoder, DecodingError
from medattn_edge.io.dicom.volume import RefusedSeries, find_series, read_series
from tests.support.dicom_mutations import mutations
from tests.support.dicom_phantoms import LOSSLESS_JPEG, Stored, real_ct, write_series

SCAN = real_ct(4, 40, 36)
PLUGIN = "pylibjpeg"


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    """One file of four frames, JPEG 2000."""
    [path] = write_series(tmp_path, SCAN.voxels, SCAN.affine, enhanced=True, transfer_syntax=uid.JPEG2000Lossless)
    return path


def test_frames_come_in_the_wanted_order_from_one_child_that_is_kept(compressed: Path) -> None:
    decoder = Decoder()
    assert decoder.pid is None
    frames = list(decoder.frames(compressed, PLUGIN, [2, 0]))
    first = decoder.pid
    again = list(decoder.frames(compressed, PLUGIN, [0, 1, 2, 3]))
    assert decoder.pid == first != os.getpid()
    assert [frame.shape for frame in frames] == [(40, 36)] * 2
    assert np.array_equal(frames, np.stack(again)[[2, 0]])


def test_a_file_that_is_left_early_does_not_disturb_the_next(compressed: Path) -> None:
    decoder = Decoder()
    whole = list(decoder.frames(compressed, PLUGIN, [0, 1, 2, 3]))
    left = decoder.frames(compressed, PLUGIN, [0, 1])
    assert np.array_equal(next(left), whole[0])
    left.close()
    assert np.array_equal(next(decoder.frames(compressed, PLUGIN, [3])), whole[3])


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT], ids=lambda one: one.name)
def test_a_decoder_that_dies_is_told_and_the_next_file_has_a_new_one(compressed: Path, number: signal.Signals) -> None:
    decoder = Decoder()
    frames = decoder.frames(compressed, PLUGIN, [0, 1, 2])
    next(frames)
    dead = decoder.pid
    assert dead is not None
    os.kill(dead, number)
    with pytest.raises(DecodingError, match=f"crashed: {number.name}"):
        list(frames)
    assert decoder.pid is None
    assert len(list(decoder.frames(compressed, PLUGIN, [0, 1]))) == 2
    assert decoder.pid not in (None, dead)


def test_a_decoder_that_hangs_is_ended(compressed: Path) -> None:
    decoder = Decoder(timeout_s=2.0)
    frames = decoder.frames(compressed, PLUGIN, [0, 1])
    next(frames)
    hangs = decoder.pid
    assert hangs is not None
    os.kill(hangs, signal.SIGSTOP)
    with pytest.raises(DecodingError, match="no answer within 2 s"):
        next(frames)
    assert not Path(f"/proc/{hangs}").exists()


def test_a_plugin_that_is_not_there_is_an_error_of_the_slice(compressed: Path) -> None:
    with pytest.raises(DecodingError, match="ValueError"):
        list(Decoder().frames(compressed, "gdcm-of-tomorrow", [0]))


def test_threads_take_turns(compressed: Path) -> None:
    decoder = Decoder()
    whole = np.stack(list(decoder.frames(compressed, PLUGIN, [0, 1, 2, 3])))
    same: list[bool] = []

    def read() -> None:
        for _ in range(10):
            same.append(np.array_equal(np.stack(list(decoder.frames(compressed, PLUGIN, [0, 1, 2, 3]))), whole))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 40


def test_a_series_whose_decoder_dies_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=uid.JPEGLSLossless)
    [series] = find_series(tmp_path)
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)
    child = pixels.DECODER.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (child, signal.SIGKILL)).start()
    with pytest.raises(RefusedSeries, match=r"slice 1 cannot be decoded \(the decoder crashed: SIGKILL\)") as refused:
        read_series(series)
    assert refused.value.reason == "unreadable"
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)


def test_the_file_that_kills_gdcm_is_refused(tmp_path: Path) -> None:
    """GDCM 3.2.6 dies of SIGSEGV: the frame header asks for 73 bits a pixel."""
    stored = Stored(intercept=-1024.0, signed=False, bits=12)
    scan = real_ct(3, 40, 36)
    settings = {"modality": "MR", "enhanced": True, "transfer_syntax": LOSSLESS_JPEG[0], "stored": stored}
    [path] = write_series(tmp_path, np.maximum(scan.voxels, -1024), scan.affine, **settings)
    whole = path.read_bytes()
    for what, data in mutations([path], 47, seed=3019):
        damage, damaged = what, data
    assert damage == "46 of seed 3019: pixels"
    path.write_bytes(damaged)
    [series] = find_series(tmp_path)
    with pytest.raises(RefusedSeries) as refused:
        read_series(series)
    assert refused.value.reason == "unreadable"
    path.write_bytes(whole)
    [series] = find_series(tmp_path)
    assert read_series(series).voxels.shape == scan.voxels.shape


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_the_child_ends_with_its_parent_and_says_nothing(compressed: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from medattn_edge.io.dicom.decoder import Decoder\n"
        f"decoder = Decoder(); list(decoder.frames(Path(sys.argv[1]), {PLUGIN!r}, [0])); print(decoder.pid)"
    )
    words = [sys.executable, "-W", "error", "-c", program, str(compressed)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{done.stdout.strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
