"""kill -9 at any point: what was acknowledged is here, nothing is delivered under two identities or recorded twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from medattn_edge.scanner.store.disk import write_durably
from medattn_edge.scanner.store.keys import BYTES, site_key
from medattn_edge.scanner.store.rows import short_hash, split_hashes
from medattn_edge.scanner.store.transitions import DeliveryState, State
from tests.support import ROOT
from tests.support.durable_node import sample

CHILD = ("-m", "tests.support.killed_node")
FAR = 1000  # changes of the disk or the database, that a process may live for


class Killed:
    """Processes on one folder, one after the other, and everything that they told."""

    def __init__(self, folder, seed):
        self.root, self.pacs = folder / "node", folder / "pacs"
        self.pacs.mkdir()
        self.root.mkdir(mode=0o700)
        write_durably(self.root / "site.key", bytes(BYTES))  # so that a seed decides every order
        self.random = random.Random(seed)
        self.acknowledged, self.accepted, self.recorded = set(), defaultdict(set), Counter()
        self.first, self.kills, self.runs = 10_000 * seed, 0, 0

    def run(self, kill_at):
        self.runs += 1
        words = [sys.executable, *CHILD, self.root, self.pacs, self.first + self.runs, kill_at]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode in {-9, 0}, done.stderr
        self.kills += done.returncode == -9
        for line in done.stdout.splitlines():
            match line.split():
                case ["ack", series, number]:
                    self.acknowledged.add((series, int(number)))
                case ["accepted", key, version, uid]:
                    self.accepted[key, version].add(uid)
                case ["recorded", delivery]:
                    self.recorded[delivery] += 1
        if (self.root / "node.sqlite").exists():
            self.check()

    def rows(self, query):
        database = sqlite3.connect(self.root / "node.sqlite")
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    def check(self):
        """What must be true at any moment, before anybody recovers anything."""
        if not self.rows("PRAGMA user_version")[0][0]:
            return  # killed before there were tables, so that nothing was acknowledged
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        on_record = {
            uid: (key, name, size)
            for uid, key, name, size in self.rows("SELECT sop_uid, key, name, bytes FROM instances")
        }
        cleaned = {
            key: split_hashes(hashes)
            for key, hashes in self.rows("SELECT key, hashes FROM gone WHERE reason = 'cleaned_up'")
        }
        latest = {
            key: state for key, state, _ in self.rows("SELECT key, state, MAX(version) FROM versions GROUP BY key")
        }
        site = site_key(self.root / "site.key")
        for series, number in self.acknowledged:
            data, header = sample(series, number)
            key = site.series_key(header.series_uid)
            if short_hash(header.sop_uid) in cleaned.get(key, set()) and header.sop_uid not in on_record:
                continue
            assert on_record[header.sop_uid] == (key, site.object_name(header.sop_uid), len(data))
            name = on_record[header.sop_uid][1]
            places = [folder / name for folder in (self.root / "spool" / key, self.root / "quarantine" / key)]
            found = [path.read_bytes() for path in places if path.is_file()]
            # A clean-up, or the recovery from one, may have been killed between the files and the rows.
            assert found == [data] or (not found and latest[key] in ("delivered", "joined"))
        assert {state for (state,) in self.rows("SELECT state FROM versions")} <= set(State)
        assert {state for (state,) in self.rows("SELECT state FROM deliveries")} <= set(DeliveryState)
        assert max(self.recorded.values(), default=0) <= 1
        assert max(map(len, self.accepted.values()), default=0) <= 1  # one identity per version
        delivered = {str(one) for (one,) in self.rows("SELECT id FROM deliveries WHERE state = 'delivered'")}
        assert set(self.recorded) <= delivered

    def check_the_end(self):
        """What must be true when all work is done."""
        latest = self.rows("SELECT key, state, reason, MAX(version) FROM versions GROUP BY key")
        ends = {("delivered", ""), ("quarantined", "cleaned_up"), ("joined", ""), ("quarantined", "channel_missing")}
        assert {(state, reason) for _, state, reason, _ in latest} <= ends
        studies = {key: state for key, state, *_ in latest if (key,) in self.rows("SELECT key FROM studies")}
        assert set(studies.values()) in ({"delivered"}, {"quarantined"})
        assert {key for key, *_ in latest} == {key for (key,) in self.rows("SELECT key FROM series")}
        delivered = self.rows(
            "SELECT o.sop_uid, d.destination FROM deliveries d JOIN outputs o USING (version_id)"
            " WHERE d.state = 'delivered' AND o.kind = 'seg'"
        )
        assert {(path.name, path.parent.name) for path in self.pacs.glob("*/[!.]*")} == set(delivered)
        files = {(path.parent.name, path.name) for path in self.root.glob("spool/*/*")}
        files |= {(path.parent.name, path.name) for path in self.root.glob("quarantine/*/*.dcm")}
        assert files == set(self.rows("SELECT key, name FROM instances"))
        assert [path for path in self.root.rglob(".*") if not path.name.endswith("-wal")] == []


def survive(folder, kills, seed):
    killed = Killed(folder, seed)
    while killed.kills < kills:
        # Early ones hit the recovery from the kill before.
        killed.run(killed.random.randint(1, FAR if killed.random.random() < 0.7 else 60))
    killed.run(0)
    killed.check_the_end()
    return killed


def test_twenty_kills_lose_nothing_and_deliver_nothing_twice(tmp_path):
    killed = survive(tmp_path, 20, seed=1)
    assert len(killed.acknowledged) > 50
    assert len(killed.recorded) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_hundred_kills_lose_nothing_and_deliver_nothing_twice(tmp_path, seed):
    killed = survive(tmp_path, 100, seed)
    assert len(killed.acknowledged) > 200
    assert len(killed.recorded) > 50
