"""Whatever happens to a node: what it acknowledged is delivered, or a person is told; once, whole, and never silently.

`make test-faults` injects at least 1,000 faults and prints how many of which kind.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from medattn_edge.errors import OutputError, UsageError
from medattn_edge.scanner.store.custody import FilesLost
from medattn_edge.scanner.store.disk import Watermark
from medattn_edge.scanner.store.records import ConflictRefused, Output
from medattn_edge.scanner.store.transitions import DeliveryState, State
from tests.support.durable_node import CHANNELS, POLICY, Node, place, sample
from tests.support.faulty_node import Faults, Killed, faulty_system

# Three series that are segmented by themselves, and two that are the channels of a study.
SERIES, NUMBERS, CONTENTS = st.sampled_from([1, 2, 3, *CHANNELS]), st.integers(1, 3), st.integers(0, 3)
UNFINISHED = (State.RECEIVING, State.QUEUED, State.RUNNING, State.SEGMENTED)
Series = int | str
Object = tuple[Series, int]


class NodeUnderFaults(RuleBasedStateMachine):
    """The node, and what its senders and its archive know of it."""

    total: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="medattn-faults-"))
        self.node = Node(self.folder / "node", replace(POLICY, max_replacements=2))
        self.faults, self._stack = Faults(), ExitStack()
        self._stack.enter_context(faulty_system(self.faults))
        self.acknowledged: dict[Object, list[int]] = defaultdict(list)
        self.tried: dict[Object, set[int]] = defaultdict(set)  # sent, acknowledged or not
        self.written: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        self.sent: list[tuple[str, int, bytes]] = []
        self.recorded: Counter[int] = Counter()
        self.told: set[str] = set()  # keys of series of which something was damaged, and that was told
        self.told_at_start = False  # that something was gone or unreadable

    # Faults

    @rule(kind=st.sampled_from(["kill", "full disk"]), after=st.integers(0, 12))
    def something_will_strike(self, kind: str, after: int) -> None:
        self.faults.arm(kind, after)

    @rule(seconds=st.sampled_from([-1e7, -7200.0, -100.0, 3600.0, 1e6]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.node.now = max(1.0, self.node.now + seconds)
        self.faults.struck["clock jump"] += 1

    @rule(number=st.integers(0, 1000), bit=st.integers(0, 7), where=st.sampled_from(["spool", "quarantine", "results"]))
    def a_bit_flips(self, number: int, bit: int, where: str) -> None:
        files = sorted(path for path in (self.node.root / where).rglob("*") if path.is_file())
        if files:
            path = files[number % len(files)]
            data = bytearray(path.read_bytes())
            data[number % len(data)] ^= 1 << bit
            path.write_bytes(data)
            self.faults.struck["bit flip"] += 1

    @rule()
    def the_node_is_killed(self) -> None:
        self.faults.struck["kill"] += 1
        self._restart()

    @rule(full=st.booleans(), replacements=st.integers(0, 3))
    def the_configuration_is_read_again(self, full: bool, replacements: int) -> None:
        quota = 1 if full else None
        policy = replace(POLICY, max_replacements=replacements)
        self.node.policy = policy
        self.node.custody.configure(policy, Watermark(self.node.root, max_used_fraction=1, min_free=0, quota=quota))
        self.faults.struck["reload"] += 1

    # What a node is for

    @rule(series=SERIES, number=NUMBERS, content=CONTENTS, conflict=st.sampled_from(["new_version", "refuse"]))
    def a_sender_stores(self, series: Series, number: int, content: int, conflict: Any) -> None:
        one = (series, number)
        self.tried[one].add(content)
        data, header = sample(series, number, str(content))
        known = self.acknowledged[one][-1:] not in ([], [content])
        try:
            self.node.custody.keep(data, header, "SCANNER", conflict)
        except (OutputError, ConflictRefused):
            self.faults.struck["refusal"] += 1
        except (Killed, OSError):
            self._restart()
        else:
            self.acknowledged[one].append(content)
            self.faults.struck["conflict"] += known

    @rule(seconds=st.sampled_from([1.0, 61.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.node.pass_time(seconds)
        self._survive(self._complete)

    @rule()
    def a_worker_works(self) -> None:
        self._survive(self._work)

    @rule(down=st.booleans())
    def the_archive_is_sent_to(self, down: bool) -> None:
        self._survive(lambda: self._deliver(down=down))

    @precondition(lambda self: self.acknowledged)
    @rule(series=SERIES, study=st.booleans())
    def an_operator_tries_again(self, series: Series, study: bool) -> None:
        key = self.node.study_key if study else self.node.key(series)
        with suppress(UsageError):  # nothing to be tried again
            self._survive(lambda: self.node.custody.requeue(key))

    @rule(series=SERIES, contents=st.lists(CONTENTS, min_size=1, max_size=3), down=st.booleans())
    def a_series_comes_and_is_worked_on(self, series: Series, contents: list[int], down: bool) -> None:
        for number, content in enumerate(contents, start=1):
            self.a_sender_stores(series, number, content, "new_version")
        self.time_passes(1000.0)
        self._survive(self._work)
        self._survive(lambda: self._deliver(down=down))

    @rule(contents=st.tuples(CONTENTS, CONTENTS), down=st.booleans())
    def a_study_comes_and_is_worked_on(self, contents: tuple[int, int], down: bool) -> None:
        for series, content in zip(CHANNELS, contents, strict=True):
            self.a_sender_stores(series, 1, content, "new_version")
        self.time_passes(1000.0)
        self._survive(self._work)
        self._survive(lambda: self._deliver(down=down))

    def _complete(self) -> None:
        self.node.custody.queue_complete()
        self.node.custody.gather_studies(place)

    def _work(self) -> bool:
        custody = self.node.custody
        job = custody.claim("worker-0", lambda job: bool(job.parts) or place(job) is None)
        if job is None:
            return False
        try:
            files = custody.files(job)
        except FilesLost as lost:
            self.told |= {job.key, *(part.key for part in job.parts)}
            custody.quarantine(job, lost.reason, lost.found)
            return True
        assert [part.channel for part in job.parts] in ([], list(CHANNELS))
        result = json.dumps(sorted(path.read_text() for path in files)).encode()
        folder = custody.working_folder(job)
        (folder / "seg.dcm").write_bytes(result)
        self.written[job.key, job.version].add(result)
        custody.record_result(job, folder, [Output("seg", "seg.dcm", "2.25.1")], ["pacs"])
        return True

    def _deliver(self, *, down: bool) -> None:
        custody = self.node.custody
        for delivery in custody.deliveries_due("pacs"):
            if custody.requeue_if_lost(delivery) is not None:
                continue
            if down:
                self.faults.struck["delivery down"] += 1
                custody.fail_delivery(delivery, "no_connection")
                continue
            [path] = custody.delivery_files(delivery)
            data = path.read_bytes()
            assert data in self.written[delivery.key, delivery.version], "a damaged result was delivered"
            self.sent.append((delivery.key, delivery.version, data))
            custody.record_delivered(delivery)
            self.recorded[delivery.id] += 1

    def _survive(self, act: Any) -> None:
        """As the node does: what its disk refuses is tried again, and a thread that ends starts the node again."""
        try:
            act()
        except OutputError:
            pass
        except (Killed, OSError):
            self._restart()

    def _restart(self) -> None:
        self.faults.disarm()
        found = self.node.restart()
        self.told_at_start |= bool(found.gone or found.unreadable)

    # What must be true in the end

    def teardown(self) -> None:
        try:
            self._end_well()
            self._judge()
        finally:
            NodeUnderFaults.total.update(self.faults.struck)
            self._stack.close()
            self.node.store.close()
            shutil.rmtree(self.folder)

    def _end_well(self) -> None:
        """No fault comes any more: everything has to come to an end by itself."""
        self._restart()
        self.node.policy = POLICY
        self.node.custody.configure(POLICY, Watermark(self.node.root, max_used_fraction=1, min_free=0))
        for _ in range(12):
            self.node.pass_time(1000)
            self._complete()
            while self._work():
                pass
            self._deliver(down=False)
        states = self.node.store.snapshot().states
        assert not sum(states[state] for state in UNFINISHED), dict(states)

    def _judge(self) -> None:
        assert all(count == 1 for count in self.recorded.values()), "a delivery was recorded twice"
        snapshot = self.node.store.snapshot(1000)
        latest: dict[str, Any] = {}
        for seen in (*snapshot.recent, *snapshot.quarantined, *snapshot.undelivered):
            if seen.key not in latest or seen.version > latest[seen.key].version:
                latest[seen.key] = seen
        with self.node.store.database.reading() as database:
            replaced = {row["key"] for row in database.execute("SELECT key FROM conflicts")}
        delivered: dict[str, set[str]] = defaultdict(set)
        for key, _, data in self.sent:
            delivered[key] |= set(json.loads(data))
        for (series, number), contents in self.acknowledged.items():
            if not contents:
                continue
            key = self.node.key(series)
            whole = {
                content: sample(series, number, str(content))[0].decode() for content in self.tried[series, number]
            }
            # What becomes of a channel is told of its study.
            known = [key, *([self.node.study_key] if latest[key].state is State.JOINED else [])]
            told = any(latest[one].state in (State.QUARANTINED, State.FAILED) for one in known)
            told = told or any(seen.state is DeliveryState.DEAD for one in known for seen in latest[one].deliveries)
            arrived = delivered[key] | (delivered[self.node.study_key] if series in CHANNELS else set())
            there = {content for content, text in whole.items() if text in arrived}
            unconfirmed = self.tried[series, number] - set(contents)
            assert told or contents[-1] in there or unconfirmed & there, f"lost: {series}.{number}, {dict(latest)}"
            for earlier in contents[:-1]:
                told = earlier in there or key in replaced or key in self.told or self.told_at_start
                assert told or earlier == contents[-1], "replaced without a word"
        sent = {sample(*one, str(content))[0].decode() for one, tried in self.tried.items() for content in tried}
        for texts in delivered.values():
            assert texts <= sent, "what nobody sent was segmented"


def run(examples: int, steps: int = 40) -> Counter[str]:
    NodeUnderFaults.total = Counter()
    run_state_machine_as_test(
        NodeUnderFaults,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),  # a sequence of faults that fails is not made shorter: that takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    return NodeUnderFaults.total


def test_what_is_acknowledged_is_delivered_once_or_told_about_whatever_happens():
    assert sum(run(8).values()) > 50


@pytest.mark.slow
def test_a_thousand_faults_lose_nothing_double_nothing_and_leave_nothing_unsaid(capsys):
    faults = run(150)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in faults.items())
    with capsys.disabled():
        sys.stdout.write(f"\n{sum(faults.values()):,} faults: {kinds}\n")
    assert sum(faults.values()) >= 1000
    assert set(faults) >= {"kill", "full disk", "bit flip", "clock jump", "conflict", "delivery down", "reload"}
