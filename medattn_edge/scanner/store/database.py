"""One SQLite file, a connection for each thread, and every change a transaction of its own."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medattn_edge.errors import IntegrityError, OutputError, quoted
from medattn_edge.scanner.store.schema import MIGRATIONS, Migration, connect, migrate

_SQLITE_ERROR = 1  # <sqlite3.h>


class _Connection:
    """Closed with the thread that it belongs to, or with the database."""

    def __init__(self, path: Path) -> None:
        self.database = connect(path)

    def close(self) -> None:
        self.database.close()

    def __del__(self) -> None:
        if hasattr(self, "database"):
            self.close()


class Database:
    """Several threads and processes may use it. Raises IntegrityError for a file that is no database of ours."""

    def __init__(self, path: Path, fingerprint: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        # Waiting threads take turns here; SQLite's own wait, for other processes, is a lottery.
        self._turn = threading.RLock()
        self._closed = False
        try:
            with self.writing() as database:
                migrate(database, self.path, fingerprint, migrations)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that sees no other's half, is durable when the block ends, and undone when it raises."""
        with self._turn, self._translated():
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view, which waits for nobody."""
        with self._translated():
            database = self._connection()
            database.execute("BEGIN")
            try:
                yield database
            finally:
                database.execute("ROLLBACK")

    def check(self) -> None:
        """Look through the whole file. Raises IntegrityError for a damaged one."""
        with self._translated():
            [found] = self._connection().execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise self.damaged(str(found).splitlines()[0])

    def damaged(self, what: object) -> IntegrityError:
        """The error for a file that is not what medattn-edge wrote, with what to do."""
        return IntegrityError(
            f"{self.path} is damaged: {what}",
            expected="a database that medattn-edge wrote",
            hint=f"mv {quoted(self.path)} {quoted(f'{self.path}.damaged')} and its -wal;"
            " the spool is read again at the start",
        )

    def close(self) -> None:
        """Close every thread's connection; later calls raise sqlite3.ProgrammingError."""
        with self._turn:
            self._closed = True
            for connection in list(self._all):
                connection.close()

    def _connection(self) -> sqlite3.Connection:
        held: _Connection | None = getattr(self._local, "connection", None)
        if held is None:
            if self._closed:
                raise sqlite3.ProgrammingError("the database is closed")
            held = self._local.connection = _Connection(self.path)
            self._all.add(held)
        return held.database

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A full disk and a damaged file are ours to tell; a constraint or a wrong statement is a bug."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.OperationalError as error:
            if _is_of_a_statement(error):
                raise
            raise OutputError(
                f"cannot use {self.path}: {error}",
                expected="free space, permission to write and nobody who holds the file for long",
                hint=f"df -h {quoted(self.path.parent)}",
            ) from error
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error


def _is_of_a_statement(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite refused what it was asked (SQLITE_ERROR), and not the disk; Python 3.10 has its words alone."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return str(error).startswith(("no such ", "near ", "table ", "incomplete input"))
    return code & 0xFF == _SQLITE_ERROR
