"""kill -9 in every stage: what was acknowledged is delivered, once, and under one identity."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.dicom_peers import Archive, send  # noqa: E402
from tests.support.running_node import RunningNode, Scan  # noqa: E402

# A kill is no reason to give a series up; the patience of a real node is tested where it counts.
PATIENT = {"retries": 100_000, "interruptions": 100_000, "delivery_attempts": 100_000}


STAGES = ("receiving", "completing", "segmenting", "worker", "delivering", "delivered", "recovering", "draining")


@dataclass
class Nights:
    """A node that is killed again and again, a sender that tries until everything is taken, and an archive."""

    folder: Path
    model: Path
    archive: Archive
    seed: int
    acknowledged: dict[int, set[str]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        more = {"destination": [self.archive.destination], "limits": PATIENT}
        self.node = RunningNode(self.folder / "node", self.model, more)
        self.scans: list[Scan] = []

    def send(self, scan: Scan, each: Any = None) -> None:
        """Send what has not been acknowledged yet."""
        done = self.acknowledged.setdefault(scan.number, set())
        files = [path for path in scan.write() if self.uid(path) not in done]
        answers = iter(files)

        def on_answer(number: int) -> None:
            if each is not None:
                each(number)

        sent = send(self.node.port, files, each=on_answer)
        done |= {self.uid(path) for path, status in zip(answers, sent.statuses, strict=False) if status == 0}

    def doors(self) -> int:
        """How often the port was opened."""
        return len([line for line in self.node.events("listening") if line["listener"] == "plain"])

    def uid(self, path: Path) -> str:
        return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)

    def kill(self, stage: str) -> None:
        self.kills[stage] += 1
        self.node.kill()

    def night(self, stage: str) -> None:
        """One series, and one kill in the middle of something."""
        scan = Scan(self.folder, self.seed * 1000 + len(self.scans))
        self.scans.append(scan)
        scan.write()
        if not self.node.alive:
            doors = self.doors()
            self.node.start(ready=False)
            self.node.wait(lambda: self.doors() > doors, "the port")
        getattr(self, f"_{stage}")(scan)

    def _receiving(self, scan: Scan) -> None:
        last, after = self.random.randrange(5), self.random.random() * 0.03

        def each(number: int) -> None:
            if number == last:
                # In the middle of the next object; the sender's next answer never comes.
                threading.Timer(after, self.node.process.kill).start()  # type: ignore[union-attr]

        self.send(scan, each)
        self.kill("receiving")

    def _completing(self, scan: Scan) -> None:
        self.send(scan)
        time.sleep(self.random.random() * 0.6)  # quiet time is 0.4 s
        self.kill("completing")

    def _segmenting(self, scan: Scan) -> None:
        self._until_claimed(scan)
        time.sleep(self.random.random() * 0.8)
        self.kill("segmenting")

    def _worker(self, scan: Scan) -> None:
        self._until_claimed(scan)
        time.sleep(self.random.random() * 0.5)
        if self.node.kill_worker():
            self.kills["worker"] += 1

    def _delivering(self, scan: Scan) -> None:
        """In the middle of the archive's C-STORE."""
        self._at_the_archive("before", scan, "delivering")

    def _delivered(self, scan: Scan) -> None:
        """When the archive has stored it and not yet answered, or just has."""
        self._at_the_archive("after", scan, "delivered")

    def _recovering(self, scan: Scan) -> None:
        self.send(scan)
        self.node.kill()
        self.node.start(ready=False)
        time.sleep(self.random.random())
        self.kill("recovering")

    def _draining(self, scan: Scan) -> None:
        self._until_claimed(scan)
        self.node.signal(15)
        time.sleep(self.random.random() * 0.5)
        if self.node.alive:
            self.kill("draining")

    def _until_claimed(self, scan: Scan) -> None:
        before = len(self.node.events("claimed"))
        self.send(scan)
        self.node.wait(lambda: len(self.node.events("claimed")) > before, "a claim")

    def _at_the_archive(self, moment: str, scan: Scan, stage: str) -> None:
        came, pause = threading.Event(), self.random.random() * 0.02

        def on_store() -> None:
            came.set()
            time.sleep(pause)

        setattr(self.archive, moment, on_store)
        self.send(scan)
        self.node.wait(came.is_set, "a delivery")
        time.sleep(self.random.random() * 0.04)
        self.kill(stage)
        setattr(self.archive, moment, lambda: None)

    def morning(self) -> None:
        """Nobody kills any more: the senders send what is left, and the node works everything off."""
        if not self.node.alive:
            self.node.start()
        for scan in self.scans:
            for _ in range(3):
                if self.acknowledged[scan.number] != scan.instances:
                    self.send(scan)
        assert all(self.acknowledged[scan.number] == scan.instances for scan in self.scans)
        self.node.wait_until_done(len(self.scans), 120)

    def check(self) -> None:
        """What was acknowledged is segmented and delivered, under one identity each; files and rows agree."""
        identities = self.archive.identities()
        assert {len(uids) for uids in identities.values()} == {1}
        for scan in self.scans:
            assert (scan.uid, scan.instances) in identities, f"series {scan.number} of {self.kills}"
        rows = self.node.rows(
            "SELECT v.key, v.version, v.state, v.reason, (SELECT MAX(version) FROM versions w WHERE w.key = v.key)"
            " FROM versions v"
        )
        assert {state for _, version, state, _, last in rows if version == last} == {"delivered"}
        # A part of a series that came before a kill may be no series: one slice of it, a hole in it.
        assert {state for _, _, state, _, _ in rows} <= {"delivered", "superseded"}
        stored = {uid for uids in identities.values() for uid in uids}
        assert stored == {uid for (uid,) in self.node.rows("SELECT sop_uid FROM outputs WHERE kind = 'seg'")}
        assert self.node.rows("SELECT COUNT(*) FROM deliveries WHERE state <> 'delivered'") == [(0,)]
        assert self.node.rows("PRAGMA integrity_check") == [("ok",)]
        on_record = self.node.rows("SELECT key, name FROM instances")
        assert {(path.parent.name, path.name) for path in self.node.root.glob("spool/*/*.dcm")} == set(on_record)
        received = {uid for (uid,) in self.node.rows("SELECT sop_uid FROM instances")}
        assert set().union(*self.acknowledged.values()) == received
        assert self.node.rows("SELECT COUNT(*) FROM conflicts") == [(0,)]
        assert list(self.node.root.glob("quarantine/*/*")) == []
        left = [path for path in self.node.root.rglob(".*") if ".v" in path.name or path.name.endswith(".tmp")]
        assert left == []


def survive(folder: Path, model: Path, archive: Archive, seed: int, stages: list[str]) -> Nights:
    nights = Nights(folder, model, archive, seed)
    nights.random.shuffle(stages)
    try:
        for stage in stages:
            nights.night(stage)
        nights.morning()
        nights.check()
    finally:
        nights.node.kill()
    print(f"seed {seed}: {sum(nights.kills.values())} kills {dict(nights.kills)}, {len(archive.segs)} deliveries")  # noqa: T201
    return nights


@pytest.mark.slow
def test_a_kill_in_every_stage_loses_nothing_and_makes_no_second_identity(model, archive, tmp_path):
    nights = survive(tmp_path, model, archive, 1, list(STAGES))
    assert sum(nights.kills.values()) >= len(STAGES) - 1  # a drain may be over before the kill


@pytest.mark.slow
def test_fifty_kills_lose_nothing_and_make_no_second_identity(model, archive, tmp_path):
    nights = survive(tmp_path, model, archive, 2, [stage for stage in STAGES for _ in range(7)])
    assert sum(nights.kills.values()) >= 50
    assert min(nights.kills[stage] for stage in STAGES if stage != "draining") >= 6
    assert len(archive.segs) >= len(nights.scans) == 56
