"""A watched folder at its limits: the second, the byte, the name and the setting on either side of each."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.errors import OutputError
from medattn_edge.scanner.config.sections import Watch
from medattn_edge.scanner.receive.objects import header_of
from medattn_edge.scanner.receive.watch import Watcher
from tests.scanner.test_receive_refusals import files_of, wait
from tests.support.durable_node import POLICY, Node
from tests.support.serving import Serving


def watcher(node: Node, folder: Path, **changes: Any) -> Watcher:
    serving = Serving(node)
    return Watcher(Watch(folder, **{"settle_s": 2.0, **changes}), node.custody, serving.log, lambda: node.now)


def test_a_file_has_settled_after_its_seconds_and_not_before(node, tmp_path):
    [path] = files_of(tmp_path)
    found = watcher(node, path.parent)
    assert found.look() == 0
    node.pass_time(1.9)
    assert found.look() == 0
    node.pass_time(0.1)
    assert [found.look(), found.look()] == [1, 0]


def test_what_is_taken_of_a_folder_is_dicom_by_its_name_or_by_its_first_bytes(node, tmp_path):
    files = files_of(tmp_path, slices=2)
    folder = files[0].parent
    files[0].rename(folder / "no-suffix")
    (folder / "letter.txt").write_bytes(bytes(200))
    (folder / "rubbish.DCM").write_bytes(bytes(200))
    (folder / "DICOMDIR").write_bytes(files[1].read_bytes())
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.dcm").write_bytes(files[1].read_bytes())
    found = watcher(node, folder, settle_s=0.0)
    assert [found.look(), found.look(), found.look()] == [0, 2, 0]
    assert [path.name[:10] for path in node.spool.objects.iterdir()] == ["unparsable"]


@pytest.mark.parametrize(("less", "taken"), [(0, 1), (1, 0)])
def test_a_file_may_be_as_large_as_a_series_and_not_a_byte_larger(tmp_path, less, taken):
    [path] = files_of(tmp_path)
    node = Node(tmp_path / "node", replace(POLICY, max_bytes=path.stat().st_size - less))
    found = watcher(node, path.parent, settle_s=0.0)
    found.look()
    assert found.look() == taken
    node.store.close()


def test_nothing_is_taken_once_it_is_told_to_end_and_nothing_is_forgotten(node, tmp_path):
    [path] = files_of(tmp_path)
    found = watcher(node, path.parent, settle_s=0.0)
    found.look()
    stopping = threading.Event()
    stopping.set()
    assert found.look(stopping) == 0
    assert found.look(threading.Event()) == 1


@pytest.mark.parametrize("memory", ["3", '{"a": 1}', "[1, null]", "[", ""])
def test_a_memory_that_is_none_means_duplicates_and_no_more(node, tmp_path, memory):
    node.spool.layout.watched.write_text(memory)
    [path] = files_of(tmp_path)
    found = watcher(node, path.parent, settle_s=0.0)
    assert [found.look(), found.look()] == [0, 1]


def test_a_correction_that_is_refused_stays_in_the_folder_and_is_told_once(node, tmp_path):
    [path] = files_of(tmp_path)
    node.custody.keep(path.read_bytes(), header_of(path))
    [other] = files_of(tmp_path, SeriesDescription="corrected")
    serving = Serving(node)
    watch = Watch(other.parent, settle_s=0.0, after="remove", conflict="refuse")
    found = Watcher(watch, node.custody, serving.log, lambda: node.now)
    assert [found.look(), found.look(), found.look()] == [0, 0, 0]
    assert other.exists()
    [line] = serving.events("conflict")
    assert (line["reason"], line["level"], line["key"]) == (
        "conflict",
        "warning",
        node.store.site.series_key(header_of(path).series_uid),
    )


def test_a_disk_that_takes_nothing_is_told_and_the_folder_is_looked_at_again(tmp_path):
    node = Node(tmp_path / "node", limits={"max_used_fraction": 1.0, "min_free": 0, "quota": 500})
    [path] = files_of(tmp_path)
    serving = Serving(node)
    found = Watcher(Watch(path.parent, poll_s=0.05, settle_s=0.0), node.custody, serving.log)
    stopping = threading.Event()
    thread = threading.Thread(target=found.run, args=(stopping,), daemon=True)
    thread.start()
    wait(lambda: len(serving.events("watch_waits")) >= 2)
    stopping.set()
    thread.join(10)
    line = serving.events("watch_waits")[0]
    assert (line["level"], line["code"]) == ("warning", OutputError.code)
    node.store.close()


def test_a_file_that_cannot_be_removed_was_taken_all_the_same_and_that_is_told(node, tmp_path, monkeypatch):
    [path] = files_of(tmp_path)
    serving, unlink = Serving(node), Path.unlink

    def refuse(one: Path, missing_ok: bool = False) -> None:
        if one == path:
            raise PermissionError(13, "Permission denied")
        unlink(one, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    watch = Watch(path.parent, settle_s=0.0, after="remove")
    found = Watcher(watch, node.custody, serving.log, lambda: node.now)
    assert [found.look(), found.look(), found.look()] == [0, 1, 0]
    [line] = serving.events("watch_not_removed")
    assert (line["level"], line["errno"]) == ("warning", 13)
