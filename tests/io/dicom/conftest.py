"""The scan that most of these tests write objects for, and the series that it was sent as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.volume import Series


@pytest.fixture(scope="module")
def scan() -> Volume:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct

    return real_ct()


@pytest.fixture(scope="module")
def sent(scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Series:
    from tests.io.dicom.test_seg import send

    return send(tmp_path_factory.mktemp("axial"), scan)
