"""The database: durable, shared by threads, and held to the table of transitions by itself."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading

import pytest

from medattn_edge.errors import IntegrityError, OutputError
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.records import Fate, Policy
from medattn_edge.scanner.store.schema import MIGRATIONS
from medattn_edge.scanner.store.store import Store
from medattn_edge.scanner.store.transitions import (
    DELIVERY_TRANSITIONS,
    TRANSITIONS,
    DeliveryState,
    State,
    TransitionRefused,
    check,
    check_delivery,
)


def rows(node, query, *values):
    with node.store.database.reading() as database:
        return [tuple(row) for row in database.execute(query, values)]


def states(node):
    return [State(state) for (state,) in rows(node, "SELECT state FROM versions ORDER BY id")]


def test_the_database_itself_refuses_every_other_transition(node):
    node.job()
    for state in State:
        with node.store.database.writing() as database:
            database.execute("DROP TRIGGER IF EXISTS versions_change")
            database.execute("UPDATE versions SET state = ?", (state,))
            [create] = [s for s in MIGRATIONS[0] if "TRIGGER versions_change" in s]
            database.execute(create)
        for after in State:
            allowed = after in TRANSITIONS[state]
            with contextlib.nullcontext() if allowed else pytest.raises(TransitionRefused):
                check(state, after)
            with contextlib.suppress(_Undo), node.store.database.writing() as database:
                if allowed:
                    database.execute("UPDATE versions SET state = ?", (after,))
                else:
                    with pytest.raises(sqlite3.IntegrityError, match="transition refused"):
                        database.execute("UPDATE versions SET state = ?", (after,))
                raise _Undo


def test_a_delivery_ends_once(node):
    for before in DeliveryState:
        for after in DeliveryState:
            allowed = after in DELIVERY_TRANSITIONS[before]
            with contextlib.nullcontext() if allowed else pytest.raises(TransitionRefused):
                check_delivery(before, after)


class _Undo(Exception):
    pass


def test_a_transaction_that_fails_changes_nothing(node):
    def broken(_):
        raise _Undo

    node.keep(1, 1)
    node.pass_time(60)
    node.custody.queue_complete()
    with pytest.raises(_Undo):
        node.store.jobs.claim("a", broken)
    assert states(node) == [State.QUEUED]


def test_the_database_is_durable_at_every_commit(node):
    with node.store.database.reading() as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert database.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_database_of_a_newer_version_or_another_site_is_not_touched(node, tmp_path):
    site = node.store.site
    with pytest.raises(IntegrityError, match="another site key"):
        Store(node.root / "node.sqlite", site_key(tmp_path / "other.key"))
    with node.store.database.writing() as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(IntegrityError, match="newer medattn-edge"):
        Store(node.root / "node.sqlite", site)


def test_a_database_of_an_older_version_is_brought_up_to_date_with_what_it_holds(node):
    node.keep(1, 1)
    node.store.close()
    node.migrations = (*MIGRATIONS, ("ALTER TABLE versions ADD COLUMN model TEXT NOT NULL DEFAULT ''",))
    node.open()
    assert rows(node, "SELECT key, model FROM versions") == [(node.key(1), "")]
    assert rows(node, "PRAGMA user_version") == [(len(MIGRATIONS) + 1,)]


def test_a_damaged_database_says_what_to_do(tmp_path):
    path = tmp_path / "node.sqlite"
    path.write_bytes(b"no database, " * 1000)
    with pytest.raises(IntegrityError, match="spool is read again"):
        Store(path, site_key(tmp_path / "site.key"))


def test_a_disk_without_room_for_a_row_is_an_output_error(node):
    with node.store.database.reading() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    node.store.database._connection().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutputError, match="full"):
        [node.keep(1, number) for number in range(1000)]
    node.store.database._connection().execute("PRAGMA max_page_count = 1000000")
    count = node.store.series.usage(node.key(1))[0]
    assert 0 < count < 1000
    node.pass_time(60)
    assert (
        node.custody.queue_complete().queued == ()
    )  # what was not taken is remembered, though no row could be written
    assert states(node) == [State.QUARANTINED]
    assert node.keep(1, count).fate is Fate.NEW
    node.pass_time(60)
    assert node.custody.queue_complete().queued == (node.key(1),)


def test_threads_receive_claim_and_look_at_once_and_nothing_is_counted_twice(node):
    node.policy = node.store.policy = Policy(quiet_s=0, max_wait_s=0)
    claimed, errors = [], []

    def guarded(work):
        def run():
            try:
                work()
            except Exception as error:  # noqa: BLE001 - told to the test
                errors.append(error)

        return threading.Thread(target=run)

    def receive(sender):
        for number in range(10):
            node.keep(number % 4, f"{sender}{number}")
            node.keep(0, "shared")

    def work():
        for _ in range(15):
            node.custody.queue_complete()
            job = node.custody.claim("worker")
            if job:
                claimed.append((job.id, job.attempt))
                node.segment(job, "pacs")

    def look():
        for _ in range(30):
            node.store.snapshot()

    threads = [guarded(lambda s=s: receive(s)) for s in "abc"] + [guarded(work), guarded(work), guarded(look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(claimed) == len(set(claimed))
    assert node.store.snapshot().instances == 31
    assert len(node.store.database._all) <= 1  # a thread that ended has closed its connection


def test_a_closed_store_says_so(node):
    node.store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        node.store.snapshot()


def test_a_process_that_comes_and_goes_leaves_the_database_to_those_who_have_it_open(node):
    """Were a lock of this process lost, the other one would take itself for the last, and remove the log of changes."""
    node.job()
    thread = threading.Thread(target=states, args=(node,))  # a connection more, which opens the file once again
    thread.start()
    thread.join()
    path = node.store.database.path
    program = (
        "import sys; from pathlib import Path; from medattn_edge.scanner.store.schema import connect; "
        "database = connect(Path(sys.argv[1])); "
        "assert database.execute('SELECT COUNT(*) FROM versions').fetchone()[0] == 1; database.close()"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.with_name(path.name + "-wal").exists()
    assert len(states(node)) == 1
