"""The pool's scheduler: starts jobs, tells them to stop, and records how they ended."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.pool import order
from cluster.pool.board import Board
from cluster.pool.job import CANCELLED, JobRecord, State
from cluster.pool.slot import JobOrder
from cluster.pool.slots import Ended, Slots
from cluster.pool.warm import OUTCOME, Outcome
from cluster.runs import heartbeat, preemption
from cluster.supervision.watchdog import START_SECONDS, Watchdog

if TYPE_CHECKING:
    from cluster.pool.metrics import PoolMetrics

ADJUST_SECONDS = 1.0
AWAY_SECONDS = 5.0
"""Delay before a job that could not reach the MLflow store is started again."""
FOLDER_SECONDS = 10.0
"""Delay before a job whose folder could not be written is tried again."""
ROOM_BYTES = 8 * 2**20
"""Free disk space without which no job begins: for the first files of a small one, and the journal."""
LATE = "past its deadline"
PREEMPTED = "preempted by a higher priority"
SPENT = "its team's budget is spent"
SINGLE_JOB_REASONS = (CANCELLED, LATE, SPENT)
"""Reasons that stop one job without the others in its slot."""

logger = logging.getLogger(__name__)


@dataclass
class _Watched:
    watchdog: Watchdog
    since: float
    """Monotonic time since which a heartbeat is waited for."""
    stuck: str = ""
    """How the process is stuck, in words, if it was killed for it."""


class Dispatcher:
    """Schedules the jobs of a board. Not thread-safe.

    Args:
        metrics: told of jobs that begin and of attempts that fail.
    """

    def __init__(self, board: Board, slots: Slots, metrics: PoolMetrics | None = None) -> None:
        self._board, self._slots, self._metrics = board, slots, metrics
        self.is_draining = False
        """Whether no new jobs are started."""
        self.is_stopping = False
        """Whether the slots, too, are being given up."""
        self._not_before: dict[str, tuple[float, str]] = {}
        self._told_at: dict[str, float] = {}
        # Processes that were sent SIGTERM. A second one would end them without a checkpoint.
        self._signalled = set[str]()
        self._watched: dict[str, _Watched] = {}
        # Processes that have ended, until the journal has it of all of their jobs.
        self._ended = list[tuple[Ended, bool]]()
        self._adjusted = 0.0

    def recover(self) -> None:
        """Settle the jobs that ran when the pool died; their processes are gone, or go with their slots."""
        for state in ("queued", "running", "trained"):
            for job in self._board.jobs(state):
                if fault := self._board.fault(job):
                    self._board.move(job, "failed", fault, error=fault)
        for job in self._board.jobs("running"):
            outcome, at = self._board.outcome(job), self._board.last_sign(job)
            if outcome or job.ending == LATE or is_cancelled(job):
                self._settle(job, outcome, at)
            else:
                self._board.move(job, "queued", "its process went with the pool", at)

    def look(self) -> None:
        """Make one scheduling pass.

        Raises:
            OSError: when the disk refuses something. Nothing is lost: the next pass does it.
        """
        now, ticks, shares = time.time(), time.monotonic(), self._board.shares
        for ended in self._slots.look():
            self._ended.append((ended, len(self._board.in_process(ended.process)) == 1))
        self._kill_overdue(ticks)
        self._kill_stuck(ticks)
        while self._ended:
            self._take(*self._ended[0])
            del self._ended[0]
        if self.is_stopping:
            return

        if ticks - self._adjusted > ADJUST_SECONDS:
            self._adjusted = ticks
            self._slots.adjust()
            self._settle_early()
        self._keep_deadlines(now)
        shares.advance(now)
        self._keep_budgets()
        if self.is_draining:
            return

        queued = [job for job in self._board.jobs("queued") if self.may_begin(job, ticks)]
        if not queued or not self._has_room():
            return
        self._begin(queued)
        running = self._board.jobs("running")
        # Preempt one job at a time, and none while a slot is about to become free.
        if not self._slots.starting and not any(job.ending for job in running):
            victim = order.to_preempt(queued, running, self._slots.free, shares)
            if victim is not None:
                self.stop_job(victim, PREEMPTED)

    def may_begin(self, job: JobRecord, ticks: float) -> bool:
        """Whether a queued job may start at a moment, as far as its own delay and its team's budget go."""
        not_before, _ = self._not_before.get(job.id, (0.0, ""))
        return not_before <= ticks and self._board.shares.has_budget(job.team)

    def waits_for(self, job: JobRecord) -> str:
        """What keeps a queued job from starting, in words."""
        team, shares = self._board.settings.team(job.team), self._board.shares
        if self.is_draining:
            return "odeformer pool start: the pool is being drained"
        if team.budget is not None and not shares.has_budget(job.team):
            return f"the next {team.budget.per}: its team's {team.budget.slot_hours:g} slot-hours are spent"
        if not self.may_begin(job, time.monotonic()):
            return self._not_before[job.id][1]
        if not shares.has_room(job.team):
            return f"its team's quota: {team.max_running} at a time"
        if not self._has_room():
            return f"room on its disk: {self._board.settings.dir} has less than {ROOM_BYTES >> 20} MiB free"
        return "a slot"

    def stop_job(self, job: JobRecord, why: str) -> None:
        """Tell a running job to commit its current step and exit. A cancelled job stays cancelled.

        Unless the reason concerns this job alone, its slot is wanted: the jobs that share it are told as
        well.
        """
        if job.ending == why or is_cancelled(job):
            return
        assert job.process is not None
        is_single = why.startswith(SINGLE_JOB_REASONS)
        if is_single:
            preemption.ask(self._board.folder(job))
        for stopped in [job] if is_single else self._board.in_process(job.process):
            if not is_cancelled(stopped):
                self._board.set_ending(stopped, why)
            self._told_at.setdefault(stopped.id, time.monotonic())

        if not is_single and job.process not in self._signalled:
            self._signalled.add(job.process)
            self._slots.end(job.process)

    def _begin(self, queued: list[JobRecord]) -> None:
        """Give each free slot a job; then let some of the jobs that would have to wait share these slots."""
        now, shares, started = time.time(), self._board.shares, list[list[JobRecord]]()
        try:
            while len(started) < self._slots.free and (job := order.next_job(queued, shares)):
                queued.remove(job)
                if self._prepare(job):
                    started.append([self._mark_running(job, now, f"{job.id}/{job.attempts + 1}")])

            for _ in range(self._board.settings.jobs_per_slot - 1):
                for jobs in started:
                    # As many jobs as slots are starting will soon have a slot of their own.
                    if len(queued) > self._slots.starting and (
                        job := order.next_to_join(jobs, queued, shares)
                    ):
                        queued.remove(job)
                        if self._prepare(job):
                            jobs.append(self._mark_running(job, now, jobs[0].process))
        finally:  # those that the journal has before the disk was full do run
            for jobs in started:
                self._run(jobs)

    def _prepare(self, job: JobRecord) -> bool:
        """Make a job's folder, which other users need not read, ready for an attempt; whether that worked."""
        folder = self._board.folder(job)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            with suppress(OSError):  # not every network file system has modes
                folder.chmod(0o700)
            (folder / OUTCOME).unlink(missing_ok=True)
            for beat in (folder / heartbeat.FOLDER).glob("*.json"):
                beat.unlink(missing_ok=True)
            preemption.take_back(folder)
        except OSError as error:  # the other jobs' folders may be fine
            logger.warning("%s cannot begin: %s", job.id, error)
            self._delay(job, FOLDER_SECONDS, f"its folder to be usable ({error})")
            return False
        return True

    def _delay(self, job: JobRecord, seconds: float, until: str = "its next try") -> None:
        self._not_before[job.id] = time.monotonic() + seconds, until

    def _has_room(self) -> bool:
        """Whether the disk has room for what a job that begins writes, and for the journal."""
        try:
            return shutil.disk_usage(self._board.settings.dir).free >= ROOM_BYTES
        except OSError:
            return False

    def _mark_running(self, job: JobRecord, now: float, process: str | None) -> JobRecord:
        if self._metrics is not None:
            self._metrics.began(job, self._board.settings, now)
        return self._board.move(job, "running", at=now, attempts=job.attempts + 1, process=process)

    def _run(self, jobs: list[JobRecord]) -> None:
        """Run jobs in one process."""
        settings, job_orders, process = self._board.settings, list[JobOrder](), jobs[0].process
        assert process is not None
        for job in jobs:
            folder = str(self._board.folder(job))
            job_orders.append({"attempt": job.attempts, "task": job.task, "folder": folder})
        watchdog = Watchdog(self._board.folder(jobs[0]) / heartbeat.FOLDER, settings.stuck_after)
        self._watched[process] = _Watched(watchdog, time.monotonic())
        self._slots.run(
            {
                "process": process,
                "jobs": job_orders,
                "uri": settings.tracking_uri,
                "cpus": settings.cpus_per_job,
                "memory": settings.memory_per_slot,
            }
        )

    def _take(self, ended: Ended, is_its_own: bool) -> None:
        now, death = time.time(), self._death(ended)
        for job in self._board.in_process(ended.process):
            self._settle(job, self._board.outcome(job) or death, now, is_its_own)
        self._signalled.discard(ended.process)
        self._watched.pop(ended.process, None)

    def _death(self, ended: Ended) -> Outcome:
        """The outcome of a job that wrote none, by how its process ended."""
        watched, code = self._watched.get(ended.process), ended.code
        if ended.is_too_large:
            error = "its process used more memory than memory_per_slot allows, and was killed"
            return {"error": error, "is_mendable": False, "cause": "memory"}
        if watched is not None and watched.stuck:
            return {"error": f"its process was {watched.stuck}, and was killed", "cause": "stuck"}
        if code is None:
            return {"error": "its slot is gone, and its process with it", "cause": "slot gone"}
        if code < 0:
            return {"error": "its process died (killed, or out of memory)", "cause": "killed"}
        return {"error": f"its process ended with exit code {code}; its log may say more"}

    def _settle_early(self) -> None:
        """Settle jobs that have ended while others in their slot go on."""
        for job in self._board.jobs("running"):
            if len(self._board.in_process(job.process)) > 1 and "attempt" in (
                outcome := self._board.outcome(job)
            ):
                self._settle(job, outcome)

    def _settle(
        self,
        job: JobRecord,
        outcome: Outcome,
        at: float | None = None,
        is_its_own: bool = True,
    ) -> None:
        """Move a job whose process has ended to the state that follows from how it ended.

        Args:
            job: the job, still recorded as running.
            outcome: the outcome it wrote, else how its process died.
            at: when that was; now when not given.
            is_its_own: whether the death is this job's own; if not, another job in its process may be to
                blame.
        """
        if "result" in outcome:
            result = outcome["result"]
            is_done = result["adapter_version"] is not None or job.task.get("trial") is not None
            state: State = "succeeded" if is_done else "trained"
            reason = None if is_done else "waits for the registry"
            self._board.move(job, state, reason, at, result=result, error=None)
        elif is_cancelled(job):
            by_whom = str(job.ending).removeprefix(CANCELLED).strip()
            self._board.move(job, "cancelled", by_whom or None, at)
        elif job.ending == LATE:
            self._board.move(job, "failed", LATE, at, error=LATE)
        elif "preempted" in outcome or job.ending is not None:
            self._board.move(job, "queued", job.ending or "its process was preempted", at)
        elif outcome.get("is_store_away"):
            self._delay(job, AWAY_SECONDS)
            self._board.move(job, "queued", outcome["error"], at)
        else:
            is_its_own = outcome.get("is_its_own", is_its_own)
            if self._metrics is not None:
                self._metrics.failed(job, self._board.settings, outcome.get("cause", "error"))
            self._fail(job, outcome["error"], outcome.get("is_mendable", True), is_its_own, at)
        self._told_at.pop(job.id, None)

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
            self._delay(job, min(2.0 ** (failures - 1) - 1, 60.0))
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

    def _kill_stuck(self, ticks: float) -> None:
        """Kill processes without heartbeat or progress. They may be stopped, and hear no other signal."""
        patience = max(self._board.settings.stuck_after, START_SECONDS)
        for process, watched in self._watched.items():
            stuck = watched.watchdog.look()
            if stuck is not None:
                watched.stuck = stuck.how
            elif not watched.watchdog.nodes() and ticks - watched.since > patience:
                watched.stuck = f"stuck: no heartbeat for {ticks - watched.since:.0f} s"
            else:
                continue
            watched.watchdog.restart_clock()
            watched.since = ticks
            self._slots.end(process, signal.SIGKILL)

    def _kill_overdue(self, ticks: float) -> None:
        for job_id, told_at in self._told_at.items():
            job = self._board.find(job_id, "running")
            if job is None or job.process is None or ticks - told_at <= self._board.settings.grace_seconds:
                continue
            for other in self._board.in_process(job.process):
                if other.ending is None:  # it is not to blame
                    self._board.set_ending(other, f"its process was killed: {job.id} did not stop in time")
            self._slots.end(job.process, signal.SIGKILL)


def is_cancelled(job: JobRecord) -> bool:
    """Whether a running job stops because it was cancelled."""
    return (job.ending or "").startswith(CANCELLED)
