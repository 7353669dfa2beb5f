"""The pool's jobs in memory, backed by the journal, and the teams' accounts that follow from them."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from cluster.checkpoints.folder import commits, step_of
from cluster.pool.job import ENDED, JobRecord, State
from cluster.pool.journal import Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.shares import Shares, Terms, follow
from cluster.pool.warm import OUTCOME, Outcome
from cluster.runs.events import FILE_NAME as EVENTS


class Board:
    """Keeps the jobs that have not ended in memory; every change is written to the journal first.

    Args:
        settings: the pool's settings; :meth:`configure` replaces them.
    """

    def __init__(self, journal: Journal, settings: PoolSettings) -> None:
        self.journal, self.settings = journal, settings
        self._jobs = {job.id: job for job in journal.jobs("queued", "running", "trained")}
        self.shares = Shares(self._terms)
        self._replay()

    def _replay(self) -> None:
        """Rebuild the accounts from the journal, each change of state under the settings of its time."""
        in_force, kept = self.settings, self.journal.settings()
        if kept:
            self.settings = PoolSettings.model_validate(kept[0][1]["settings"])

        def configure_until(now: float) -> None:
            while kept and kept[0][0] <= now:
                since, content = kept.pop(0)
                self.configure(PoolSettings.model_validate(content["settings"]), since)

        states = dict[str, str]()
        for entry in sorted(self.journal.transitions(), key=lambda t: (t.time, t.number)):
            configure_until(entry.time)
            before = states.get(entry.job)
            follow(self.shares, entry.time, entry.team, entry.job, before, entry.state, entry.process)
            states[entry.job] = entry.state
        configure_until(math.inf)
        self.settings = in_force

    def configure(self, settings: PoolSettings, at: float) -> None:
        """Replace the settings as of time ``at``."""
        self.shares.advance(at)
        self.settings = settings

    def submit(self, task: dict[str, Any], token: str, deadline: float | None, again: bool) -> JobRecord:
        """Queue a new task; arguments as for :meth:`Journal.submit`.

        Raises:
            ValueError: when its name is taken.
        """
        job = self.journal.submit(task, token, deadline=deadline, again=again)
        self._jobs[job.id] = job
        follow(self.shares, job.changed, job.team, job.id, None, "queued")
        return job

    def move(
        self, job: JobRecord, state: State, reason: str | None = None, at: float | None = None, **changes: Any
    ) -> JobRecord:
        """Change a job's state; arguments as for :meth:`Journal.move`."""
        moved = self.journal.move(job.id, state, reason, at=at, **changes)
        follow(self.shares, moved.changed, moved.team, moved.id, job.state, state, moved.process)
        if state in ENDED:
            self._jobs.pop(job.id, None)
        else:
            self._jobs[job.id] = moved
        return moved

    def set_ending(self, job: JobRecord, why: str) -> None:
        """Record why a running job has been told to stop."""
        self.journal.set_ending(job.id, why)
        self._jobs[job.id] = self.journal.job(job.id)

    def jobs(self, state: State) -> list[JobRecord]:
        """The jobs in a state, which must not be a final one, in order of submission."""
        return sorted((job for job in self._jobs.values() if job.state == state), key=lambda j: j.submitted)

    def running(self, job_id: str) -> JobRecord | None:
        """A job by its id; ``None`` if it is not running."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.state == "running" else None

    def in_process(self, process: str | None) -> list[JobRecord]:
        """The jobs that run in a process; none if ``process`` is ``None``."""
        return [job for job in self.jobs("running") if process is not None and job.process == process]

    def folder(self, job: JobRecord) -> Path:
        """The folder that a job writes to."""
        return self.settings.dir / job.team / f"{job.name}-{job.number}"

    def outcome(self, job: JobRecord) -> Outcome:
        """The outcome that the job's last attempt wrote; empty if it was killed."""
        try:
            outcome: Outcome = json.loads((self.folder(job) / OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return outcome if isinstance(outcome, dict) and outcome.get("attempt") == job.attempts else {}

    def committed(self, job: JobRecord) -> int:
        """The step of a job's last checkpoint."""
        return max(map(step_of, commits(self.folder(job) / "checkpoints")), default=0)

    def last_sign(self, job: JobRecord) -> float:
        """When a job that was lost with the pool last wrote an event: it used its slot until then."""
        try:
            last_event = (self.folder(job) / EVENTS).stat().st_mtime
        except OSError:
            last_event = 0.0
        return min(max(job.changed, last_event), time.time())

    def _terms(self, team: str) -> Terms:
        settings = self.settings.team(team)
        return Terms(settings.weight, settings.max_running, settings.budget)
