"""A node seen from outside by its folder, its names and its keys; nothing is made by looking."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from medattn_edge.errors import HostError, IntegrityError, OutputError, UsageError
from medattn_edge.scanner.store.disk import locked
from medattn_edge.scanner.store.keys import SiteKey, site_key
from medattn_edge.scanner.store.layout import Layout
from medattn_edge.scanner.store.outside import check_has_run, is_held, site_of, snapshot_of
from medattn_edge.scanner.store.schema import MIGRATIONS
from tests.support.durable_node import Node

KEY = "0123456789abcdef0123456789abcdef"


def test_what_a_node_has_on_record_is_seen_without_changing_anything(node: Node) -> None:
    for series in range(22):
        node.keep(series, 1)
    seen = snapshot_of(node.root)
    assert (seen.instances, len(seen.recent)) == (22, 20)
    assert [one.key for one in snapshot_of(node.root, 2).recent] == [node.key(21), node.key(20)]
    assert site_of(node.root) == node.store.site
    check_has_run(node.root)


def test_a_folder_in_which_no_node_has_run_is_told_and_stays_empty(tmp_path: Path) -> None:
    for act in (snapshot_of, site_of, check_has_run):
        with pytest.raises(UsageError, match=r"has no (node.sqlite|site.key)") as raised:
            act(tmp_path)
        assert raised.value.hint == "medattn-edge node --config FILE"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["node.sqlite", "site.key"])
def test_each_of_the_two_files_of_a_node_is_needed(node: Node, gone: str) -> None:
    (node.root / gone).unlink()
    with pytest.raises(UsageError, match=f"has no {gone}"):
        check_has_run(node.root)


def test_what_cannot_be_read_is_a_matter_of_the_host_and_what_is_damaged_of_the_file(node: Node) -> None:
    node.store.close()
    path = node.root / "node.sqlite"
    for step in (-1, 1):
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + step}")
        database.close()
        with pytest.raises(IntegrityError, match=f"tables of the version {len(MIGRATIONS) + step}") as raised:
            snapshot_of(node.root)
        assert raised.value.expected == f"the version {len(MIGRATIONS)}"
    path.write_bytes(b"no database" * 999)
    with pytest.raises(IntegrityError, match="is damaged"):
        snapshot_of(node.root)
    for one in node.root.glob("node.sqlite*"):
        one.unlink()
    path.mkdir()
    with pytest.raises(HostError, match="cannot be read: Is a directory"):
        snapshot_of(node.root)


def test_whether_a_node_runs_is_seen_by_its_lock(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with locked(Layout(tmp_path).lock, wait=False):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_everything_in_a_root_has_its_name(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    names = {
        "database": "node.sqlite",
        "site_key": "site.key",
        "lock": "node.lock",
        "spool": "spool",
        "quarantine": "quarantine",
        "objects": "quarantine/objects",
        "results": "results",
        "dead_letters": "dead",
        "watched": "watched.json",
        "canaries": "canary.json",
        "releases": "releases.json",
        "canary_lock": "canary.lock",
    }
    assert {name: str(getattr(layout, name).relative_to(tmp_path)) for name in names} == names
    assert layout.result(KEY, 2) == tmp_path / "results" / KEY / "v2"
    assert layout.working_folder(KEY, 2, 3) == tmp_path / "results" / KEY / ".v2-3"
    assert layout.dead_letter(KEY, 2, "pacs") == tmp_path / "dead" / f"{KEY}-v2-pacs"


# Keys


def test_keys_are_those_of_the_secret_and_of_what_they_stand_for() -> None:
    """Written down: another key would file every series anew."""
    site = SiteKey(bytes(range(32)))
    assert site.series_key("1.2.3") == "0fef5b7fa385322496aad0b4e3e80815"
    assert site.study_key("1.2.3", "glioma") == "20132558c8f7d2d8906ad5a480893078"
    assert site.object_name("1.2.3") == "66073c311e3330a32c9bab620d188a47.dcm"
    assert site.content_name("1.2.3", "5" * 64) == "a1ac9f909ba616273b4f6b41d282f222.dcm"
    assert site.fingerprint == "34fa527b3d233f12"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(tmp_path: Path, length: int) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(bytes(length))
    path.chmod(0o600)
    with pytest.raises(IntegrityError, match=f"has {length} bytes"):
        site_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601])
def test_a_key_is_for_its_owner_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    first = site_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert site_key(path) == first
    assert [one.name for one in tmp_path.iterdir()] == ["site.key"]
    path.chmod(mode)
    with pytest.raises(HostError, match=f"has the mode {mode:04o}") as raised:
        site_key(path)
    assert raised.value.hint == f"chmod 600 {path}"


def test_the_database_is_for_its_owner_alone_and_closed_databases_say_so(node: Node) -> None:
    assert {stat.S_IMODE(one.stat().st_mode) for one in node.root.glob("node.sqlite*")} == {0o600}
    before = len(list(Path("/proc/self/fd").iterdir()))
    node.store.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < before
    for use in (node.store.database.reading, node.store.database.writing):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"), use():
            pass


def test_a_wrong_statement_is_a_bug_and_a_lock_that_is_held_for_long_is_not(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"), node.store.database.reading() as database:
        database.execute("SELEKT 1")
    with pytest.raises(sqlite3.IntegrityError), node.store.database.writing() as database:
        database.execute("INSERT INTO meta VALUES ('site_key', 'again')")
    other = sqlite3.connect(node.root / "node.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with node.store.database.reading() as database:
        database.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(OutputError, match="database is locked") as raised, node.store.database.writing():
        pass
    assert raised.value.hint == f"df -h {node.root}"
    other.execute("ROLLBACK")
    other.close()
    with node.store.database.writing():
        pass
