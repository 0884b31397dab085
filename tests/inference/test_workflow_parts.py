"""Parts of the way from a path to files: where compiled models are kept, and what becomes another object in DICOM."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.inference import prepare
from medattn_edge.inference.workflow import Opening, _cached_in, _of_scan
from medattn_edge.io import Scan, as_scan, write_labels
from medattn_edge.spec import Intensity
from tests.support.sessions import make_spec, make_volume

Make = Callable[..., Any]


@pytest.mark.parametrize("before", [None, "/kept"])
@pytest.mark.parametrize("folder", [None, "/private"])
def test_a_folder_for_compiled_models_is_named_for_a_while(
    monkeypatch: pytest.MonkeyPatch, before: str | None, folder: str | None
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from medattn_edge.backends.openvino.model import CACHE

    monkeypatch.delenv(CACHE, raising=False)
    if before is not None:
        monkeypatch.setenv(CACHE, before)
    with _cached_in(None if folder is None else Path(folder)):
        assert os.environ.get(CACHE) == (folder or before)
    assert os.environ.get(CACHE) == before
    assert Opening() == Opening("", "auto", 0, "", None)


def test_only_what_was_taken_of_a_scan_is_added_to_an_identity(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from medattn_edge.io.dicom.uids import Algorithm

    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for number, path in enumerate(paths):
        write_labels(path, make_volume(np.full((1, 4, 4), number + 1)), ["a"])
    named = Algorithm("fake", "1", "0" * 64, "overlap=0.5")
    spec = make_spec((4, 4), channels=2)
    assert _of_scan(None, as_scan(paths), spec) is None
    assert _of_scan(named, Scan(paths[0]), spec) is named
    both = _of_scan(named, as_scan(paths), spec)
    assert both is not None
    assert both.settings.startswith("overlap=0.5 channels=")
    bare = _of_scan(Algorithm("fake", "1", "0" * 64), as_scan(paths), spec)
    assert bare is not None
    assert bare.settings.startswith("channels=")


@pytest.mark.parametrize("step", ["zscore", "minmax"])
def test_a_slice_without_any_value_that_counts_becomes_zeros(step: str) -> None:
    voxels = np.random.default_rng(0).normal(5, 1, (3, 4, 4))
    voxels[1] = 0
    image = prepare(make_volume(voxels), make_spec((4, 4), intensity=Intensity.parse(f"{step}:slice:nonzero"))).image
    assert (image[0, 1] == 0).all()
    assert np.isfinite(image).all()
    assert image[0, 0].std() > 0
