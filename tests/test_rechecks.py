"""What was true before a lock was taken is looked at again under it: a rival acts in between, every time.

Two processes that race would meet so once in a thousand runs. Here the rival acts at the very moment at which
the lock is asked for, so that what was looked at before is out of date.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.scanner.store.custody import FilesLost
from medattn_edge.scanner.store.keys import BYTES, site_key
from medattn_edge.scanner.store.transitions import State
from tests.support.durable_node import Node


@pytest.fixture
def node(tmp_path: Path) -> Any:
    made = Node(tmp_path / "node")
    yield made
    made.store.close()


def before_lock(node: Node, rival: Callable[[], object]) -> None:
    """The next to ask for a series's lock gets it after the rival has acted."""
    lock = node.spool.lock

    @contextmanager
    def late(key: str) -> Any:
        node.spool.lock = lock  # type: ignore[method-assign]
        rival()
        with lock(key):
            yield

    node.spool.lock = late  # type: ignore[method-assign,assignment]


def state(node: Node) -> list[str]:
    with node.store.database.reading() as database:
        return [row[0] for row in database.execute("SELECT state FROM versions ORDER BY id")]


def test_a_lost_result_is_made_again_once_though_two_destinations_saw_it(node):
    node.segment(node.job(), "pacs", "archive")
    first, second = node.store.deliveries.due()
    result = node.spool.result(first.key, 1)
    (result / "seg.dcm").unlink()

    def other_destination() -> None:
        assert node.custody.requeue_if_lost(second) is True

    before_lock(node, other_destination)
    assert node.custody.requeue_if_lost(first) is False
    assert state(node) == [State.QUEUED]
    assert node.store.repairs.inventory()[first.key].state is State.QUEUED


def test_a_lost_result_that_is_there_again_is_left_alone(node):
    node.segment(node.job(), "pacs")
    [delivery] = node.store.deliveries.due()
    result = node.spool.result(delivery.key, 1)
    shutil.copytree(result, node.root / "copy")
    (result / "seg.dcm").unlink()
    before_lock(node, lambda: shutil.copy(node.root / "copy" / "seg.dcm", result))
    assert node.custody.requeue_if_lost(delivery) is False
    assert state(node) == [State.SEGMENTED]
    assert node.custody.requeue_if_lost(delivery) is None


def test_a_result_of_a_series_that_went_on_meanwhile_is_not_recorded(node):
    job = node.job()
    folder = node.custody.working_folder(job)
    (folder / "seg.dcm").write_bytes(b"of two objects")
    before_lock(node, lambda: node.keep(1, 99))
    assert node.custody.record_result(job, folder, (), ("pacs",)) is False
    assert not folder.exists()
    assert not node.spool.result(job.key, job.version).exists()
    assert node.store.deliveries.due() == ()


def test_a_worker_that_is_late_does_not_take_away_what_the_next_one_made(node):
    late = node.job()
    folder = node.custody.working_folder(late)
    (folder / "seg.dcm").write_bytes(b"of the one that was given up")
    node.custody.fail(late, "crashed")
    node.pass_time(60)
    again = node.custody.claim("worker-1")
    assert again is not None
    assert node.segment(again, "pacs")
    assert node.custody.record_result(late, folder, (), ("pacs",)) is False
    result = node.spool.result(again.key, again.version)
    assert (result / "seg.dcm").read_bytes().startswith(b"seg of ")
    assert not folder.exists()


def test_a_series_that_goes_on_while_its_result_is_published_has_no_result(node, monkeypatch):
    job, rename = node.job(), os.rename
    folder = node.custody.working_folder(job)
    (folder / "seg.dcm").write_bytes(b"of two objects")

    def late_image(*paths: Any, **more: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        rename(*paths, **more)
        node.keep(1, 99)

    monkeypatch.setattr(os, "rename", late_image)
    assert node.custody.record_result(job, folder, (), ("pacs",)) is False
    assert not node.spool.result(job.key, job.version).exists()
    assert node.store.deliveries.due() == ()


def test_files_that_a_rival_took_away_meanwhile_are_not_handed_out(node):
    job = node.job()
    name = job.names[0]
    before_lock(node, (node.spool.folder(job.key) / name).unlink)
    with pytest.raises(FilesLost) as caught:
        node.custody.files(job)
    assert caught.value.reason == "file_missing"


def test_files_of_a_series_that_a_late_image_opened_again_are_not_put_into_quarantine(node):
    job = node.job()
    before_lock(node, lambda: node.keep(1, 99))
    node.custody.fail(job, "crashed", retry=False)
    assert (node.spool.incoming / job.key).is_dir()
    assert not (node.spool.quarantined / job.key).exists()
    assert len(list((node.spool.incoming / job.key).iterdir())) == 3


def test_of_two_nodes_that_make_a_site_key_at_once_the_second_takes_the_firsts(tmp_path, monkeypatch):
    path, link = tmp_path / "site.key", os.link
    other = bytes(range(BYTES))

    def late(source: Any, target: Any, **more: Any) -> None:
        path.write_bytes(other)
        path.chmod(0o600)
        link(source, target, **more)

    monkeypatch.setattr(os, "link", late)
    assert site_key(path).secret == other
    assert list(tmp_path.iterdir()) == [path]


def test_keys_made_by_many_threads_at_once_are_one(tmp_path):
    gate, found = threading.Barrier(8), list[bytes]()

    def make() -> None:
        gate.wait()
        found.append(site_key(tmp_path / "site.key").secret)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["site.key"]


def test_an_object_that_eight_associations_bring_at_once_is_one(node):
    gate, fates = threading.Barrier(8), list[str]()

    def send() -> None:
        gate.wait()
        fates.append(node.keep(1, 1).fate.name)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fates) == ["DUPLICATE"] * 7 + ["NEW"]
    assert len(list((node.spool.incoming / node.key(1)).iterdir())) == 1


def test_a_series_with_a_damaged_object_goes_to_quarantine_with_all_its_files(node):
    job = node.job()
    damaged = node.spool.folder(job.key) / job.names[0]
    damaged.write_bytes(bytes(damaged.stat().st_size))
    with pytest.raises(FilesLost) as caught:
        node.custody.files(job)
    assert caught.value.reason == "object_damaged"
    node.custody.quarantine(job, caught.value.reason)
    assert not (node.spool.incoming / job.key).exists()
    assert [path.name for path in (node.spool.quarantined / job.key).iterdir()] == [job.names[1]]
    assert [path.name for path in node.spool.objects.iterdir()] == [f"damaged-{job.key}-{job.names[0]}"]
