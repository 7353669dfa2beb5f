"""What the pool does by itself: begin jobs, ask them to end, and put them where their end belongs."""

from __future__ import annotations

import signal
import time
from typing import Any

from cluster.pool import order
from cluster.pool.board import Board
from cluster.pool.journal import Job
from cluster.pool.slots import Ended, Slots
from cluster.pool.states import State

ADJUST_SECONDS = 1.0
AWAY_SECONDS = 5.0
"""How long a job that found no MLflow store waits before it is begun again."""
LATE = "past its deadline"
CANCELLED = "cancelled"
PREEMPTED = "preempted by a higher priority"


class Dispatcher:
    """Looks after the jobs of a board. For one thread at a time."""

    def __init__(self, board: Board, slots: Slots) -> None:
        self._board, self._slots = board, slots
        self.is_draining = False
        """Nothing is begun."""
        self.is_stopping = False
        """Neither are there to be any slots."""
        self._not_before: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._adjusted = 0.0

    def recover(self) -> None:
        """Jobs that ran when the pool died: their processes are gone, or go with their slots."""
        for job in self._board.jobs("running"):
            outcome, at = self._board.outcome(job), self._board.last_sign(job)
            if outcome or job.ending in (CANCELLED, LATE):
                self._settle(job, outcome, "", at)
            else:
                self._board.move(job, "queued", "its process went with the pool", at)

    def look(self) -> None:
        """Do what there is to do now."""
        now, shares = time.time(), self._board.shares
        for ended in self._slots.look():
            self._take(ended)
        self._kill_overdue(now)
        if self.is_stopping:
            return
        if now - self._adjusted > ADJUST_SECONDS:
            self._adjusted = now
            self._slots.adjust()
        self._keep_deadlines(now)
        if self.is_draining:
            return
        shares.advance(now)
        queued = [job for job in self._board.jobs("queued") if self._not_before.get(job.id, 0.0) <= now]
        while self._slots.free and (job := order.next_job(queued, shares)):
            queued.remove(job)
            self._begin(job)
        running = self._board.jobs("running")
        # One at a time; and where a slot is about to be free, that is waited for.
        if not self._slots.starting and not any(job.ending for job in running):
            victim = order.to_preempt(queued, running, self._slots.free, shares)
            if victim is not None:
                self.ask_to_end(victim, PREEMPTED)

    def ask_to_end(self, job: Job, why: str) -> None:
        """Ask a running job to finish and commit its step, and end; a cancelled one stays so."""
        if job.ending in (why, CANCELLED):
            return
        self._board.ask_to_end(job, why)
        if job.ending is None:  # a second SIGTERM would end it without a commit
            self._asked_at[job.id] = time.time()
            self._slots.end(job.id)

    def _begin(self, job: Job) -> None:
        settings = self._board.settings
        job = self._board.move(job, "running", attempts=job.attempts + 1)
        self._slots.run(
            {
                "id": job.id,
                "attempt": job.attempts,
                "task": job.task,
                "folder": str(self._board.folder(job)),
                "uri": settings.tracking_uri,
                "cpus": settings.cpus_per_job,
            }
        )

    def _take(self, ended: Ended) -> None:
        job = self._board.running(ended.job)
        if job is not None:
            self._settle(job, self._board.outcome(job), _died(ended.code))

    def _settle(self, job: Job, outcome: dict[str, Any], died: str, at: float | None = None) -> None:
        """Bring a job whose process has ended into the state that follows from how it ended."""
        self._asked_at.pop(job.id, None)
        if "result" in outcome:
            result = outcome["result"]
            is_registered = result["adapter_version"] is not None
            state: State = "succeeded" if is_registered else "trained"
            reason = None if is_registered else "waits for the registry"
            self._board.move(job, state, reason, at, result=result, error=None)
        elif job.ending == CANCELLED:
            self._board.move(job, "cancelled", None, at)
        elif job.ending == LATE:
            self._board.move(job, "failed", LATE, at, error=LATE)
        elif "preempted" in outcome or job.ending is not None:
            self._board.move(job, "queued", job.ending or "its process was asked to end", at)
        elif outcome.get("is_store_away"):
            self._not_before[job.id] = time.time() + AWAY_SECONDS
            self._board.move(job, "queued", outcome["error"], at)
        else:
            self._fail(job, outcome.get("error", died), outcome.get("is_mendable", True), at)

    def _fail(self, job: Job, error: str, is_mendable: bool, at: float | None) -> None:
        """Queue a job again whose process died or met what may pass, unless that was too often."""
        step = self._board.committed(job)
        failures = job.failures + 1 if step <= job.failed_at else 1
        state: State = "failed"
        if is_mendable and failures <= self._board.settings.max_failures:
            state = "queued"
            self._not_before[job.id] = time.time() + min(2.0 ** (failures - 1) - 1, 60.0)
        self._board.move(job, state, error, at, failures=failures, failed_at=step, error=error)

    def _keep_deadlines(self, now: float) -> None:
        late = [
            job
            for state in ("queued", "running")
            for job in self._board.jobs(state)
            if job.deadline is not None and job.deadline <= now
        ]
        for job in late:
            if job.state == "running":
                self.ask_to_end(job, LATE)
            else:
                self._board.move(job, "failed", LATE, error=LATE)

    def _kill_overdue(self, now: float) -> None:
        for job_id, asked in self._asked_at.items():
            if now - asked > self._board.settings.grace_seconds:
                self._slots.end(job_id, signal.SIGKILL)


def _died(code: int | None) -> str:
    if code is None:
        return "its slot is gone, and its process with it"
    if code < 0:
        return "its process died (killed, or out of memory)"
    return f"its process ended with exit code {code}; its log may say more"
