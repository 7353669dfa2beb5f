"""The pool's durable state: a SQLite file that records every job and change of state before it is acted on.

A commit is on disk when the call returns (WAL mode, ``synchronous=FULL``), or is not there at all. One
process holds the file at a time; the kernel releases the lock when that process ends, however it ends.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.pool.job import ENDED, JobRecord, State, Transition, may_follow

FILE_NAME = "journal.db"
FORMAT_VERSION = 3

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
"""
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
_UPGRADES = {0: _SCHEMA, 1: _FROM_1 + _FROM_2, 2: _FROM_2}


class Journal:
    """The pool's journal in ``folder``, created if missing and upgraded if older. Not thread-safe.

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
            self._execute(f"PRAGMA {pragma}")

        with self._transaction():
            [[version]] = self._execute("PRAGMA user_version")
            for statement in _UPGRADES.get(version, "").split(";"):
                self._execute(statement)
            if version < FORMAT_VERSION:
                self._execute(f"PRAGMA user_version={FORMAT_VERSION}")
        return int(version)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def settings(self) -> list[tuple[float, dict[str, Any]]]:
        """All settings ever kept, oldest first, each with the time since which it was in force.

        What is no JSON object is left out.
        """
        rows = self._execute("SELECT time, content FROM settings ORDER BY number")
        contents = [(row["time"], _parsed(row["content"])) for row in rows]
        return [(since, content) for since, content in contents if content is not None]

    def keep_settings(self, content: dict[str, Any], at: float) -> None:
        """Store settings for the next start of the pool."""
        with self._transaction():
            self._execute("INSERT INTO settings (time, content) VALUES (?, ?)", at, json.dumps(content))

    def submit(
        self,
        task: dict[str, Any],
        token: str,
        *,
        deadline: float | None = None,
        again: bool = False,
        reason: str | None = None,
    ) -> JobRecord:
        """Queue a task. Idempotent: the same token returns the same job.

        Args:
            task: the task, with ``team``, ``name``, ``base`` and ``priority``.
            token: unique key of the submission.
            deadline: seconds since the epoch.
            again: reuse the name of a job that has ended. Without it a name is reused only on another base.
            reason: who asked for it, in words, for the job's history.

        Raises:
            ValueError: when the team already has a job of that name.
        """
        team, name, base = task["team"], task["name"], task["base"]
        with self._transaction():
            known = self._rows("WHERE token = ?", token)
            if known:
                return known[0]

            number = self.free_number(team, name, base, again=again)
            now, job = time.time(), f"{team}/{name}/{number}"
            self._execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, NULL, NULL, 0, 0, -1, "
                "NULL, NULL, 0, NULL)",
                *(job, token, team, name, number, base, task["priority"], deadline),
                *(json.dumps(task), now, now),
            )
            self._note(now, job, team, "queued", reason)
        return self.job(job)

    def free_number(self, team: str, name: str, base: str, *, again: bool = False) -> int:
        """The number that the next job of this name would get.

        Raises:
            ValueError: as for :meth:`submit`.
        """
        before = self._rows("WHERE team = ? AND name = ? ORDER BY number DESC LIMIT 1", team, name)
        if not before:
            return 1
        [last] = before
        if last.state not in ENDED or not (again or last.base != base):
            raise ValueError(
                f"name: team {team} has a job {name!r} already ({last.state}): choose another name, "
                "or use odeformer finetune retry if it failed"
            )
        return last.number + 1

    def move(
        self,
        job: str,
        state: State,
        reason: str | None = None,
        *,
        at: float | None = None,
        process: str | None = None,
        **changes: Any,
    ) -> JobRecord:
        """Change a job's state.

        Args:
            job: the job's id.
            state: the new state.
            reason: the reason, in words.
            at: when it happened; now when not given. A clock that was set back counts as standing still: no
                change is earlier than the job's last one.
            process: the process that the job runs in from now on; jobs may share one.
            changes: new values of ``attempts``, ``failures``, ``failed_at``, ``result`` or ``error``.

        Raises:
            ValueError: when the change is not allowed.
        """
        with self._transaction():
            before = self.job(job)
            if not may_follow(before.state, state):
                raise ValueError(f"job {job} is {before.state} and cannot become {state}")
            now = max(before.changed, time.time() if at is None else at)
            changes |= {"state": state, "changed": now, "reason": reason, "ending": None, "process": process}
            self._update(job, changes)
            self._note(now, job, before.team, state, reason, process)
        return self.job(job)

    def set_ending(self, job: str, why: str) -> None:
        """Record why a running job has been told to stop; it stays running until it has."""
        with self._transaction():
            self._update(job, {"ending": why})

    def job(self, job: str) -> JobRecord:
        """A job by its id.

        Raises:
            ValueError: when there is no job with that id.
        """
        rows = self._rows("WHERE id = ?", job)
        if not rows:
            raise ValueError(f"no job {job!r} in the pool")
        return rows[0]

    def jobs(self, *states: State) -> list[JobRecord]:
        """All jobs, or those in the given states, in order of submission."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks}) " if states else ""
        return self._rows(f"{where}ORDER BY submitted, rowid", *states)

    def knows(self, token: str) -> bool:
        """Whether a submission with this token has been accepted."""
        return bool(self._rows("WHERE token = ?", token))

    def count(self, team: str, state: State) -> int:
        """Number of a team's jobs in a state."""
        [[count]] = self._execute("SELECT count(*) FROM jobs WHERE team = ? AND state = ?", team, state)
        return int(count)

    def transitions(self, job: str | None = None) -> list[Transition]:
        """All changes of state, of one job or of all, in the order of writing."""
        query, values = ("", ()) if job is None else ("WHERE job = ? ", (job,))
        rows = self._execute(f"SELECT * FROM transitions {query}ORDER BY number", *values)
        return [Transition(*row) for row in rows]

    def shared(self, process: str) -> list[str]:
        """Ids of the jobs that were started in a process."""
        rows = self._execute("SELECT job FROM transitions WHERE process = ?", process)
        return [row["job"] for row in rows]

    def unmirrored(self) -> list[tuple[JobRecord, int]]:
        """Jobs whose last transition MLflow does not know yet, with that transition's number."""
        query = (
            "SELECT job, max(transitions.number) AS last FROM transitions JOIN jobs ON jobs.id = job "
            "GROUP BY job HAVING last > mirrored"
        )
        return [(self.job(row["job"]), row["last"]) for row in self._execute(query)]

    def mirrored(self, job: str, transition: int) -> None:
        """Record that MLflow knows a job's transitions up to that number."""
        with self._transaction():
            self._update(job, {"mirrored": transition})

    def _note(
        self, now: float, job: str, team: str, state: State, reason: str | None, process: str | None = None
    ) -> None:
        self._execute(
            "INSERT INTO transitions (time, job, team, state, reason, process) VALUES (?, ?, ?, ?, ?, ?)",
            *(now, job, team, state, reason, process),
        )

    def _update(self, job: str, changes: dict[str, Any]) -> None:
        values = {key: json.dumps(value) if key == "result" else value for key, value in changes.items()}
        names = ", ".join(f"{key} = ?" for key in values)
        self._execute(f"UPDATE jobs SET {names} WHERE id = ?", *values.values(), job)

    def _rows(self, rest: str, *values: Any) -> list[JobRecord]:
        return [_record(row) for row in self._execute(f"SELECT * FROM jobs {rest}", *values)]

    def _execute(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        try:
            return self._database.execute(statement, values).fetchall()
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:  # the disk, or what is left of the file
            raise OSError(f"{self._path}: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write everything in the block durably, or nothing."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite itself takes back what finds no room
                self._execute("ROLLBACK")
            raise


def _record(row: sqlite3.Row) -> JobRecord:
    content = {key: row[key] for key in row.keys() if key not in ("token", "mirrored")}  # noqa: SIM118
    content["task"] = _parsed(row["task"]) or {}
    content["result"] = _parsed(row["result"])
    return JobRecord(**content)


def _parsed(text: str | None) -> dict[str, Any] | None:
    """A JSON object; ``None`` for anything else."""
    try:
        content = json.loads(text or "null")
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
