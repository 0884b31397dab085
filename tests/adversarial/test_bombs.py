"""Objects that are small on the line and large in memory: they cost neither memory nor others' time."""

from __future__ import annotations

import random
import threading
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from pydicom.uid import DeflatedExplicitVRLittleEndian  # noqa: E402

from medattn_edge.errors import ScanError  # noqa: E402
from medattn_edge.scanner.receive import objects  # noqa: E402
from medattn_edge.scanner.receive.objects import header_of, reason_of  # noqa: E402
from tests.scanner.test_receive import files_of  # noqa: E402


def deflated(folder: Path, megabytes: int, fill: bytes = bytes(1_000_000), before: bytes = b"") -> bytes:
    """A CT image whose pixels are so many times `fill`, deflated. before: elements in front of the pixels."""
    [path] = files_of(folder, slices=1)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    data = buffer.getvalue()
    start = 144 + int.from_bytes(data[140:144], "little")
    plain = zlib.decompress(data[start:], -15)
    shrink = zlib.compressobj(9, zlib.DEFLATED, -15)
    size = megabytes * len(fill)
    pieces = [shrink.compress(plain + before + b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little"))]
    pieces += [shrink.compress(fill) for _ in range(megabytes)]
    return b"".join([data[:start], *pieces, shrink.flush()])


def test_a_deflated_bomb_is_refused_before_it_is_in_memory(tmp_path):
    bomb = deflated(tmp_path, 1500)
    assert len(bomb) < 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ScanError) as raised:
            header_of(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason_of(raised.value) == "too_large"
    assert peak < 60_000_000


def test_eight_bombs_at_once_cost_no_more_than_one(tmp_path):
    bomb, reasons = deflated(tmp_path, 200), []

    def refuse() -> None:
        try:
            header_of(bomb)
        except ScanError as error:
            reasons.append(reason_of(error))

    threads = [threading.Thread(target=refuse) for _ in range(8)]
    tracemalloc.start()
    try:
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reasons == ["too_large"] * 8
    assert peak < 80_000_000


def test_a_deflated_image_as_scanners_send_it_is_read(tmp_path):
    noise = random.Random(1).randbytes(1_000_000)
    header = header_of(deflated(tmp_path, 40, noise))
    [path] = files_of(tmp_path, slices=1)
    dataset = pydicom.dcmread(path)
    assert (header.sop_uid, header.series_uid) == (dataset.SOPInstanceUID, dataset.SeriesInstanceUID)
    assert header.modality == "CT"


def test_a_small_deflated_image_of_nothing_but_air_is_no_bomb(tmp_path):
    assert header_of(deflated(tmp_path, 8)).modality == "CT"


def test_a_deflated_object_that_is_cut_off_is_told(tmp_path):
    whole = deflated(tmp_path, 2)
    with pytest.raises(ScanError) as raised:
        header_of(whole[:-10])
    assert reason_of(raised.value) == "truncated"


def test_the_lock_is_free_again_after_a_refusal(tmp_path):
    with pytest.raises(ScanError):
        header_of(deflated(tmp_path, 100))
    assert not objects._INFLATING.locked()
