"""The pool's memory: a SQLite file with every job and every change of its state, before it is acted on.

A commit is on the disk when the call returns (WAL mode, ``synchronous=FULL``), or there is nothing of it. One
process holds the file at a time: its lock is the kernel's, and goes with the process, however that ends.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.pool.states import ENDED, State, may_follow

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
_FROM_1 = """
ALTER TABLE jobs ADD COLUMN process TEXT;
ALTER TABLE transitions ADD COLUMN process TEXT;
"""
"""Until then every job had a process of its own."""
_FROM_2 = """
ALTER TABLE settings RENAME TO last_settings;
CREATE TABLE settings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, content TEXT NOT NULL
) STRICT;
INSERT INTO settings (time, content) SELECT 0, content FROM last_settings;
DROP TABLE last_settings;
"""
"""Until then only the last settings were known: they count as having been in force all the time."""


@dataclass(frozen=True)
class Job:
    """A job as the journal knows it. Times are in seconds since the epoch."""

    id: str
    """``<team>/<name>/<number>``: the number counts the jobs of that name."""
    team: str
    name: str
    number: int
    base: str
    priority: int
    deadline: float | None
    task: dict[str, Any]
    state: State
    submitted: float
    changed: float
    reason: str | None
    """Why it is in that state, where there is more to say."""
    ending: str | None
    """Of a running job: why it has been asked to end."""
    attempts: int
    failures: int
    """Processes of it that died since it last got further."""
    failed_at: int
    """The optimizer step of its last checkpoint when that happened last."""
    result: dict[str, Any] | None
    error: str | None
    process: str | None = None
    """Of a running job: the name of its process, which it may share with others."""


class Transition(NamedTuple):
    """A change of state, numbered in the order they were written."""

    number: int
    time: float
    job: str
    team: str
    state: State
    reason: str | None
    process: str | None = None
    """Of one to running: the process that the job has since then, alone where none is named."""


class Journal:
    """The journal of the pool in ``folder``, made if there is none. For one thread at a time.

    Raises:
        BlockingIOError: when another process has it.
        ValueError: when it is of a newer format. One of an older is made one of this.
    """

    def __init__(self, folder: Path, wait_seconds: float = 10.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        self._database = sqlite3.connect(
            path, timeout=wait_seconds, isolation_level=None, check_same_thread=False
        )
        self._database.row_factory = sqlite3.Row
        try:
            # Exclusive before the first access: then no memory is shared, which network file systems lack.
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                self._database.execute(f"PRAGMA {pragma}")
            with self._transaction():
                [version] = self._database.execute("PRAGMA user_version").fetchone()
                for statement in {0: _SCHEMA, 1: _FROM_1 + _FROM_2, 2: _FROM_2}.get(version, "").split(";"):
                    self._database.execute(statement)
                if version < FORMAT_VERSION:
                    self._database.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        except sqlite3.OperationalError as error:
            self._database.close()
            if "locked" not in str(error):
                raise OSError(f"{path}: {error}") from None
            raise BlockingIOError(
                f"{path} is in use by another pool: stop it, or choose another dir"
            ) from None
        if version > FORMAT_VERSION:
            self._database.close()
            raise ValueError(f"{path} is of format {version}, and this version reads {FORMAT_VERSION}")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def settings(self) -> list[tuple[float, dict[str, Any]]]:
        """What was kept, each with the time since which it is in force, the latest last."""
        rows = self._database.execute("SELECT time, content FROM settings ORDER BY number")
        return [(row["time"], dict(json.loads(row["content"]))) for row in rows]

    def keep_settings(self, content: dict[str, Any], at: float) -> None:
        """Keep what the pool is to know when it starts again."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO settings (time, content) VALUES (?, ?)", (at, json.dumps(content))
            )

    def submit(
        self, task: dict[str, Any], token: str, *, deadline: float | None = None, again: bool = False
    ) -> Job:
        """Queue a task. The same token again gives the same job: an answer may get lost on its way.

        Args:
            task: with ``team``, ``name``, ``base`` and ``priority``.
            token: of the submission, unique.
            deadline: in seconds since the epoch.
            again: let a name be used again once its job has ended. Otherwise only on another base, for
                which the same adapter is made anew.

        Raises:
            ValueError: when the team has a job of that name already.
        """
        team, name, base = task["team"], task["name"], task["base"]
        with self._transaction():
            known = self._rows("WHERE token = ?", token)
            if known:
                return known[0]
            number = self.free_number(team, name, base, again=again)
            now, job = time.time(), f"{team}/{name}/{number}"
            self._database.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, NULL, NULL, 0, 0, -1, "
                "NULL, NULL, 0, NULL)",
                (
                    *(job, token, team, name, number, base, task["priority"], deadline),
                    *(json.dumps(task), now, now),
                ),
            )
            self._note(now, job, team, "queued", None)
        return self.job(job)

    def free_number(self, team: str, name: str, base: str, *, again: bool = False) -> int:
        """The number that a job of this name would have.

        Raises:
            ValueError: as :meth:`submit`.
        """
        before = self._rows("WHERE team = ? AND name = ? ORDER BY number DESC LIMIT 1", team, name)
        if not before:
            return 1
        [last] = before
        if last.state not in ENDED or not (again or last.base != base):
            raise ValueError(
                f"name: team {team} has a job {name!r} already ({last.state}): choose another name, "
                "or try it again with odeformer finetune retry if it failed"
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
    ) -> Job:
        """Put a job into another state.

        Args:
            job: its id.
            state: the new one.
            reason: in words.
            at: when it happened, if it is noted later.
            process: that it has from now on; jobs that run in the same one share it.
            changes: of ``attempts``, ``failures``, ``failed_at``, ``result``, ``error``.

        Raises:
            ValueError: when the one state may not follow the other.
        """
        with self._transaction():
            before = self.job(job)
            if not may_follow(before.state, state):
                raise ValueError(f"job {job} is {before.state}: it cannot be {state} now")
            now = time.time() if at is None else at
            changes |= {"state": state, "changed": now, "reason": reason, "ending": None, "process": process}
            self._update(job, changes)
            self._note(now, job, before.team, state, reason, process)
        return self.job(job)

    def ask_to_end(self, job: str, why: str | None) -> None:
        """Note that a running job is asked to end, and why; it stays running until it has."""
        with self._transaction():
            self._update(job, {"ending": why})

    def job(self, job: str) -> Job:
        """One job.

        Raises:
            ValueError: when there is none of that id.
        """
        found = self._rows("WHERE id = ?", job)
        if not found:
            raise ValueError(f"no job {job!r} in the pool")
        return found[0]

    def jobs(self, *states: State) -> list[Job]:
        """All jobs, or those in certain states, in the order in which they were submitted."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks}) " if states else ""
        return self._rows(f"{where}ORDER BY submitted, rowid", *states)

    def knows(self, token: str) -> bool:
        """Whether a submission has been taken."""
        return bool(self._rows("WHERE token = ?", token))

    def count(self, team: str, state: State) -> int:
        """How many jobs of a team are in a state."""
        query = "SELECT count(*) FROM jobs WHERE team = ? AND state = ?"
        return int(self._database.execute(query, (team, state)).fetchone()[0])

    def transitions(self, job: str | None = None) -> list[Transition]:
        """All changes of state, of one job or of all, in the order in which they were written."""
        query, values = ("", ()) if job is None else ("WHERE job = ? ", (job,))
        rows = self._database.execute(f"SELECT * FROM transitions {query}ORDER BY number", values)
        return [Transition(*row) for row in rows]

    def shared(self, process: str) -> list[str]:
        """The jobs that a process was begun with."""
        rows = self._database.execute("SELECT job FROM transitions WHERE process = ?", (process,))
        return [row["job"] for row in rows]

    def unmirrored(self) -> list[tuple[Job, int]]:
        """Jobs whose last transition MLflow does not know, with its number."""
        query = (
            "SELECT job, max(transitions.number) AS last FROM transitions JOIN jobs ON jobs.id = job "
            "GROUP BY job HAVING last > mirrored"
        )
        return [(self.job(row["job"]), row["last"]) for row in self._database.execute(query).fetchall()]

    def mirrored(self, job: str, transition: int) -> None:
        """MLflow knows a job's transitions up to that number."""
        with self._transaction():
            self._update(job, {"mirrored": transition})

    def _note(
        self, now: float, job: str, team: str, state: State, reason: str | None, process: str | None = None
    ) -> None:
        self._database.execute(
            "INSERT INTO transitions (time, job, team, state, reason, process) VALUES (?, ?, ?, ?, ?, ?)",
            (now, job, team, state, reason, process),
        )

    def _update(self, job: str, changes: dict[str, Any]) -> None:
        values = {key: json.dumps(value) if key == "result" else value for key, value in changes.items()}
        names = ", ".join(f"{key} = ?" for key in values)
        self._database.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), job))

    def _rows(self, rest: str, *values: Any) -> list[Job]:
        return [_job(row) for row in self._database.execute(f"SELECT * FROM jobs {rest}", values)]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block is written durably, or none of it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _job(row: sqlite3.Row) -> Job:
    content = {key: row[key] for key in row.keys() if key not in ("token", "mirrored")}  # noqa: SIM118
    task, result = json.loads(row["task"]), row["result"]
    return Job(**{**content, "task": task, "result": None if result is None else json.loads(result)})
