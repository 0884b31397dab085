"""Objects that come again with the same UIDs and other contents: never answered with success and dropped."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.reasons import ADMISSION_REASONS  # noqa: E402
from medattn_edge.scanner.config.sections import Watch  # noqa: E402
from medattn_edge.scanner.observe.alerts import alerts_of  # noqa: E402
from medattn_edge.scanner.observe.log import Log  # noqa: E402
from medattn_edge.scanner.observe.metrics import text_of  # noqa: E402
from medattn_edge.scanner.receive.watch import Watcher  # noqa: E402
from medattn_edge.scanner.store.records import ConflictRefused, Fate  # noqa: E402
from medattn_edge.scanner.store.transitions import State  # noqa: E402
from tests.scanner.test_receive import files_of  # noqa: E402
from tests.support.dicom_peers import send  # noqa: E402
from tests.support.durable_node import Node, read_header, sample  # noqa: E402
from tests.support.serving import Serving  # noqa: E402
from tests.support.status_scenes import Watched  # noqa: E402

CONFLICTING = 0xC111


def corrected(files: list[Path]) -> list[Path]:
    """The same objects under another patient's name."""
    changed = []
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "Right^Patient"
        changed.append(path.with_name(f"corrected-{path.name}"))
        dataset.save_as(changed[-1])
    return changed


def names_in(node: Node, job) -> set[str]:
    return {str(pydicom.dcmread(path).PatientName) for path in node.custody.files(job)}


def finish(node: Node) -> object:
    node.pass_time(60)
    node.custody.queue_complete()
    job = node.custody.claim("worker-0")
    assert job is not None
    return job


def test_a_corrected_series_is_segmented_again_as_a_new_version_and_everybody_is_told(node, tmp_path):
    files = files_of(tmp_path)
    with Serving(node) as serving:
        assert send(serving.port, files).statuses == [0, 0, 0]
        first = finish(node)
        assert node.segment(first, "pacs")
        assert send(serving.port, corrected(files)).statuses == [0, 0, 0]
        assert {(one["reason"], one["key"], one["version"]) for one in serving.events("conflict")} == {
            ("replaced", first.key, 2)
        }
    second = finish(node)
    assert (second.version, len(second.names), names_in(node, second)) == (2, 3, {"Right^Patient"})
    assert second.contents
    assert not first.contents
    [seen] = node.store.snapshot().conflicted
    assert (seen.key, seen.replaced, seen.refused) == (first.key, 3, 0)
    health = Watched(node).health()
    [alert] = [one for one in alerts_of(node.store.snapshot(), health) if one.reason.code == "replaced"]
    assert first.key in alert.note
    assert "medattn_edge_conflicts_total 3" in text_of(node.store.snapshot(), health)
    assert len(list(node.spool.objects.glob("replaced-*"))) == 3


def test_where_corrections_are_refused_the_sender_gets_a_failure_and_the_first_stays(node, tmp_path):
    files = files_of(tmp_path)
    with Serving(node, conflict="refuse") as serving:
        send(serving.port, files)
        assert send(serving.port, corrected(files)).statuses == [CONFLICTING] * 3
        assert [one["reason"] for one in serving.events("conflict")] == ["conflict"] * 3
        assert send(serving.port, files).statuses == [0, 0, 0]
    job = finish(node)
    assert (job.version, job.contents) == (1, "")
    assert "Right^Patient" not in names_in(node, job)
    [seen] = node.store.snapshot().conflicted
    assert (seen.replaced, seen.refused) == (0, 3)
    assert list(node.spool.objects.iterdir()) == []


def test_a_thousand_contents_of_one_uid_fill_neither_the_disk_nor_the_database(node):
    node.keep(1, 1)
    fates, refused = [], []
    for number in range(200):
        try:
            fates.append(node.keep(1, 1, more=f"content {number}").fate)
        except ConflictRefused as refusal:
            refused.append(refusal.reason)
    assert fates == [Fate.REPLACED] * node.policy.max_replacements
    assert refused == ["too_many_contents"] * (200 - node.policy.max_replacements)
    files = list(node.root.rglob("*.dcm"))
    assert len(files) == node.policy.max_replacements + 1
    with node.store.database.reading() as database:
        assert database.execute("SELECT COUNT(*) FROM conflicts").fetchone()[0] == node.policy.max_replacements + 1
    assert node.store.snapshot().conflicts == 200


def test_a_correction_of_a_series_that_is_being_segmented_makes_that_work_void(node):
    job = node.job()
    assert node.keep(1, 0, more="corrected").version == 2
    assert not node.segment(job, "pacs")
    assert node.store.snapshot().states[State.SUPERSEDED] == 1


def test_a_correction_may_change_which_model_takes_the_series(node):
    node.keep(1, 1)
    data, header = sample(1, 1, "corrected")
    node.custody.keep(data, replace(header, body_part="HEAD"), "SCANNER")
    assert finish(node).body_part == "HEAD"


def test_a_lost_result_of_objects_that_were_corrected_since_is_given_up_and_told(node):
    job = node.job()
    node.segment(job, "pacs")
    node.keep(1, 0, more="corrected")
    [delivery] = node.custody.deliveries_due()
    node.spool.remove_result(job.key, 1)
    assert node.custody.requeue_if_lost(delivery)
    states = {one.version: one.state for one in node.store.snapshot().recent}
    assert states == {1: State.FAILED, 2: State.RECEIVING}
    [dead] = next(one.deliveries for one in node.store.snapshot().undelivered)
    assert dead.reason == "result_replaced"


@pytest.mark.parametrize("step", ["record_replacement", "set_object_aside"])
def test_a_kill_in_the_middle_of_a_correction_loses_neither_what_was_acknowledged_nor_its_row(node, monkeypatch, step):
    first = node.keep(1, 1)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    where = node.store.series if step == "record_replacement" else node.spool
    monkeypatch.setattr(where, step, kill)
    with pytest.raises(Killed):
        node.keep(1, 1, more="corrected")
    monkeypatch.undo()
    node.restart(read_header)
    node.pass_time(60)
    node.custody.queue_complete()
    job = node.custody.claim("worker-0")
    [path] = node.custody.files(job)
    whole = json.loads(path.read_bytes())["more"]
    assert whole == ("" if step == "record_replacement" else "corrected")
    assert len(list((node.spool.incoming / first.key).iterdir())) == 1
    assert len(list(node.spool.objects.iterdir())) == 1
    assert node.keep(1, 1, more="corrected").fate is (Fate.REPLACED if step == "record_replacement" else Fate.DUPLICATE)


@pytest.mark.parametrize("conflict", ["new_version", "refuse"])
def test_a_watched_file_that_was_corrected_is_taken_or_stays_where_it_is(node, tmp_path, conflict):
    folder, text = tmp_path / "in", io.StringIO()
    [path] = files_of(folder, slices=1)
    log = Log(text, allow=("watch", *ADMISSION_REASONS))
    clock = iter(range(0, 10_000, 100))
    watcher = Watcher(Watch(folder, after="remove", conflict=conflict), node.custody, log, lambda: next(clock))
    original = path.read_bytes()
    for data in (original, original.replace(b"ORIGINAL", b"DERIVED ")):
        path.write_bytes(data)
        os.utime(path, ns=(1, len(data) if data == original else 2))
        watcher.look()
        watcher.look()
    lines = [line for line in map(json.loads, text.getvalue().splitlines()) if line["event"] == "conflict"]
    assert [line["reason"] for line in lines] == ["replaced" if conflict == "new_version" else "conflict"]
    assert path.exists() is (conflict == "refuse")
