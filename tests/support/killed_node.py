"""A node that kills itself (SIGKILL) at the n-th change of a disk or a database, and tells what it had acknowledged.

    python -m tests.support.killed_node ROOT PACS SEED KILL_AT

KILL_AT 0: not at all, and it works until nothing is left to do. Each line on stdout is written when the call that it
tells of has returned: `ack SERIES NUMBER`, `accepted KEY VERSION UID` (by the destination), `recorded DELIVERY`.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medattn_edge.scanner.store.disk import make_folder, write_durably
from medattn_edge.scanner.store.records import Output, Policy
from medattn_edge.scanner.store.snapshot import STAGES
from medattn_edge.scanner.store.transitions import State
from tests.support.durable_node import CHANNELS, Node, place, read_header

CHANGES = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
POLICY = Policy(quiet_s=0, max_wait_s=0, max_study_wait_s=0, interruptions=10_000, delivery_attempts=10_000)


def kill_at(count: int) -> None:
    """Die before the count-th change, or after it when the count is even."""
    done = 0

    def counted() -> bool:
        nonlocal done
        done += 1
        return done == count

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for name in CHANGES:
        real = getattr(os, name)

        def changed(*words: Any, real: Callable[..., Any] = real, **more: Any) -> Any:
            now = counted()
            if now and count % 2:
                die()
            result = real(*words, **more)
            if now:
                die()
            return result

        setattr(os, name, changed)
    connect = sqlite3.connect

    def traced(*words: Any, **more: Any) -> Any:
        database = connect(*words, **more)
        database.set_trace_callback(lambda statement: die() if counted() else None)
        return database

    sqlite3.connect = traced


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Worked:
    """What one process does, in an order that its seed decides."""

    def __init__(self, root: Path, pacs: Path, seed: int) -> None:
        self.random, self.pacs = random.Random(seed), pacs
        self.node = Node(root, POLICY)
        self.node.now = float(seed)
        self.node.custody.recover(read_header)
        self.custody, self.store, self.seed = self.node.custody, self.node.store, seed

    def receive(self) -> None:
        series: object = self.seed + self.random.choice([0, 0, 0, -1, -1, -2])  # late images and duplicates too
        if self.random.random() < 0.3:
            series = self.random.choice(CHANNELS)
        number = self.random.randint(1, 12)
        self.node.keep(series, number)
        tell("ack", series, number)

    def work(self) -> bool:
        self.custody.queue_complete()
        self.custody.gather_studies(place)
        job = self.custody.claim("worker", lambda job: bool(job.parts) or place(job) is None)
        if job is None:
            return False
        if self.random.random() < 0.2 and self.custody.fail(job, "crashed") is not None:
            return True
        names = [path.name for path in self.custody.files(job)]
        folder = self.custody.working_folder(job)
        (folder / "seg.dcm").write_text(" ".join(names))
        # As the real one: the identity comes from the instances.
        uid = hashlib.sha256((folder / "seg.dcm").read_bytes()).hexdigest()[:16]
        self.custody.record_result(job, folder, [Output("seg", "seg.dcm", uid)], ["pacs", "archive"])
        return True

    def deliver(self, faults: bool = True) -> bool:
        due = self.store.deliveries.due(limit=3)
        for delivery in due:
            if faults and self.random.random() < 0.2:
                self.store.deliveries.record_failure(delivery, "no_connection")
                continue
            [output] = delivery.outputs
            data = (self.node.spool.result(delivery.key, delivery.version) / output.name).read_bytes()
            make_folder(self.pacs / delivery.destination)
            write_durably(self.pacs / delivery.destination / output.sop_uid, data)
            tell("accepted", delivery.key, delivery.version, output.sop_uid)
            self.store.deliveries.record_delivered(delivery)
            tell("recorded", delivery.id)
        return bool(due)

    def requeue(self) -> None:
        for seen in self.store.snapshot().quarantined:
            if seen.reason == "crashed":
                self.store.repairs.requeue(seen.key)

    def step(self) -> None:
        match self.random.choices(["receive", "work", "deliver", "requeue", "clean", "quit"], [9, 4, 4, 1, 0.3, 0.1])[
            0
        ]:
            case "receive":
                self.receive()
            case "work":
                self.work()
            case "deliver":
                self.deliver()
            case "requeue":
                self.requeue()
            case "clean":
                self.custody.clean(0, 30)
            case "quit":
                self.store.close()
                sys.exit(0)

    def drain(self) -> None:
        self.node.now = 1e12  # every pause is over
        self.random.random = lambda: 1.0  # nothing fails any more
        busy = True
        while busy:
            self.requeue()
            busy = self.work()
            busy = self.deliver(faults=False) or busy
        counts = self.store.snapshot().states
        assert not any(counts[state] for state in (State.RECEIVING, State.QUEUED, State.RUNNING, State.SEGMENTED))
        assert set(self.store.snapshot().stages) == set(STAGES)
        self.store.close()


def main() -> None:
    root, pacs, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    kill_at(count)
    worked = Worked(root, pacs, seed)
    if count == 0:
        worked.drain()
        return
    while True:
        worked.step()


if __name__ == "__main__":
    main()
