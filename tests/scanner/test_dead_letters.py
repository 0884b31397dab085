"""Dead letters: what a destination never took lies in a folder, until it is tried again and taken."""

from __future__ import annotations

import io
import json
import stat

import pytest

pytest.importorskip("pydicom", reason="the extra node is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.errors import OutputError
from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.deliver.deliverer import Deliverer
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.store.dead_letters import letter_of, remove_letter, write_letter
from medattn_edge.scanner.store.transitions import State


def deliver(node, folder):
    log = Log(io.StringIO())
    return Deliverer(Destination("disk", folder=folder), node.custody, log, "MEDATTN").deliver_due()


def test_after_the_last_try_a_letter_holds_the_files_and_the_reason(node, tmp_path):
    job = node.job()
    node.segment(job, "disk")
    letter = node.root / "dead" / f"{job.key}-v1-disk"
    for attempt in range(node.policy.delivery_attempts):
        assert not letter.exists(), attempt
        assert deliver(node, tmp_path / "gone") == 1
        node.pass_time(1000)
    assert node.store.series.state_of(job.key) is State.FAILED
    told = json.loads((letter / "letter.json").read_text())
    assert (told["reason"], told["attempts"], told["files"]) == ("folder_missing", 3, ["seg.dcm"])
    assert told["died"].startswith("1970-01-12T")
    assert (letter / "seg.dcm").read_bytes() == (node.spool.result(job.key, 1) / "seg.dcm").read_bytes()
    assert not (letter / "overlay.png").exists()
    assert "1.2.3" not in (letter / "letter.json").read_text()
    assert stat.S_IMODE(letter.stat().st_mode) == 0o700


def test_a_requeued_letter_is_delivered_and_removed(node, tmp_path):
    job = node.job()
    node.segment(job, "disk")
    for _ in range(node.policy.delivery_attempts):
        deliver(node, tmp_path / "gone")
        node.pass_time(1000)
    [letter] = (node.root / "dead").iterdir()
    node.restart()
    assert letter.is_dir()
    assert node.store.repairs.requeue(job.key) is State.SEGMENTED
    (tmp_path / "there").mkdir()
    assert deliver(node, tmp_path / "there") == 1
    assert node.store.series.state_of(job.key) is State.DELIVERED
    assert (tmp_path / "there" / job.key / "v1" / "seg.dcm").is_file()
    assert list((node.root / "dead").iterdir()) == []


def test_a_letter_that_cannot_be_written_keeps_the_delivery_alive(node, tmp_path):
    job = node.job()
    node.segment(job, "disk")
    (node.root / "dead").write_bytes(b"in the way")
    for _ in range(node.policy.delivery_attempts + 2):
        assert deliver(node, tmp_path / "gone") == 1
        node.pass_time(1000)
    assert node.store.series.state_of(job.key) is State.SEGMENTED
    (node.root / "dead").unlink()
    assert deliver(node, tmp_path / "gone") == 1
    assert node.store.series.state_of(job.key) is State.FAILED
    assert len(list((node.root / "dead").iterdir())) == 1


def test_a_letter_replaces_an_earlier_one_and_half_of_one_is_no_letter(node):
    node.segment(node.job(), "disk")
    [delivery] = node.store.deliveries.due()
    path = letter_of(node.spool.layout, delivery)
    write_letter(node.spool.layout, delivery, "no_connection", 0.0)
    half = path.parent / f".{path.name}"
    half.mkdir()
    (half / "seg.dcm").write_bytes(b"half")
    write_letter(node.spool.layout, delivery, "refused", 0.0)
    assert json.loads((path / "letter.json").read_text())["reason"] == "refused"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    half.mkdir()
    node.restart()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    remove_letter(node.spool.layout, delivery)
    remove_letter(node.spool.layout, delivery)
    assert not path.exists()


def test_the_reason_in_a_letter_is_a_code_and_a_full_disk_is_an_error_of_ours(node):
    node.segment(node.job(), "disk")
    [delivery] = node.store.deliveries.due()
    with pytest.raises(ValueError, match="code"):
        write_letter(node.spool.layout, delivery, "Doe^John", 0.0)
    (node.root / "dead").write_bytes(b"in the way")
    with pytest.raises(OutputError, match="dead letter"):
        write_letter(node.spool.layout, delivery, "refused", 0.0)
