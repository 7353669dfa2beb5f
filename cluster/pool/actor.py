"""The pool itself: a detached Ray actor, whose memory is the journal."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from cluster.connection import credentials
from cluster.pool.board import Board
from cluster.pool.dispatch import CANCELLED, Dispatcher
from cluster.pool.job import HistoryEntry, Job, JobDetails, JobRecord, Transition
from cluster.pool.journal import Journal
from cluster.pool.mlflow_sync import MlflowSync
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Slots
from cluster.pool.status import PoolState, PoolStatus, TeamStatus
from cluster.pool.warm import LOG
from cluster.runs.events import FILE_NAME as EVENTS
from cluster.runs.events import LoggedEvent, events_from
from cluster.runs.failures import QueueFullError
from cluster.supervision import orphans
from cluster.tasks.task import Task
from cluster.tracking import store
from odeformer.files.shown import masked, masked_values

LOOK_SECONDS = 0.1
JOURNAL_SECONDS = 60.0
"""How long a restarted pool waits for its previous process to release the journal."""
LAST_LINES = 20
EVENT_BYTES = 2**18

logger = logging.getLogger(__name__)


class _Masked(logging.Formatter):
    """A format without the passwords in addresses: traceback and all."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class PoolActor:
    """The actor behind :class:`~cluster.pool.client.Pool`, which documents the methods; one per cluster.

    Calls may overlap, and may be repeated: Ray repeats them when it had to restart the actor.

    Args:
        settings: the pool's settings; those in its journal take precedence.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        # Ray leaves the processes of a killed raylet alive, and this one holds the journal.
        orphans.end_with_parent()
        folder = PoolSettings.model_validate(settings).dir
        credentials.take(folder)
        self._journal = Journal(folder, JOURNAL_SECONDS)
        log = logging.FileHandler(folder / "pool.log")
        log.setFormatter(_Masked("%(asctime)s %(message)s"))
        logging.basicConfig(handlers=[log])
        history = self._journal.settings()
        kept: dict[str, Any] = {"settings": settings, "is_draining": False}
        if history:
            kept = history[-1][1]
        known = PoolSettings.model_validate({**kept["settings"], "dir": folder})

        self._lock = threading.RLock()
        self._board = Board(self._journal, known)
        self._slots = Slots(known.cpus_per_job, known.gpus_per_job, folder)
        self._dispatcher = Dispatcher(self._board, self._slots)
        self._dispatcher.is_draining = kept["is_draining"]
        self._dispatcher.recover()
        self._mlflow = MlflowSync(self._board, self._lock)
        self._mlflow.start()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    self._dispatcher.look()
                time.sleep(LOOK_SECONDS)
        except BaseException:  # a pool that schedules nothing must not look alive
            logger.exception("the pool starts again")
            os._exit(1)  # Ray restarts the actor, and the journal has its state

    def configure(self, settings: dict[str, Any], variables: dict[str, str]) -> None:
        with self._lock:
            now = time.time()
            os.environ.update(variables, MLFLOW_TRACKING_URI=settings["tracking_uri"])
            # For the slots, and for the next process of this pool.
            credentials.write(self._board.settings.dir, credentials.ours())
            self._board.configure(PoolSettings.model_validate(settings), now)
            self._dispatcher.is_draining = self._dispatcher.is_stopping = False
            self._keep(now)

    def uri(self) -> str:
        return store.tracking_uri(self._board.settings.tracking_uri)

    def submit(self, task: dict[str, Any], token: str, again: bool = False) -> str:
        checked = Task.model_validate(task)
        deadline = None if checked.deadline is None else checked.deadline.timestamp()
        with self._lock:
            if self._journal.knows(token):  # the answer was lost, and Ray repeats the call
                return self._journal.submit(task, token).id
            self._journal.free_number(checked.team, checked.name, checked.base, again=again)
            self._admit(checked)
            return self._board.submit(task, token, deadline, again).id

    def _admit(self, task: Task) -> None:
        """Refuse a task that the pool's settings or its state do not allow."""
        team = self._board.settings.team(task.team)
        if self._dispatcher.is_draining:
            raise ValueError("the pool is being drained: run odeformer pool start before submitting again")
        if task.deadline is not None and task.deadline.timestamp() <= time.time():
            raise ValueError(f"deadline: {task.deadline.isoformat()} has passed")
        if task.priority > team.max_priority:
            raise ValueError(
                f"priority: {task.priority} is above {team.max_priority}, the highest that team {task.team} "
                "may use"
            )
        waiting = self._journal.count(task.team, "queued")
        if waiting >= team.max_queued:
            raise QueueFullError(
                f"team: {task.team} has {waiting} jobs queued, its quota (max_queued): wait until one has "
                "started, or cancel one"
            )

    def jobs(self) -> list[Job]:
        with self._lock:
            return [Job(**self._view(job)) for job in self._journal.jobs()]

    def job(self, job_id: str) -> JobDetails:
        with self._lock:
            job = self._journal.job(job_id)
            history = [self._history(entry) for entry in self._journal.transitions(job_id)]
            view = self._view(job)
        log = self._board.folder(job) / LOG
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return JobDetails(**view, history=history, last_lines=lines[-LAST_LINES:])

    def events(self, job_id: str, offset: int = 0) -> tuple[list[LoggedEvent], int]:
        with self._lock:
            folder = self._board.folder(self._journal.job(job_id))
        return events_from(folder / EVENTS, offset, EVENT_BYTES)

    def transitions(self) -> list[Transition]:
        with self._lock:
            return self._journal.transitions()

    def cancel(self, job_id: str) -> str:
        with self._lock:
            job = self._journal.job(job_id)
            if job.state == "trained":
                raise ValueError(f"job {job_id} has been trained and is registered when the store answers")
            if job.state == "queued":
                job = self._board.move(job, "cancelled")
            if job.state == "running":
                self._dispatcher.stop_job(job, CANCELLED)
            return job.state

    def retry(self, job_id: str) -> str:
        with self._lock:
            job = self._journal.job(job_id)
            if job.state == "succeeded":
                raise ValueError(f"job {job_id} has succeeded: there is nothing to retry")
            if job.deadline is not None and job.deadline <= time.time():
                raise ValueError(
                    f"job {job_id} is past its deadline: submit it under another name, with a later one"
                )
            if job.state in ("failed", "cancelled"):
                job = self._board.move(job, "queued", "tried again", failures=0, failed_at=-1, error=None)
            return job.state

    def status(self) -> PoolStatus:
        with self._lock:
            settings, shares, dispatcher = self._board.settings, self._board.shares, self._dispatcher
            shares.advance(time.time())
            rates = shares.rates()
            teams = [
                self._team_status(name, rates.get(name, 0.0))
                for name in sorted({*settings.teams, *shares.teams()})
            ]

            state: PoolState = "draining" if dispatcher.is_draining else "running"
            return {
                "dir": str(settings.dir),
                "tracking_uri": masked(str(settings.tracking_uri)),
                "cpus_per_job": settings.cpus_per_job,
                "gpus_per_job": settings.gpus_per_job,
                "state": "stopping" if dispatcher.is_stopping else state,
                "slots": {
                    "free": self._slots.free,
                    "busy": shares.busy,
                    "starting": self._slots.starting,
                },
                "running": len(self._board.jobs("running")),
                "trained": len(self._board.jobs("trained")),
                "teams": teams,
            }

    def _team_status(self, name: str, fair_slots: float) -> TeamStatus:
        settings, account = self._board.settings.team(name), self._board.shares.account(name)
        return {
            "team": name,
            "weight": settings.weight,
            "max_running": settings.max_running,
            "max_queued": settings.max_queued,
            "budget": None if settings.budget is None else settings.budget.model_dump(),
            "max_priority": settings.max_priority,
            "running": len(account.began),
            "queued": account.waiting,
            "service_seconds": round(account.service, 1),
            "spent_hours": {per: spent / 3600 for per, spent in account.spent.items()},
            "fair_slots": round(fair_slots, 2),
            "behind_seconds": round(account.lag, 1),
        }

    def drain(self) -> None:
        with self._lock:
            self._dispatcher.is_draining = True
            self._keep(time.time())

    def stop(self) -> int:
        with self._lock:
            self._dispatcher.is_stopping = True
            running = self._board.jobs("running")
            for job in running:
                self._dispatcher.stop_job(job, "the pool was stopped")
            if not running:
                self._mlflow.stop()
                self._slots.close()
                if not self._board.jobs("queued") and not self._board.jobs("trained"):
                    credentials.remove(self._board.settings.dir)
            return len(running)

    def _keep(self, at: float) -> None:
        content = masked_values(self._board.settings.model_dump(mode="json"))
        self._journal.keep_settings({"settings": content, "is_draining": self._dispatcher.is_draining}, at)

    def _view(self, job: JobRecord) -> dict[str, Any]:
        """The fields of a :class:`~cluster.pool.job.Job`."""
        internal = ("failures", "failed_at", "process")
        together = [other.id for other in self._board.in_process(job.process) if other.id != job.id]
        return {key: value for key, value in vars(job).items() if key not in internal} | {
            "folder": str(self._board.folder(job)),
            "together_with": together,
            "waits_for": self._dispatcher.waits_for(job) if job.state == "queued" else None,
        }

    def _history(self, entry: Transition) -> HistoryEntry:
        others = [job for job in self._journal.shared(entry.process or "") if job != entry.job]
        reason = f"together with {', '.join(others)}" if others else entry.reason
        return HistoryEntry(entry.time, entry.state, reason)
