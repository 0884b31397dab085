"""The tables of `node.sqlite`, their versions, and how a database is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from medattn_edge.errors import IntegrityError
from medattn_edge.installation import upgrade_line
from medattn_edge.scanner.store.disk import only_for_owner
from medattn_edge.scanner.store.transitions import BIRTH, DELIVERY_BIRTH, DELIVERY_TRANSITIONS, TRANSITIONS

BUSY_SECONDS: Final = 30.0

# One entry per version of the schema, never changed once released: a database runs those that it has not run.
Migration = tuple[str, ...]
MIGRATIONS: Final[tuple[Migration, ...]] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE series (
            key TEXT PRIMARY KEY,
            series_uid TEXT NOT NULL UNIQUE,
            study_uid TEXT NOT NULL,
            modality TEXT NOT NULL,
            body_part TEXT NOT NULL,
            description TEXT NOT NULL,
            calling_ae TEXT NOT NULL
        ) WITHOUT ROWID""",
        # version: the first version of the series that contains the instance. Every later one does too.
        """CREATE TABLE instances (
            key TEXT NOT NULL REFERENCES series,
            sop_uid TEXT NOT NULL,
            sop_class TEXT NOT NULL,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            version INTEGER NOT NULL,
            received REAL NOT NULL,
            PRIMARY KEY (key, sop_uid),
            UNIQUE (key, name)
        ) WITHOUT ROWID""",
        # The same SOPInstanceUID with other bytes: the first stays, this one lies in quarantine.
        """CREATE TABLE conflicts (
            key TEXT NOT NULL REFERENCES series,
            sop_uid TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            received REAL NOT NULL,
            PRIMARY KEY (key, sop_uid, sha256)
        ) WITHOUT ROWID""",
        # Objects that were not taken and have not come again: their series is not whole.
        """CREATE TABLE refusals (
            key TEXT NOT NULL REFERENCES series,
            sop_uid TEXT NOT NULL,
            reason TEXT NOT NULL,
            refused REAL NOT NULL,
            PRIMARY KEY (key, sop_uid)
        ) WITHOUT ROWID""",
        # Objects that were here once, as 8 bytes of a hash each: a late image by itself makes no whole series.
        """CREATE TABLE gone (
            key TEXT PRIMARY KEY REFERENCES series,
            reason TEXT NOT NULL,
            hashes BLOB NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE versions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL REFERENCES series,
            version INTEGER NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            failures INTEGER NOT NULL DEFAULT 0,
            interruptions INTEGER NOT NULL DEFAULT 0,
            worker TEXT NOT NULL DEFAULT '',
            reason TEXT NOT NULL DEFAULT '',
            detail TEXT NOT NULL DEFAULT '',
            first_received REAL NOT NULL,
            last_received REAL NOT NULL,
            completed REAL,
            claimed REAL,
            segmented REAL,
            finished REAL,
            UNIQUE (key, version)
        )""",
        "CREATE INDEX versions_by_state ON versions (state, completed)",
        """CREATE TABLE outputs (
            version_id INTEGER NOT NULL REFERENCES versions,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            sop_uid TEXT NOT NULL,
            PRIMARY KEY (version_id, name)
        ) WITHOUT ROWID""",
        """CREATE TABLE deliveries (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            version_id INTEGER NOT NULL REFERENCES versions,
            destination TEXT NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            next_try REAL NOT NULL,
            accepted REAL,
            reason TEXT NOT NULL DEFAULT '',
            UNIQUE (version_id, destination)
        )""",
        "CREATE INDEX deliveries_by_state ON deliveries (state, next_try)",
        # Filled from transitions.py whenever a database is opened; the triggers hold every process to it.
        """CREATE TABLE transitions (
            kind TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, PRIMARY KEY (kind, before, after)
        ) WITHOUT ROWID""",
        *(
            trigger
            for table in ("versions", "deliveries")
            for trigger in (
                f"""CREATE TRIGGER {table}_change BEFORE UPDATE OF state ON {table}
                WHEN NOT EXISTS (
                    SELECT 1 FROM transitions WHERE kind = '{table}' AND before = OLD.state AND after = NEW.state)
                BEGIN SELECT RAISE(ABORT, 'transition refused'); END""",  # noqa: S608 (two tables of ours)
                f"""CREATE TRIGGER {table}_birth BEFORE INSERT ON {table}
                WHEN NOT EXISTS (SELECT 1 FROM transitions WHERE kind = '{table}' AND before = '' AND after = NEW.state)
                BEGIN SELECT RAISE(ABORT, 'transition refused'); END""",  # noqa: S608
            )
        ),
    ),
    (
        # What became of the other contents, which version they opened, and how often; refusals have no sha256, so
        # that whoever sends a thousand contents under one UID fills one row.
        "ALTER TABLE conflicts ADD COLUMN outcome TEXT NOT NULL DEFAULT 'first_kept'",
        "ALTER TABLE conflicts ADD COLUMN version INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE conflicts ADD COLUMN count INTEGER NOT NULL DEFAULT 1",
        # Of the whole file: what is read again later is compared with it. Empty: of before, hashed at the next start.
        "ALTER TABLE instances ADD COLUMN file_sha256 TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE outputs ADD COLUMN sha256 TEXT NOT NULL DEFAULT ''",
    ),
    (
        # Storage commitment: what peers have asked, until they have their answer and for a while after.
        """CREATE TABLE commitment_requests (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            requester TEXT NOT NULL,
            transaction_uid TEXT NOT NULL,
            duplicate INTEGER NOT NULL,
            instances TEXT NOT NULL,
            received REAL NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('waiting', 'answered', 'dead')),
            attempts INTEGER NOT NULL DEFAULT 0,
            next_try REAL NOT NULL,
            ended REAL,
            committed INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0,
            reason TEXT NOT NULL DEFAULT ''
        )""",
        "CREATE INDEX commitment_requests_by_state ON commitment_requests (state, requester, next_try)",
        "CREATE INDEX commitment_requests_by_uid ON commitment_requests (transaction_uid)",
        # Files that this node has promised to keep, and until when: written before the promise is given.
        """CREATE TABLE commitments (
            key TEXT NOT NULL REFERENCES series,
            name TEXT NOT NULL,
            keep_until REAL NOT NULL,
            PRIMARY KEY (key, name)
        ) WITHOUT ROWID""",
        "CREATE INDEX instances_by_uid ON instances (sop_uid)",
    ),
    (
        # Jobs of studies, for networks of several channels. Each is filed like a series, under a key of its own, and
        # has versions; waits_since: when a channel of it came last.
        """CREATE TABLE studies (
            key TEXT PRIMARY KEY REFERENCES series,
            model TEXT NOT NULL,
            waits_since REAL NOT NULL
        ) WITHOUT ROWID""",
        # The series that are channels of a study, whichever version of them.
        "CREATE TABLE members (key TEXT PRIMARY KEY REFERENCES series, study TEXT NOT NULL REFERENCES studies)"
        " WITHOUT ROWID",
        # What a version of a study is made of, once it was complete.
        """CREATE TABLE parts (
            version_id INTEGER NOT NULL REFERENCES versions,
            place INTEGER NOT NULL,
            channel TEXT NOT NULL,
            key TEXT NOT NULL REFERENCES series,
            version INTEGER NOT NULL,
            PRIMARY KEY (version_id, place)
        ) WITHOUT ROWID""",
        "CREATE INDEX series_by_study ON series (study_uid)",
    ),
    (
        # Millilitres of every label of a result, as a JSON object; empty: of before, or none.
        "ALTER TABLE versions ADD COLUMN volumes TEXT NOT NULL DEFAULT ''",
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that is durable at every commit and waits for other processes; transactions are begun by hand."""
    only_for_owner(path)  # before SQLite makes it by the umask; what it makes beside it has the same mode
    # Closed by whichever thread closes the store, hence check_same_thread.
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        database.close()
        raise
    return database


def migrate(
    database: sqlite3.Connection, path: Path, fingerprint: str, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the tables up to date, inside the caller's transaction.

    Args:
        database: with a transaction begun.
        path: of its file, for errors.
        fingerprint: of the site key that the series keys in the database are made with.
        migrations: the statements of every version of the tables, the first version first.

    Raises:
        IntegrityError: for a database of a newer medattn-edge, or of another site key.
    """
    [version] = database.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise IntegrityError(
            f"{path} was written by a newer medattn-edge: its tables have the version {version}",
            expected=f"at most {len(migrations)}",
            hint=upgrade_line(),
        )
    for statements in migrations[version:]:
        for statement in statements:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {len(migrations)}")
    database.execute("INSERT OR IGNORE INTO meta VALUES ('site_key', ?)", (fingerprint,))
    [stored] = database.execute("SELECT value FROM meta WHERE name = 'site_key'").fetchone()
    if stored != fingerprint:
        raise IntegrityError(
            f"{path} was written with another site key",
            expected=f"the key with the fingerprint {stored}, not {fingerprint}",
            hint="put site.key back from a backup",
        )
    wanted = {("versions", "", BIRTH), ("deliveries", "", DELIVERY_BIRTH)}
    wanted |= {("versions", before, after) for before, ways in TRANSITIONS.items() for after in ways}
    wanted |= {("deliveries", before, after) for before, ways in DELIVERY_TRANSITIONS.items() for after in ways}
    if {tuple(row) for row in database.execute("SELECT kind, before, after FROM transitions")} != wanted:
        database.execute("DELETE FROM transitions")
        database.executemany("INSERT INTO transitions VALUES (?, ?, ?)", sorted(wanted))
