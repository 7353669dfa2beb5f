"""The pool's durable state: every job and change of state, recorded before it is acted on."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from cluster.pool.database import Database
from cluster.pool.job import ENDED, JobRecord, State, Transition, may_follow


class Journal(Database):
    """The pool's journal: its jobs, their changes of state, and the settings of all times."""

    def settings(self) -> list[tuple[float, dict[str, Any]]]:
        """All settings ever kept, oldest first, each with the time since which it was in force.

        What is no JSON object is left out.
        """
        rows = self.execute("SELECT time, content FROM settings ORDER BY number")
        contents = [(row["time"], _parsed(row["content"])) for row in rows]
        return [(since, content) for since, content in contents if content is not None]

    def keep_settings(self, content: dict[str, Any], at: float) -> None:
        """Store settings for the next start of the pool."""
        with self.transaction():
            self.execute("INSERT INTO settings (time, content) VALUES (?, ?)", at, json.dumps(content))

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
        with self.transaction():
            known = self._rows("WHERE token = ?", token)
            if known:
                return known[0]

            number = self.free_number(team, name, base, again=again)
            now, job = time.time(), f"{team}/{name}/{number}"
            self.execute(
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
        with self.transaction():
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
        with self.transaction():
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

    def jobs(self, *states: State, team: str | None = None) -> list[JobRecord]:
        """All jobs, or those in the given states or of a team, in order of submission."""
        marks = ", ".join("?" * len(states))
        conditions = [f"state IN ({marks})"] if states else []
        conditions += ["team = ?"] if team is not None else []
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        values = [*states, *([team] if team is not None else [])]
        return self._rows(f"{where}ORDER BY submitted, rowid", *values)

    def knows(self, token: str) -> bool:
        """Whether a submission with this token has been accepted."""
        return bool(self._rows("WHERE token = ?", token))

    def count(self, team: str, state: State) -> int:
        """Number of a team's jobs in a state."""
        [[count]] = self.execute("SELECT count(*) FROM jobs WHERE team = ? AND state = ?", team, state)
        return int(count)

    def transitions(self, job: str | None = None) -> list[Transition]:
        """All changes of state, of one job or of all, in the order of writing."""
        query, values = ("", ()) if job is None else ("WHERE job = ? ", (job,))
        rows = self.execute(f"SELECT * FROM transitions {query}ORDER BY number", *values)
        return [Transition(*row) for row in rows]

    def shared(self, process: str) -> list[str]:
        """Ids of the jobs that were started in a process."""
        rows = self.execute("SELECT job FROM transitions WHERE process = ?", process)
        return [row["job"] for row in rows]

    def unmirrored(self) -> list[tuple[JobRecord, int]]:
        """Jobs whose last transition MLflow does not know yet, with that transition's number."""
        query = (
            "SELECT job, max(transitions.number) AS last FROM transitions JOIN jobs ON jobs.id = job "
            "GROUP BY job HAVING last > mirrored"
        )
        return [(self.job(row["job"]), row["last"]) for row in self.execute(query)]

    def mirrored(self, job: str, transition: int) -> None:
        """Record that MLflow knows a job's transitions up to that number."""
        with self.transaction():
            self._update(job, {"mirrored": transition})

    def _note(
        self, now: float, job: str, team: str, state: State, reason: str | None, process: str | None = None
    ) -> None:
        self.execute(
            "INSERT INTO transitions (time, job, team, state, reason, process) VALUES (?, ?, ?, ?, ?, ?)",
            *(now, job, team, state, reason, process),
        )

    def _update(self, job: str, changes: dict[str, Any]) -> None:
        values = {key: json.dumps(value) if key == "result" else value for key, value in changes.items()}
        names = ", ".join(f"{key} = ?" for key in values)
        self.execute(f"UPDATE jobs SET {names} WHERE id = ?", *values.values(), job)

    def _rows(self, rest: str, *values: Any) -> list[JobRecord]:
        return [_record(row) for row in self.execute(f"SELECT * FROM jobs {rest}", *values)]


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
