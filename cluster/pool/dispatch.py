"""The pool's scheduler: starts jobs, tells them to stop, and records how they ended."""

from __future__ import annotations

import signal
import time

from cluster.pool import order
from cluster.pool.board import Board
from cluster.pool.job import JobRecord, State
from cluster.pool.slot import JobOrder
from cluster.pool.slots import Ended, Slots
from cluster.pool.warm import Outcome
from cluster.runs import preemption

ADJUST_SECONDS = 1.0
AWAY_SECONDS = 5.0
"""Delay before a job that could not reach the MLflow store is started again."""
LATE = "past its deadline"
CANCELLED = "cancelled"
PREEMPTED = "preempted by a higher priority"
SPENT = "its team's budget is spent"
SINGLE_JOB_REASONS = (CANCELLED, LATE, SPENT)
"""Reasons that stop one job without the others in its slot."""


class Dispatcher:
    """Schedules the jobs of a board. Not thread-safe."""

    def __init__(self, board: Board, slots: Slots) -> None:
        self._board, self._slots = board, slots
        self.is_draining = False
        """Whether no new jobs are started."""
        self.is_stopping = False
        """Whether the slots, too, are being given up."""
        self._not_before: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        # Processes that were sent SIGTERM. A second one would end them without a checkpoint.
        self._signalled = set[str]()
        self._adjusted = 0.0

    def recover(self) -> None:
        """Settle the jobs that ran when the pool died; their processes are gone, or go with their slots."""
        for job in self._board.jobs("running"):
            outcome, at = self._board.outcome(job), self._board.last_sign(job)
            if outcome or job.ending in (CANCELLED, LATE):
                self._settle(job, outcome, "", at)
            else:
                self._board.move(job, "queued", "its process went with the pool", at)

    def look(self) -> None:
        """Make one scheduling pass."""
        now, shares = time.time(), self._board.shares
        for ended in self._slots.look():
            self._take(ended)
        self._kill_overdue(now)
        if self.is_stopping:
            return

        if now - self._adjusted > ADJUST_SECONDS:
            self._adjusted = now
            self._slots.adjust()
            self._settle_early()
        self._keep_deadlines(now)
        shares.advance(now)
        self._keep_budgets()
        if self.is_draining:
            return

        queued = [job for job in self._board.jobs("queued") if self.may_begin(job, now)]
        self._begin(queued)
        running = self._board.jobs("running")
        # Preempt one job at a time, and none while a slot is about to become free.
        if not self._slots.starting and not any(job.ending for job in running):
            victim = order.to_preempt(queued, running, self._slots.free, shares)
            if victim is not None:
                self.stop_job(victim, PREEMPTED)

    def may_begin(self, job: JobRecord, now: float) -> bool:
        """Whether a queued job may start, as far as its own delay and its team's budget go."""
        return self._not_before.get(job.id, 0.0) <= now and self._board.shares.has_budget(job.team)

    def waits_for(self, job: JobRecord) -> str:
        """What keeps a queued job from starting, in words."""
        team, shares = self._board.settings.team(job.team), self._board.shares
        if self.is_draining:
            return "odeformer pool start: the pool is being drained"
        if team.budget is not None and not shares.has_budget(job.team):
            return f"the next {team.budget.per}: its team's {team.budget.slot_hours:g} slot-hours are spent"
        if not self.may_begin(job, time.time()):
            return "its next try"
        if not shares.has_room(job.team):
            return f"its team's quota: {team.max_running} at a time"
        return "a slot"

    def stop_job(self, job: JobRecord, why: str) -> None:
        """Tell a running job to commit its current step and exit. A cancelled job stays cancelled.

        Unless the reason concerns this job alone, its slot is wanted: the jobs that share it are told as
        well.
        """
        if job.ending in (why, CANCELLED):
            return
        assert job.process is not None
        is_single = why in SINGLE_JOB_REASONS
        for stopped in [job] if is_single else self._board.in_process(job.process):
            if stopped.ending != CANCELLED:
                self._board.set_ending(stopped, why)
            self._told_at.setdefault(stopped.id, time.time())

        if is_single:
            preemption.ask(self._board.folder(job))
        elif job.process not in self._signalled:
            self._signalled.add(job.process)
            self._slots.end(job.process)

    def _begin(self, queued: list[JobRecord]) -> None:
        """Give each free slot a job; then let some of the jobs that would have to wait share these slots."""
        now, shares, started = time.time(), self._board.shares, list[list[JobRecord]]()
        while len(started) < self._slots.free and (job := order.next_job(queued, shares)):
            queued.remove(job)
            started.append([self._mark_running(job, now, f"{job.id}/{job.attempts + 1}")])

        for _ in range(self._board.settings.jobs_per_slot - 1):
            for jobs in started:
                # As many jobs as slots are starting will soon have a slot of their own.
                if len(queued) > self._slots.starting and (job := order.next_to_join(jobs, queued, shares)):
                    queued.remove(job)
                    jobs.append(self._mark_running(job, now, jobs[0].process))
        for jobs in started:
            self._run(jobs)

    def _mark_running(self, job: JobRecord, now: float, process: str | None) -> JobRecord:
        return self._board.move(job, "running", at=now, attempts=job.attempts + 1, process=process)

    def _run(self, jobs: list[JobRecord]) -> None:
        """Run jobs in one process."""
        settings, job_orders, process = self._board.settings, list[JobOrder](), jobs[0].process
        assert process is not None
        for job in jobs:
            folder = self._board.folder(job)
            folder.mkdir(parents=True, exist_ok=True)
            preemption.take_back(folder)
            job_orders.append({"attempt": job.attempts, "task": job.task, "folder": str(folder)})
        self._slots.run(
            {
                "process": process,
                "jobs": job_orders,
                "uri": settings.tracking_uri,
                "cpus": settings.cpus_per_job,
            }
        )

    def _take(self, ended: Ended) -> None:
        self._signalled.discard(ended.process)
        now, jobs = time.time(), self._board.in_process(ended.process)
        for job in jobs:
            self._settle(job, self._board.outcome(job), _died(ended.code), now, is_its_own=len(jobs) == 1)

    def _settle_early(self) -> None:
        """Settle jobs that have ended while others in their slot go on."""
        for job in self._board.jobs("running"):
            if len(self._board.in_process(job.process)) > 1 and (outcome := self._board.outcome(job)):
                self._settle(job, outcome, "")

    def _settle(
        self,
        job: JobRecord,
        outcome: Outcome,
        died: str,
        at: float | None = None,
        is_its_own: bool = True,
    ) -> None:
        """Move a job whose process has ended to the state that follows from how it ended.

        Args:
            job: the job, still recorded as running.
            outcome: the outcome it wrote; empty if it was killed.
            died: how its process died, in words, if it wrote no outcome.
            at: when that was; now when not given.
            is_its_own: whether the death is this job's own; if not, another job in its process may be to
                blame.
        """
        self._told_at.pop(job.id, None)
        if "result" in outcome:
            result = outcome["result"]
            is_done = result["adapter_version"] is not None or job.task.get("trial") is not None
            state: State = "succeeded" if is_done else "trained"
            reason = None if is_done else "waits for the registry"
            self._board.move(job, state, reason, at, result=result, error=None)
        elif job.ending == CANCELLED:
            self._board.move(job, "cancelled", None, at)
        elif job.ending == LATE:
            self._board.move(job, "failed", LATE, at, error=LATE)
        elif "preempted" in outcome or job.ending is not None:
            self._board.move(job, "queued", job.ending or "its process was preempted", at)
        elif outcome.get("is_store_away"):
            self._not_before[job.id] = time.time() + AWAY_SECONDS
            self._board.move(job, "queued", outcome["error"], at)
        else:
            is_its_own = outcome.get("is_its_own", is_its_own)
            self._fail(job, outcome.get("error", died), outcome.get("is_mendable", True), is_its_own, at)

    def _fail(
        self, job: JobRecord, error: str, is_mendable: bool, is_its_own: bool, at: float | None
    ) -> None:
        """Queue a job again after a failure that a restart may cure, up to ``max_failures`` times.

        A job that may not be to blame is always queued again; the next time it runs alone.
        """
        step = self._board.committed(job)
        failures = job.failures + 1 if step <= job.failed_at else 1
        state: State = "failed"
        if not is_its_own or (is_mendable and failures <= self._board.settings.max_failures):
            state = "queued"
            self._not_before[job.id] = time.time() + min(2.0 ** (failures - 1) - 1, 60.0)
        self._board.move(job, state, error, at, failures=failures, failed_at=step, error=error)

    def _keep_deadlines(self, now: float) -> None:
        for job in [*self._board.jobs("queued"), *self._board.jobs("running")]:
            if job.deadline is None or job.deadline > now:
                continue
            if job.state == "running":
                self.stop_job(job, LATE)
            else:
                self._board.move(job, "failed", LATE, error=LATE)

    def _keep_budgets(self) -> None:
        for job in self._board.jobs("running"):
            if job.ending is None and not self._board.shares.has_budget(job.team):
                self.stop_job(job, SPENT)

    def _kill_overdue(self, now: float) -> None:
        for job_id, told_at in self._told_at.items():
            job = self._board.running(job_id)
            if job is None or job.process is None or now - told_at <= self._board.settings.grace_seconds:
                continue
            for other in self._board.in_process(job.process):
                if other.ending is None:  # it is not to blame
                    self._board.set_ending(other, f"its process was killed: {job.id} did not stop in time")
            self._slots.end(job.process, signal.SIGKILL)


def _died(code: int | None) -> str:
    if code is None:
        return "its slot is gone, and its process with it"
    if code < 0:
        return "its process died (killed, or out of memory)"
    return f"its process ended with exit code {code}; its log may say more"
