"""What is kept of a calibration is found again under the same key and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from medattn_edge.precision.cache import Cache


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    cache.save("ranges", {"model": "a", "patches": "b"}, {"x": [0.5, 1.5]})
    assert cache.load("ranges", {"patches": "b", "model": "a"}) == {"x": [0.5, 1.5]}
    assert cache.load("ranges", {"model": "a", "patches": "c"}) is None
    assert cache.load("damage", {"model": "a", "patches": "b"}) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"found": 1}', '{"key": {"model": "b"}, "found": 1}'])
def test_a_file_that_is_none_of_ours_counts_as_nothing(tmp_path: Path, content: str) -> None:
    cache = Cache(tmp_path)
    cache.save("ranges", {"model": "a"}, 1)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert cache.load("ranges", {"model": "a"}) is None


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Cache(tmp_path / "file" / "folder").save("ranges", {}, 1)
    assert Cache(tmp_path / "file" / "folder").load("ranges", {}) is None
    Cache(None).save("ranges", {}, 1)
    assert Cache(None).load("ranges", {}) is None


def test_the_users_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.of_user().folder == tmp_path / "medattn-edge" / "calibration"
