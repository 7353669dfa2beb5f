"""The pool's jobs as its journal has them, and the teams' accounts that follow from them."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from cluster.checkpoints.folder import commits, step_of
from cluster.pool.journal import Job, Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.shares import Shares, Terms, follow
from cluster.pool.states import ENDED, State
from cluster.pool.warm import OUTCOME
from cluster.runs.events import FILE_NAME as EVENTS


class Board:
    """Jobs that have not ended are kept in memory; whatever changes is in the journal first.

    Args:
        journal: of the pool.
        settings: of the pool; they may be replaced.
    """

    def __init__(self, journal: Journal, settings: PoolSettings) -> None:
        self.journal, self.settings = journal, settings
        self._jobs = {job.id: job for job in journal.jobs("queued", "running", "trained")}
        self.shares = Shares(self._terms)
        self._replay()

    def _replay(self) -> None:
        """Bring the accounts to where they were, each change of state under the settings of its time."""
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
        """Other settings from then on."""
        self.shares.advance(at)
        self.settings = settings

    def submit(self, task: dict[str, Any], token: str, deadline: float | None, again: bool) -> Job:
        """Queue a task that is not known yet.

        Raises:
            ValueError: when its name is taken.
        """
        job = self.journal.submit(task, token, deadline=deadline, again=again)
        self._jobs[job.id] = job
        follow(self.shares, job.changed, job.team, job.id, None, "queued")
        return job

    def move(
        self, job: Job, state: State, reason: str | None = None, at: float | None = None, **changes: Any
    ) -> Job:
        """Put a job into another state; arguments as those of :meth:`Journal.move`."""
        moved = self.journal.move(job.id, state, reason, at=at, **changes)
        follow(self.shares, moved.changed, moved.team, moved.id, job.state, state, moved.process)
        if state in ENDED:
            self._jobs.pop(job.id, None)
        else:
            self._jobs[job.id] = moved
        return moved

    def ask_to_end(self, job: Job, why: str) -> None:
        """Note that a running job is asked to end."""
        self.journal.ask_to_end(job.id, why)
        self._jobs[job.id] = self.journal.job(job.id)

    def jobs(self, state: State) -> list[Job]:
        """Those in a state that is no end, in the order in which they were submitted."""
        return sorted((job for job in self._jobs.values() if job.state == state), key=lambda j: j.submitted)

    def running(self, job_id: str) -> Job | None:
        """A job, if it runs."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.state == "running" else None

    def in_process(self, process: str | None) -> list[Job]:
        """The jobs that run in a process; without one there are none."""
        return [job for job in self.jobs("running") if process is not None and job.process == process]

    def folder(self, job: Job) -> Path:
        """Where a job writes."""
        return self.settings.dir / job.team / f"{job.name}-{job.number}"

    def outcome(self, job: Job) -> dict[str, Any]:
        """What the last attempt of a job has left of its end; empty when it was killed."""
        try:
            outcome = dict(json.loads((self.folder(job) / OUTCOME).read_text()))
        except (OSError, ValueError):
            return {}
        return outcome if outcome.get("attempt") == job.attempts else {}

    def committed(self, job: Job) -> int:
        """The step of a job's last checkpoint."""
        return max(map(step_of, commits(self.folder(job) / "checkpoints")), default=0)

    def last_sign(self, job: Job) -> float:
        """When a job that was lost with the pool was last seen at work: it used its slot until then."""
        try:
            seen = (self.folder(job) / EVENTS).stat().st_mtime
        except OSError:
            seen = 0.0
        return min(max(job.changed, seen), time.time())

    def _terms(self, team: str) -> Terms:
        settings = self.settings.team(team)
        return Terms(settings.weight, settings.max_running, settings.budget)
