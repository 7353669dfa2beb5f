"""Discrete-event simulation of a long run on many machines, with failures, preemptions and slow nodes.

Between two events the run alternates between work and commits at a constant speed, so that only events take
time to simulate. :func:`~cluster.planning.reliability.goodput` is the mean of this simulation if commits are
durable at once, spares never run out, and no node is preempted or slow.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from cluster.planning.reliability import RESTART_SECONDS

RUNS = 100
"""Default number of simulated runs."""
REPAIR_SECONDS = 86400.0
"""Seconds until a failed node is available again. An assumption."""
AWAY_SECONDS = 3600.0
"""Seconds until a preempted node comes back. An assumption."""
SLOWDOWN = 1.1
"""Relative time of a step with a slow node: MegaScale's slow hosts took about 10 % longer (arXiv 2402.15627,
section 6.3)."""
SLOW_SECONDS = 3600.0
"""Mean seconds that a node stays slow. An assumption."""
DAY = 86400.0

Event = Literal["failure", "preemption", "slow", "fast", "back"]
Part = Literal["work", "slow nodes", "commits", "work made again", "restarts", "waiting for nodes"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class LongRun:
    """A run and its failures. Times are in seconds; rates are per day for the whole run, and constant."""

    steps: int
    step_seconds: float
    commit_every: float
    """Seconds of work between commits, rounded to whole steps, at least one."""
    commit_seconds: float = 0.0
    """Seconds that training waits for a commit."""
    write_seconds: float = 0.0
    """Further seconds until the commit is durable, which the next commit waits for."""
    failures_per_day: float = 0.0
    restart_seconds: float = RESTART_SECONDS
    """Seconds from a failure to the next step, once there are enough nodes."""
    spares: int | None = None
    """Number of spare nodes; unlimited by default."""
    repair_seconds: float = REPAIR_SECONDS
    preemptions_per_day: float = 0.0
    """Nodes preempted per day, with notice: their work is committed first."""
    away_seconds: float = AWAY_SECONDS
    stragglers_per_day: float = 0.0
    """Nodes per day that become slow. Every step takes the time of the slowest node."""
    slowdown: float = SLOWDOWN
    slow_seconds: float = SLOW_SECONDS
    """Mean seconds that a node stays slow, exponentially distributed."""

    @property
    def work(self) -> float:
        """Seconds of the run without any events or commits."""
        return self.steps * self.step_seconds


class Outcome(NamedTuple):
    """Result of one simulated run."""

    seconds: dict[Part, float]
    """Seconds by activity."""
    failures: int
    preemptions: int

    @property
    def wall(self) -> float:
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """Fraction of the time that is spent on steps that need not be repeated, at full speed."""
        return self.seconds["work"] / self.wall


class Commit(NamedTuple):
    """A commit, and when it becomes durable."""

    durable_at: float
    steps: float


class _Simulation:
    """Simulation of one run, from its first step to its last commit."""

    def __init__(
        self, run: LongRun, source: random.Random, accidents: Sequence[tuple[float, Event]] = ()
    ) -> None:
        self._run, self._source = run, source
        self._interval = max(1, round(run.commit_every / run.step_seconds))  # steps
        self._now = 0.0
        self._steps = 0.0  # steps done
        self._durable = self._flying = Commit(0.0, 0)  # the last commit may not be durable yet
        self._blocked: float | None = None  # remaining seconds of a commit that training waits for
        self._ready = 0.0  # when the restart will be over
        self._slow = self._out = 0  # numbers of nodes
        self._done = False
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._counts = {"failure": 0, "preemption": 0}
        self._rates: dict[Event, float] = {
            "failure": run.failures_per_day,
            "preemption": run.preemptions_per_day,
            "slow": run.stragglers_per_day,
        }
        self._events: list[tuple[float, Event]] = sorted(accidents)
        for event in self._rates:
            self._schedule(event)

    def outcome(self) -> Outcome:
        """Simulate the whole run."""
        while not self._done:
            if self._events:
                at, event = heapq.heappop(self._events)
                self._pass(at)
                if not self._done:
                    self._happen(event)
            else:
                self._pass(math.inf)
        total = self._seconds["work"]
        self._seconds["work"] = self._run.work
        self._seconds["work made again"] = max(0.0, total - self._run.work)
        return Outcome(self._seconds, self._counts["failure"], self._counts["preemption"])

    def _schedule(self, event: Event) -> None:
        """Schedule the next occurrence of a random event."""
        if self._rates[event]:
            self._after(self._source.expovariate(self._rates[event] / DAY), event)

    def _after(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._events, (self._now + seconds, event))

    def _happen(self, event: Event) -> None:
        run = self._run
        if event in self._rates:
            self._schedule(event)
        if event in ("failure", "preemption") and self._missing:
            return  # waiting nodes have nothing to lose, and idle ones hardly fail
        if event == "failure":
            kept = self._flying if self._flying.durable_at <= self._now else self._durable
            self._stop(event, kept, run.repair_seconds)
        elif event == "preemption":
            if self._training:
                self._commit_at_once()
            self._stop(event, self._flying, run.away_seconds)
        elif event == "slow":
            self._slow += 1
            self._after(self._source.expovariate(1 / run.slow_seconds), "fast")
        elif event == "fast":
            self._slow -= 1
        else:
            waited = self._missing
            self._out -= 1
            if waited and not self._missing:
                self._ready = self._now + run.restart_seconds

    @property
    def _missing(self) -> bool:
        """Whether more nodes are out than there are spares."""
        return self._run.spares is not None and self._out > self._run.spares

    @property
    def _training(self) -> bool:
        return not self._missing and self._now >= self._ready

    def _stop(self, event: Literal["failure", "preemption"], kept: Commit, away: float) -> None:
        """A node leaves for ``away`` seconds; the run resumes from ``kept`` once there are enough nodes."""
        self._steps, self._blocked = kept.steps, None
        self._durable = self._flying = Commit(self._now, kept.steps)
        self._counts[event] += 1
        self._out += 1
        self._after(away, "back")
        self._ready = self._now + self._run.restart_seconds

    def _commit_at_once(self) -> None:
        """Commit the completed steps, and wait until the commit is durable."""
        seconds = self._run.commit_seconds + self._run.write_seconds
        self._now += seconds
        self._seconds["commits"] += seconds
        self._flying = Commit(self._now, math.floor(self._steps))

    def _pass(self, until: float) -> None:
        """Advance the time to the next event or the end of the run."""
        until = max(until, self._now)  # other events may be due since an immediate commit, which took time
        if self._missing:
            self._spend("waiting for nodes", until - self._now)
        elif self._now < self._ready:
            self._spend("restarts", min(until, self._ready) - self._now)
        while self._training and self._now < until and not self._done:
            if self._blocked is None:
                self._train(until)
            else:
                self._wait_for_commit(until)

    def _spend(self, part: Part, seconds: float) -> None:
        self._seconds[part] += seconds
        self._now += seconds

    def _train(self, until: float) -> None:
        """Work until the next commit, over many cycles of work and commit if nothing interrupts them."""
        run, work = self._run, self._run.step_seconds
        pace = run.slowdown if self._slow else 1.0
        cycle = self._interval * work * pace + run.commit_seconds
        if self._steps == self._flying.steps and run.write_seconds <= self._interval * work * pace:
            cycles = (run.steps - 1 - int(self._steps)) // self._interval  # the last cycle ends the run
            if until != math.inf:
                cycles = min(cycles, int((until - self._now) / cycle))
            if cycles > 0:
                self._steps += cycles * self._interval
                self._work(cycles * self._interval, pace)
                self._spend("commits", cycles * run.commit_seconds)
                self._flying = Commit(self._now + run.write_seconds, self._steps)
                self._durable = Commit(self._now, self._steps - self._interval)
        target = min(self._flying.steps + self._interval, run.steps)
        if self._now + (target - self._steps) * work * pace > until:
            steps = (until - self._now) / (work * pace)
            self._steps += steps
            self._work(steps, pace)
            self._now = until
        else:
            self._work(target - self._steps, pace)
            self._steps = target
            self._blocked = run.commit_seconds + max(0.0, self._flying.durable_at - self._now)

    def _work(self, steps: float, pace: float) -> None:
        seconds = steps * self._run.step_seconds
        self._spend("work", seconds)
        self._spend("slow nodes", seconds * (pace - 1))

    def _wait_for_commit(self, until: float) -> None:
        """Wait while a commit is copied and, before that, until the previous one is durable."""
        assert self._blocked is not None
        if self._now + self._blocked > until:
            self._blocked -= until - self._now
            self._spend("commits", until - self._now)
            self._now = until
            return
        self._spend("commits", self._blocked)
        self._blocked = None
        self._durable = self._flying
        self._flying = Commit(self._now + self._run.write_seconds, self._steps)
        if self._steps == self._run.steps:
            self._spend("commits", self._run.write_seconds)
            self._done = True


def simulate(run: LongRun, seed: int, times: int = RUNS) -> list[Outcome]:
    """Simulate the run ``times`` times; the same seed gives the same results."""
    source = random.Random(seed)
    return [_Simulation(run, source).outcome() for _ in range(times)]


def replay(run: LongRun, accidents: Sequence[tuple[float, Event]]) -> Outcome:
    """Simulate the run once with accidents at given times.

    Args:
        run: the run; its rates should be 0.
        accidents: seconds since the beginning, and ``failure`` or ``preemption``.
    """
    return _Simulation(run, random.Random(0), accidents).outcome()
