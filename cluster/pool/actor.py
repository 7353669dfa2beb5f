"""The pool itself: a detached Ray actor that outlives whoever started it. Its memory is the journal."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from cluster.pool.board import Board
from cluster.pool.dispatch import CANCELLED, Dispatcher
from cluster.pool.journal import Job, Journal, Transition
from cluster.pool.mlflow_sync import MlflowSync
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Slots
from cluster.pool.warm import LOG
from cluster.runs.events import FILE_NAME as EVENTS
from cluster.runs.events import events_from
from cluster.runs.failures import QueueFullError
from cluster.supervision import orphans
from cluster.tasks.task import Task

LOOK_SECONDS = 0.1
JOURNAL_SECONDS = 60.0
"""How long the pool waits for its last process to let go of the journal."""
LAST_LINES = 20
EVENT_BYTES = 2**18

logger = logging.getLogger(__name__)


class PoolActor:
    """One per cluster. Use it through :class:`~cluster.pool.client.Pool`.

    Calls may overlap, and may be repeated: Ray does so when the actor had to be started again.

    Args:
        settings: of the pool; those in its journal, where there are any, count instead.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        # Ray leaves the processes of a killed raylet alive, and this one has the journal.
        orphans.end_with_parent()
        given = PoolSettings.model_validate(settings)
        self._journal = Journal(given.dir, JOURNAL_SECONDS)
        logging.basicConfig(filename=given.dir / "pool.log", format="%(asctime)s %(message)s")
        history = self._journal.settings()
        kept: dict[str, Any] = {"settings": settings, "is_draining": False}
        if history:
            kept = history[-1][1]
        known = PoolSettings.model_validate({**kept["settings"], "dir": given.dir})
        self._lock = threading.RLock()
        self._board = Board(self._journal, known)
        self._slots = Slots(known.cpus_per_job, known.gpus_per_job)
        self._dispatcher = Dispatcher(self._board, self._slots)
        self._dispatcher.is_draining = kept["is_draining"]
        self._dispatcher.recover()
        self._clerk = MlflowSync(self._board, self._lock)
        self._clerk.start()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    self._dispatcher.look()
                time.sleep(LOOK_SECONDS)
        except BaseException:  # a pool that does nothing must not look alive
            logger.exception("the pool starts again")
            os._exit(1)  # Ray does that; the journal has everything

    def configure(self, settings: dict[str, Any]) -> None:
        """Take other settings from now on, durably; a pool that is drained begins jobs again."""
        with self._lock:
            now = time.time()
            self._board.configure(PoolSettings.model_validate(settings), now)
            self._dispatcher.is_draining = self._dispatcher.is_stopping = False
            self._keep(now)

    def uri(self) -> str:
        """The MLflow store of the pool's jobs."""
        return str(self._board.settings.tracking_uri)

    def submit(self, task: dict[str, Any], token: str, again: bool = False) -> str:
        """Queue a checked task; the job's id. The same token is the same submission.

        Raises:
            ValueError: when the pool does not take it.
        """
        checked = Task.model_validate(task)
        deadline = None if checked.deadline is None else checked.deadline.timestamp()
        with self._lock:
            if self._journal.knows(token):  # the answer got lost
                return self._journal.submit(task, token).id
            self._journal.free_number(checked.team, checked.name, checked.base, again=again)
            self._admit(checked)
            return self._board.submit(task, token, deadline, again).id

    def _admit(self, task: Task) -> None:
        """Refuse what the pool's settings or its state do not allow."""
        team = self._board.settings.team(task.team)
        if self._dispatcher.is_draining:
            raise ValueError("the pool is being drained: submit it when odeformer pool start was used again")
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
                "begun, or cancel one"
            )

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, in the order in which they were submitted."""
        with self._lock:
            return [self._shown(job) for job in self._journal.jobs()]

    def job(self, job_id: str) -> dict[str, Any]:
        """One job, with its history and the end of what it printed.

        Raises:
            ValueError: when there is none of that id.
        """
        with self._lock:
            job = self._journal.job(job_id)
            history = [self._history(entry) for entry in self._journal.transitions(job_id)]
        log = self._board.folder(job) / LOG
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return {
            **self._shown(job),
            "history": history,
            "last_lines": lines[-LAST_LINES:],
        }

    def events(self, job_id: str, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """A job's events from a byte offset on, and where they end."""
        with self._lock:
            folder = self._board.folder(self._journal.job(job_id))
        return events_from(folder / EVENTS, offset, EVENT_BYTES)

    def transitions(self) -> list[tuple[Any, ...]]:
        """All changes of state that there ever were: number, time, job, team, state, reason, process."""
        with self._lock:
            return [tuple(transition) for transition in self._journal.transitions()]

    def cancel(self, job_id: str) -> str:
        """Cancel a job: at once if it waits, else when it has finished and committed its step. Its state.

        Raises:
            ValueError: when there is none, or it has been trained and only waits for the registry.
        """
        with self._lock:
            job = self._journal.job(job_id)
            if job.state == "trained":
                raise ValueError(f"job {job_id} has been trained; it is registered when the store answers")
            if job.state == "queued":
                job = self._board.move(job, "cancelled")
            if job.state == "running":
                self._dispatcher.ask_to_end(job, CANCELLED)
            return job.state

    def retry(self, job_id: str) -> str:
        """Queue a job again that failed or was cancelled; it goes on from its last checkpoint. Its state.

        Raises:
            ValueError: when there is none, it has succeeded, or its deadline has passed.
        """
        with self._lock:
            job = self._journal.job(job_id)
            if job.state == "succeeded":
                raise ValueError(f"job {job_id} has succeeded: there is nothing to try again")
            if job.deadline is not None and job.deadline <= time.time():
                raise ValueError(
                    f"job {job_id} is past its deadline: submit it under another name, with a later one"
                )
            if job.state in ("failed", "cancelled"):
                job = self._board.move(job, "queued", "tried again", failures=0, failed_at=-1, error=None)
            return job.state

    def status(self) -> dict[str, Any]:
        """The pool as a whole: slots, and what each team has, may have and has had."""
        with self._lock:
            settings, shares, dispatcher = self._board.settings, self._board.shares, self._dispatcher
            shares.advance(time.time())
            rates = shares.rates()
            is_draining = "draining" if dispatcher.is_draining else "running"
            teams = [
                {
                    "team": name,
                    **settings.team(name).model_dump(),
                    "running": len(shares.account(name).began),
                    "queued": shares.account(name).waiting,
                    "service_seconds": round(shares.account(name).service, 1),
                    "spent_hours": {per: spent / 3600 for per, spent in shares.account(name).spent.items()},
                    "fair_slots": round(rates.get(name, 0.0), 2),
                    "behind_seconds": round(shares.account(name).lag, 1),
                }
                for name in sorted({*settings.teams, *shares.teams()})
            ]
            return {
                "dir": str(settings.dir),
                "tracking_uri": settings.tracking_uri,
                "cpus_per_job": settings.cpus_per_job,
                "gpus_per_job": settings.gpus_per_job,
                "state": "stopping" if dispatcher.is_stopping else is_draining,
                "slots": {
                    "free": self._slots.free,
                    "busy": shares.busy,
                    "starting": self._slots.starting,
                },
                "running": len(self._board.jobs("running")),
                "trained": len(self._board.jobs("trained")),
                "teams": teams,
            }

    def drain(self) -> None:
        """Begin no more jobs and take none, durably; those that run go on."""
        with self._lock:
            self._dispatcher.is_draining = True
            self._keep(time.time())

    def stop(self) -> int:
        """Begin no more jobs and ask those that run to end; they are queued again. How many still run."""
        with self._lock:
            self._dispatcher.is_stopping = True
            running = self._board.jobs("running")
            for job in running:
                self._dispatcher.ask_to_end(job, "the pool was stopped")
            if not running:
                self._clerk.stop()
                self._slots.close()
            return len(running)

    def _keep(self, at: float) -> None:
        content = self._board.settings.model_dump(mode="json")
        self._journal.keep_settings({"settings": content, "is_draining": self._dispatcher.is_draining}, at)

    def _shown(self, job: Job) -> dict[str, Any]:
        inner = ("failures", "failed_at", "process")
        content = {key: value for key, value in vars(job).items() if key not in inner}
        together = [one.id for one in self._board.in_process(job.process) if one.id != job.id]
        waits_for = self._dispatcher.waits_for(job) if job.state == "queued" else None
        folder = str(self._board.folder(job))
        return {**content, "folder": folder, "together_with": together, "waits_for": waits_for}

    def _history(self, entry: Transition) -> dict[str, Any]:
        others = [job for job in self._journal.shared(entry.process or "") if job != entry.job]
        reason = f"together with {', '.join(others)}" if others else entry.reason
        return {"time": entry.time, "state": entry.state, "reason": reason}
