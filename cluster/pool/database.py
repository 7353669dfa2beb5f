"""The pool's SQLite file: locked, and flushed with every commit.

A commit is on disk when the call returns (WAL mode, ``synchronous=FULL``), or is not there at all. One
process holds the file at a time; the kernel releases the lock when that process ends, however it ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE_NAME = "journal.db"
FORMAT_VERSION = 4

_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE,
    team TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
    base TEXT NOT NULL, priority INTEGER NOT NULL, deadline REAL, task TEXT NOT NULL,
    state TEXT NOT NULL, submitted REAL NOT NULL, changed REAL NOT NULL,
    reason TEXT, ending TEXT,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, failed_at INTEGER NOT NULL,
    result TEXT, error TEXT, mirrored INTEGER NOT NULL, process TEXT,
    UNIQUE (team, name, number)
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE transitions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL,
    job TEXT NOT NULL REFERENCES jobs (id), team TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
    process TEXT
) STRICT;
CREATE TABLE settings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, content TEXT NOT NULL
) STRICT;
CREATE TABLE keys (
    id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, team TEXT NOT NULL, role TEXT NOT NULL,
    created REAL NOT NULL, expires REAL, revoked REAL
) STRICT;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL,
    who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL
) STRICT;
"""


class Database:
    """The SQLite file in ``folder``, created if missing. Not thread-safe.

    Every method raises an ``OSError`` that names the file when it cannot be read or written, as on a full
    disk; nothing has changed then.

    Raises:
        BlockingIOError: when another process holds it.
        ValueError: when it has another format than this version writes.
    """

    def __init__(self, folder: Path, wait_seconds: float = 10.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path = folder / FILE_NAME
        path.touch(mode=0o600)
        self._database = sqlite3.connect(
            path, timeout=wait_seconds, isolation_level=None, check_same_thread=False
        )
        self._database.row_factory = sqlite3.Row
        try:
            version = self._open()
        except OSError as error:
            self._database.close()
            if "locked" not in str(error):
                raise
            raise BlockingIOError(
                f"{path} is in use by another pool: stop it, or choose another dir"
            ) from None

        if version != FORMAT_VERSION:
            self._database.close()
            raise ValueError(f"{path} has format {version}, but this version reads {FORMAT_VERSION}")

    def _open(self) -> int:
        """Lock the file, and make its tables if it is new; its format."""
        # Exclusive before the first access: SQLite then needs no shared memory, which network file systems
        # lack.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self.execute(f"PRAGMA {pragma}")

        with self.transaction():
            [[version]] = self.execute("PRAGMA user_version")
            if version == 0:
                version = FORMAT_VERSION
                for statement in (*_SCHEMA.split(";"), f"PRAGMA user_version={version}"):
                    self.execute(statement)
        return int(version)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def execute(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a statement with its values."""
        try:
            return self._database.execute(statement, values).fetchall()
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:  # the disk, or what is left of the file
            raise OSError(f"{self._path}: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything in the block durably, or nothing."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite itself takes back what finds no room
                self.execute("ROLLBACK")
            raise
