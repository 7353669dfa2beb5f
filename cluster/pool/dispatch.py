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
from cluster.runs import preemption

ADJUST_SECONDS = 1.0
AWAY_SECONDS = 5.0
"""How long a job that found no MLflow store waits before it is begun again."""
LATE = "past its deadline"
CANCELLED = "cancelled"
PREEMPTED = "preempted by a higher priority"
SPENT = "its team's budget is spent"
ITS_OWN = (CANCELLED, LATE, SPENT)
"""Why one job ends, and those that share its slot do not."""


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
        self._signalled = set[str]()
        """Processes that had a SIGTERM; a second one would end them without a commit."""
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
            self._settle_early()
        self._keep_deadlines(now)
        shares.advance(now)
        self._keep_budgets()
        if self.is_draining:
            return
        queued = [job for job in self._board.jobs("queued") if self.may_begin(job, now)]
        self._begin(queued)
        running = self._board.jobs("running")
        # One at a time; and where a slot is about to be free, that is waited for.
        if not self._slots.starting and not any(job.ending for job in running):
            victim = order.to_preempt(queued, running, self._slots.free, shares)
            if victim is not None:
                self.ask_to_end(victim, PREEMPTED)

    def may_begin(self, job: Job, now: float) -> bool:
        """Whether a queued job may have a slot, as far as that is its own affair and its budget's."""
        return self._not_before.get(job.id, 0.0) <= now and self._board.shares.has_budget(job.team)

    def waits_for(self, job: Job) -> str:
        """What keeps a queued job from beginning, in words."""
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

    def ask_to_end(self, job: Job, why: str) -> None:
        """Ask a running job to finish and commit its step, and end; a cancelled one stays so.

        Where that is not its own affair, its slot is wanted: those that share it are asked as well.
        """
        if job.ending in (why, CANCELLED):
            return
        assert job.process is not None
        for one in [job] if why in ITS_OWN else self._board.in_process(job.process):
            if one.ending != CANCELLED:
                self._board.ask_to_end(one, why)
            self._asked_at.setdefault(one.id, time.time())
        if why in ITS_OWN:
            preemption.ask(self._board.folder(job))
        elif job.process not in self._signalled:
            self._signalled.add(job.process)
            self._slots.end(job.process)

    def _begin(self, queued: list[Job]) -> None:
        """Give each free slot a job; then let some of those that would wait share it."""
        now, shares, begun = time.time(), self._board.shares, list[list[Job]]()
        while len(begun) < self._slots.free and (job := order.next_job(queued, shares)):
            queued.remove(job)
            begun.append([self._has_begun(job, now, f"{job.id}/{job.attempts + 1}")])
        for _ in range(self._board.settings.jobs_per_slot - 1):
            for jobs in begun:
                # Those that a slot will soon be there for need not share one.
                if len(queued) > self._slots.starting and (job := order.next_to_join(jobs, queued, shares)):
                    queued.remove(job)
                    jobs.append(self._has_begun(job, now, jobs[0].process))
        for jobs in begun:
            self._run(jobs)

    def _has_begun(self, job: Job, now: float, process: str | None) -> Job:
        return self._board.move(job, "running", at=now, attempts=job.attempts + 1, process=process)

    def _run(self, jobs: list[Job]) -> None:
        """Run jobs in one process."""
        settings, folders = self._board.settings, [self._board.folder(job) for job in jobs]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            preemption.take_back(folder)
        self._slots.run(
            {
                "process": jobs[0].process,
                "jobs": [
                    {"attempt": job.attempts, "task": job.task, "folder": str(folder)}
                    for job, folder in zip(jobs, folders, strict=True)
                ],
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
        """Of jobs that share a slot, some end before the others."""
        for job in self._board.jobs("running"):
            if len(self._board.in_process(job.process)) > 1 and (outcome := self._board.outcome(job)):
                self._settle(job, outcome, "")

    def _settle(
        self, job: Job, outcome: dict[str, Any], died: str, at: float | None = None, is_its_own: bool = True
    ) -> None:
        """Bring a job whose process has ended into the state that follows from how it ended.

        Args:
            job: that ran.
            outcome: what it has left of its end, if anything.
            died: what happened to it otherwise.
            at: when that was, if not now.
            is_its_own: that death; otherwise it may be that of a job which shared its process.
        """
        self._asked_at.pop(job.id, None)
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
            self._board.move(job, "queued", job.ending or "its process was asked to end", at)
        elif outcome.get("is_store_away"):
            self._not_before[job.id] = time.time() + AWAY_SECONDS
            self._board.move(job, "queued", outcome["error"], at)
        else:
            is_its_own = outcome.get("is_its_own", is_its_own)
            self._fail(job, outcome.get("error", died), outcome.get("is_mendable", True), is_its_own, at)

    def _fail(self, job: Job, error: str, is_mendable: bool, is_its_own: bool, at: float | None) -> None:
        """Queue a job again whose process died or met what may pass, unless that was too often.

        One that is not known to be to blame is queued whatever it was: the next time it runs alone.
        """
        step = self._board.committed(job)
        failures = job.failures + 1 if step <= job.failed_at else 1
        state: State = "failed"
        if not is_its_own or (is_mendable and failures <= self._board.settings.max_failures):
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

    def _keep_budgets(self) -> None:
        for job in self._board.jobs("running"):
            if job.ending is None and not self._board.shares.has_budget(job.team):
                self.ask_to_end(job, SPENT)

    def _kill_overdue(self, now: float) -> None:
        for job_id, asked in self._asked_at.items():
            job = self._board.running(job_id)
            if job is None or job.process is None or now - asked <= self._board.settings.grace_seconds:
                continue
            for other in self._board.in_process(job.process):
                if other.ending is None:  # it is not to blame
                    self._board.ask_to_end(other, f"its process was killed: {job.id} did not end in time")
            self._slots.end(job.process, signal.SIGKILL)


def _died(code: int | None) -> str:
    if code is None:
        return "its slot is gone, and its process with it"
    if code < 0:
        return "its process died (killed, or out of memory)"
    return f"its process ended with exit code {code}; its log may say more"
