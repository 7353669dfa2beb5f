"""The pool's jobs in memory, backed by the journal, and the teams' accounts that follow from them."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster.checkpoints.folder import commits, step_of
from cluster.finetuning.result import FinetuneResult
from cluster.pool.job import ENDED, JobRecord, State, Transition
from cluster.pool.journal import Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.shares import Shares, Terms, follow
from cluster.pool.warm import OUTCOME, Outcome
from cluster.runs.events import FILE_NAME as EVENTS
from cluster.tasks.task import Task

_OUTCOME, _RESULT = TypeAdapter(Outcome), TypeAdapter(FinetuneResult)
OUTCOME_BYTES = 2**20
"""An outcome is of a few hundred bytes; no more than this is read of a file that has its name."""


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
        in_force, kept = (
            self.settings,
            [(since, settings) for since, settings, _ in read_settings(self.journal)],
        )
        if kept:
            self.settings = kept[0][1]

        def configure_until(now: float) -> None:
            while kept and kept[0][0] <= now:
                since, settings = kept.pop(0)
                self.configure(settings, since)

        # In the order of writing: a clock may have been set back in between, and then stands still here.
        last, now = dict[str, Transition](), 0.0
        for entry in self.journal.transitions():
            now = max(now, entry.time)
            configure_until(now)
            before = last[entry.job].state if entry.job in last else None
            follow(self.shares, now, entry.team, entry.job, before, entry.state, entry.process)
            last[entry.job] = entry
        # Nothing may differ from what the jobs' own rows say, whoever edited the file.
        for entry in last.values():
            if entry.job not in self._jobs and entry.state not in ENDED:
                follow(self.shares, now, entry.team, entry.job, entry.state, "failed")
        for job in self._jobs.values():
            before = last[job.id].state if job.id in last else None
            if before != job.state:
                follow(self.shares, now, job.team, job.id, before, job.state, job.process)
        configure_until(math.inf)
        self.settings = in_force

    def configure(self, settings: PoolSettings, at: float) -> None:
        """Replace the settings as of time ``at``."""
        self.shares.advance(at)
        self.settings = settings

    def submit(
        self, task: dict[str, Any], token: str, deadline: float | None, again: bool, reason: str | None = None
    ) -> JobRecord:
        """Queue a new task; arguments as for :meth:`Journal.submit`.

        Raises:
            ValueError: when its name is taken.
        """
        job = self.journal.submit(task, token, deadline=deadline, again=again, reason=reason)
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

    def find(self, job_id: str, state: State) -> JobRecord | None:
        """A job by its id; ``None`` if it is not in this state."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.state == state else None

    def in_process(self, process: str | None) -> list[JobRecord]:
        """The jobs that run in a process; none if ``process`` is ``None``."""
        return [job for job in self.jobs("running") if process is not None and job.process == process]

    def folder(self, job: JobRecord) -> Path:
        """The folder that a job writes to."""
        return self.settings.dir / job.team / f"{job.name}-{job.number}"

    def outcome(self, job: JobRecord) -> Outcome:
        """The outcome that the job's last attempt wrote; empty if it was killed.

        Whoever may write to the folder may have written anything there: what is no outcome is an error of the
        job's, without ``attempt``.
        """
        path = self.folder(job) / OUTCOME
        try:
            if not path.is_file():
                return {}
            with path.open("rb") as file:
                outcome = _OUTCOME.validate_json(file.read(OUTCOME_BYTES), strict=True)
            if "result" in outcome:
                _RESULT.validate_python(outcome["result"])
            if "attempt" not in outcome or not outcome.keys() & {"result", "preempted", "error"}:
                raise ValueError("an attempt, and a result, a step or an error are expected")
        except OSError:
            return {}
        except ValueError as error:
            return {
                "error": f"{path} does not hold the end of an attempt: {_first_fault(error)}",
                "is_mendable": False,
            }
        return outcome if outcome["attempt"] == job.attempts else {}

    def fault(self, job: JobRecord) -> str | None:
        """What makes a job's row in the journal unusable, in words; ``None`` if nothing does."""
        try:
            task = Task.model_validate(job.task)
        except ValidationError as error:
            return f"its task in the journal cannot be read: {_first_fault(error)}"
        if (task.team, task.name) != (job.team, job.name):
            return f"its task in the journal is that of {task.team}/{task.name}"
        return None

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


def read_settings(journal: Journal) -> list[tuple[float, PoolSettings, bool]]:
    """The settings that were kept, oldest first: since when, and whether the pool was being drained.

    Those that this version cannot read are left out.
    """
    found = []
    for since, content in journal.settings():
        with suppress(ValidationError):
            settings = PoolSettings.model_validate(content.get("settings"))
            found.append((since, settings, content.get("is_draining") is True))
    return found


def _first_fault(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {fault['msg']}" if place else fault["msg"]
