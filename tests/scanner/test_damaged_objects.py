"""Objects that are broken off, or damaged at random: each is stored, refused or put aside, and the node lives."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.dicom_mutations import mutations  # noqa: E402
from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.raw_sender import Raw  # noqa: E402
from tests.support.running_node import RunningNode, Scan  # noqa: E402


def test_a_sender_that_breaks_off_in_the_middle_of_an_object_harms_nobody(model, archive, tmp_path):
    scan = Scan(tmp_path, 50)
    files = scan.write()
    node = RunningNode(tmp_path / "node", model, {"destination": [archive.destination]})
    with node:
        assert send(node.port, files[:3]).statuses == [0] * 3
        for path in files[3:]:
            with Raw(node.port) as raw:
                raw.associate()
                raw.store(path, break_off=0.5)
        with Raw(node.port) as raw:
            raw.write(b"GET / HTTP/1.1\r\n\r\n")
        with Raw(node.port) as raw:
            raw.write(bytes(range(256)) * 40)
        assert send(node.port, files[3:]).statuses == [0] * 3
        node.wait(lambda: (scan.uid, scan.instances) in archive.identities(), "the whole series")


def fuzz(model: Path, archive: Archive, folder: Path, count: int, seed: int) -> Counter[str]:
    """Every damaged object is stored, refused with a status, or put aside with a reason; the node lives."""
    incoming = folder / "incoming"
    incoming.mkdir()
    more = {
        "destination": [archive.destination],
        "watch": {"folder": incoming, "poll_s": 0.2, "settle_s": 0.3},
        "limits": {"retries": 1},
    }
    node = RunningNode(folder / "node", model, more)
    ends: Counter[str] = Counter()
    sources = [*Scan(folder, 60, slices=3).write(), *enhanced(folder)]
    with node:
        process = node.pid
        damaged = [data for _, data in mutations(sources, count, seed)]
        raw = Raw(node.port).__enter__()
        raw.associate()
        for data in damaged[: count // 2]:
            try:
                status = raw.store(data)
            except (OSError, EOFError):
                ends["aborted"] += 1
                status = None
            if status is None:
                raw.__exit__()
                raw = Raw(node.port).__enter__()
                raw.associate()
            else:
                ends[f"{status:04X}"] += 1
            assert node.alive, node.said()
        raw.__exit__()
        for number, data in enumerate(damaged[count // 2 :]):
            (incoming / f".{number}").write_bytes(data)
            (incoming / f".{number}").rename(incoming / f"{number}.dcm")
        watched = count - count // 2
        marks = node.root / "watched.json"
        node.wait(lambda: marks.exists() and len(json.loads(marks.read_text())) >= watched, "every file looked at", 200)
        node.wait(lambda: not node.unfinished(), "nothing left to do", 200)
        # It still does what it is for, in the same process.
        whole = Scan(folder, 61)
        assert send(node.port, whole.write()).statuses == [0] * 6
        node.wait(lambda: (whole.uid, whole.instances) in archive.identities(), "a whole series", 60)
        assert node.pid == process
        assert node.alive
        status = node.status()
        reasons = Counter(one["reason"] for one in status["quarantined"])
        assert "" not in reasons
        for row in node.rows("SELECT state, reason FROM versions"):
            assert row[0] in {"delivered", "superseded", "quarantined"}
            assert (row[0] != "quarantined") or row[1]
        assert node.events("uncaught") == []
        ends["refused lines"] = len(node.events("refused"))
        ends["worker restarts"] = status["workers"][0]["restarts"]
        ends.update({f"quarantined {reason}": number for reason, number in reasons.items()})
        ends["objects on record"] = status["objects"]
    assert "Traceback" not in (node.folder / "stderr.txt").read_text()
    return ends


def enhanced(folder: Path) -> list[Path]:
    """An enhanced multi-frame CT, for damage of another kind."""
    scan = real_ct(3, 32, 32)
    return write_series(folder / "enhanced", scan.voxels, scan.affine, enhanced=True)


def test_a_hundred_damaged_objects_all_end_with_a_reason(model, archive, tmp_path):
    ends = fuzz(model, archive, tmp_path, 100, seed=5)
    assert sum(number for name, number in ends.items() if len(name) == 4 or name == "aborted") == 50


@pytest.mark.slow
def test_two_thousand_damaged_objects_all_end_with_a_reason(model, archive, tmp_path):
    ends = fuzz(model, archive, tmp_path, 2000, seed=6)
    print(dict(ends))  # noqa: T201
    assert sum(number for name, number in ends.items() if len(name) == 4 or name == "aborted") == 1000
    assert ends["0000"] > 50
    assert ends["C000"] + ends["A900"] > 50
