"""Random walks through everything that a store can be asked."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

from medattn_edge.errors import UsageError
from medattn_edge.scanner.store.records import Fate, Policy
from medattn_edge.scanner.store.transitions import (
    TRANSITIONS,
    DeliveryState,
    State,
)
from tests.support.durable_node import CHANNELS, Node, place

SERIES = (1, 2, 3, *CHANNELS)


def rows(node, query, *values):
    with node.store.database.reading() as database:
        return [tuple(row) for row in database.execute(query, values)]


class Walk:
    """A model beside the store: whatever is called in whatever order, both say the same."""

    CHOICES = (
        ("receive", 3),
        ("wait", 5),
        ("claim", 6),
        ("segment", 5),
        ("fail", 2),
        ("deliver", 6),
        ("requeue", 3),
        ("lose_a_result", 1),
        ("restart", 1),
    )

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.node = Node(folder, Policy(quiet_s=60, delivery_attempts=2, interruptions=2))
        self.sent, self.jobs, self.accepted = {}, [], Counter()
        self.before = {}

    def step(self):
        names, weights = zip(*self.CHOICES, strict=True)
        getattr(self, self.random.choices(names, weights)[0])()
        self.compare()

    def receive(self):
        series, number = self.random.choice(SERIES), self.random.randint(1, 40)
        more = self.random.choice(["", "", "other"])
        expected = Fate.DUPLICATE if self.sent.get((series, number), more) == more else Fate.REPLACED
        if (series, number) not in self.sent:
            self.sent[series, number], expected = more, Fate.NEW
        assert self.node.keep(series, number, more).fate is expected

    def wait(self):
        self.node.pass_time(self.random.choice([10, 60, 1000]))
        self.node.custody.queue_complete()
        # Now and then a configuration without channels is read.
        self.node.custody.gather_studies(place if self.random.random() < 0.9 else lambda job: None)

    def claim(self):
        job = self.node.custody.claim("worker", lambda job: bool(job.parts) or not job.description)
        if job:
            assert job.id not in {other.id for other in self.jobs if self.node.store.jobs.is_held(other)}
            names = [name for part in job.parts for name in part.names] or job.names
            assert len(self.node.custody.files(job)) == len(names) > 0
            self.jobs.append(job)

    def a_job(self):
        """Mostly the last one, sometimes one that is not held any more."""
        return self.jobs[-1] if self.random.random() < 0.7 else self.random.choice(self.jobs)

    def segment(self):
        if self.jobs:
            job = self.a_job()
            held = self.node.store.jobs.is_held(job)
            assert self.node.segment(job, *["pacs", "archive"][: self.random.choice([0, 1, 2, 2])]) == held

    def fail(self):
        if self.jobs:
            job = self.a_job()
            held = self.node.store.jobs.is_held(job)
            state = self.node.custody.fail(job, "crashed", retry=self.random.random() < 0.5)
            assert (state is not None) == held

    def deliver(self):
        for delivery in self.node.store.deliveries.due(limit=1):
            if self.random.random() < 0.5:
                self.accepted[delivery.key, delivery.version, delivery.destination] += 1
                self.node.store.deliveries.record_delivered(delivery)
            else:
                self.node.store.deliveries.record_failure(delivery, "no_connection")

    def requeue(self):
        with contextlib.suppress(UsageError):
            keys = [self.node.key(series) for series in range(1, 6)]
            self.node.store.repairs.requeue(
                self.random.choice([*keys, self.node.store.site.study_key("1.2.3", "glioma")])
            )

    def lose_a_result(self):
        for delivery in self.node.store.deliveries.due(limit=1):
            (self.node.spool.result(delivery.key, delivery.version) / "seg.dcm").unlink()
            assert self.node.restart().results_lost == 1

    def restart(self):
        self.node.restart()

    def compare(self):
        seen = self.node.store.snapshot()
        now = {version: State(state) for version, state in rows(self.node, "SELECT id, state FROM versions")}
        assert set(self.before) <= set(now)  # no version is ever lost
        assert sum(seen.states.values()) == len(now)
        assert seen.instances == len(self.sent)
        assert max(self.accepted.values(), default=0) <= 1  # nothing is delivered twice
        assert seen.deliveries[DeliveryState.DELIVERED] == sum(self.accepted.values())
        overtaken = (
            "SELECT COUNT(*) FROM versions v WHERE state = 'superseded' AND NOT EXISTS"
            " (SELECT 1 FROM versions n WHERE n.key = v.key AND n.version > v.version)"
        )
        assert rows(self.node, overtaken) == [(0,)]
        self.before = now


def test_no_walk_loses_anything_or_leaves_the_table_and_together_they_go_everywhere(tmp_path):
    seen = set()
    for seed in range(4):
        walk = Walk(tmp_path / str(seed), seed)
        with walk.node.store.database.writing() as database:
            database.execute("CREATE TABLE seen (before TEXT, after TEXT)")
            database.execute(
                "CREATE TRIGGER remember AFTER UPDATE OF state ON versions"
                " BEGIN INSERT INTO seen VALUES (OLD.state, NEW.state); END"
            )
        for _ in range(250):
            walk.step()
        seen |= {(State(before), State(after)) for before, after in rows(walk.node, "SELECT * FROM seen")}
        walk.node.store.close()
    everywhere = {(before, after) for before, ways in TRANSITIONS.items() for after in ways}
    # A series that is not whole, or claimed too often, has its own tests.
    assert seen <= everywhere
    quarantined = {State.RECEIVING, State.QUEUED, State.JOINED}
    assert everywhere - seen <= {(before, State.QUARANTINED) for before in quarantined}
