"""The pool's SQLite file: locked, flushed with every commit, and brought to the present format.

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

# Format 3 knew no keys.
_FROM_3 = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, team TEXT NOT NULL, role TEXT NOT NULL,
    created REAL NOT NULL, expires REAL, revoked REAL
) STRICT;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL,
    who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL
) STRICT;
"""
_SCHEMA = (
    """
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
"""
    + _FROM_3
)
# Format 1 had one process per job.
_FROM_1 = """
ALTER TABLE jobs ADD COLUMN process TEXT;
ALTER TABLE transitions ADD COLUMN process TEXT;
"""
# Format 2 kept only the latest settings: they count as having always been in force.
_FROM_2 = """
ALTER TABLE settings RENAME TO last_settings;
CREATE TABLE settings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, content TEXT NOT NULL
) STRICT;
INSERT INTO settings (time, content) SELECT 0, content FROM last_settings;
DROP TABLE last_settings;
"""
_UPGRADES = {0: _SCHEMA, 1: _FROM_1 + _FROM_2 + _FROM_3, 2: _FROM_2 + _FROM_3, 3: _FROM_3}


class Database:
    """The SQLite file in ``folder``, created if missing and upgraded if older. Not thread-safe.

    Every method raises an ``OSError`` that names the file when it cannot be read or written, as on a full
    disk; nothing has changed then.

    Raises:
        BlockingIOError: when another process holds it.
        ValueError: when its format is newer than this version reads.
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

        if version > FORMAT_VERSION:
            self._database.close()
            raise ValueError(f"{path} has format {version}, but this version reads up to {FORMAT_VERSION}")

    def _open(self) -> int:
        """Lock the file and bring it to the present format; the format it had."""
        # Exclusive before the first access: SQLite then needs no shared memory, which network file systems
        # lack.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self.execute(f"PRAGMA {pragma}")

        with self.transaction():
            [[version]] = self.execute("PRAGMA user_version")
            for statement in _UPGRADES.get(version, "").split(";"):
                self.execute(statement)
            if version < FORMAT_VERSION:
                self.execute(f"PRAGMA user_version={FORMAT_VERSION}")
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
