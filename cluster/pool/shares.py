"""Weighted fair share of the slots between teams, by received service. No clock, no files, no Ray.

The reference is a fluid schedule: at every moment the busy slots are divided among the teams that have jobs,
by weight. A team gets no more than its quota or its unfinished jobs can use, and what it leaves goes to the
others. A team's *lag* is the service the fluid gave it less the service it received, in slot-seconds. Jobs
cannot be split and their lengths are unknown, so lags cannot be zero; :meth:`Shares.next_team` keeps them
within about the length of the longest job. Jobs that share a slot, in one process, each count for an equal
part of its time; lags are then within about twice that.

A team that has spent its budget is given nothing until the next period starts, and keeps its lag. An idle
team earns no credit for later: a positive lag is reset to zero. A negative lag stays: the fluid gives the
time back to the other teams while the team is still paying for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cluster.pool.budget import PERIODS, Budget, Per, period

SHORTEST = 1.0
"""Lower bound in seconds on the length of the longest job."""
SLACK = 0.25
"""How far slot sharing may move a team from its share, as a fraction of the longest job's length."""


@dataclass(frozen=True)
class Terms:
    """The resources that a team is entitled to."""

    weight: float = 1.0
    max_running: int | None = None
    """Maximum number of jobs at a time."""
    budget: Budget | None = None


@dataclass
class Account:
    """A team's jobs and the service it has received."""

    waiting: int = 0
    service: float = 0.0
    """Slot-seconds used, over all attempts of all jobs."""
    spent: dict[Per, float] = field(default_factory=lambda: dict.fromkeys(PERIODS, 0.0))
    """Slot-seconds used in the current day, week and month."""
    lag: float = 0.0
    """Slot-seconds that the fluid schedule gave the team beyond what it received."""
    began: dict[str, float] = field(default_factory=dict)
    """Start time of each running job."""

    @property
    def is_active(self) -> bool:
        """Whether the team takes part in the fluid: it has jobs, or is ahead of its share."""
        return self.waiting > 0 or bool(self.began) or self.lag < 0


class Shares:
    """The teams' accounts, advanced by the events of their jobs. ``terms`` gives a team's entitlement."""

    def __init__(self, terms: Callable[[str], Terms]) -> None:
        self._terms = terms
        self._accounts: dict[str, Account] = {}
        self._process_of: dict[str, str] = {}
        self._jobs_in = Counter[str]()
        self._now = 0.0
        self._longest = SHORTEST

    def account(self, team: str) -> Account:
        """A team's account; empty for a new team."""
        return self._accounts.setdefault(team, Account())

    def teams(self) -> list[str]:
        """All teams that ever had a job, by name."""
        return sorted(self._accounts)

    def queued(self, now: float, team: str) -> None:
        """A job of the team was queued."""
        self.advance(now)
        self.account(team).waiting += 1

    def left(self, now: float, team: str) -> None:
        """A queued job left the queue without starting."""
        self.advance(now)
        self.account(team).waiting -= 1

    def began(self, now: float, team: str, job: str, process: str | None = None) -> None:
        """A queued job started in a process that other jobs may share; alone when none is named."""
        self.advance(now)
        account = self.account(team)
        account.waiting -= 1
        account.began[job] = self._now
        self._process_of[job] = process or job
        self._jobs_in[process or job] += 1

    def ended(self, now: float, team: str, job: str) -> None:
        """A running job gave back its slot, or its part of one."""
        self.advance(now)
        self._longest = max(self._longest, self._now - self.account(team).began.pop(job))
        process = self._process_of.pop(job)
        self._jobs_in[process] -= 1
        if not self._jobs_in[process]:
            del self._jobs_in[process]

    def advance(self, now: float) -> None:
        """Advance to ``now``; a clock that was set back stands still instead."""
        self._now = self._now or now  # the first event
        # The fluid's rates change when a budget period ends, and periods end at midnight.
        while (midnight := period(self._now, "day").end) < now:
            self._pass(midnight)
        self._pass(max(self._now, now))

    def _pass(self, until: float) -> None:
        rates = self.rates()
        seconds, self._now = until - self._now, until
        over = [per for per in PERIODS if period(until, per).begin == until]

        for team, account in self._accounts.items():
            received = seconds * sum(map(self._part, account.began))
            account.service += received
            for per in PERIODS:
                account.spent[per] = 0.0 if per in over else account.spent[per] + received
            account.lag += seconds * rates.get(team, 0.0) - received
            if not account.waiting and not account.began:
                account.lag = min(account.lag, 0.0)

    def rates(self) -> dict[str, float]:
        """The number of busy slots that the fluid gives to each active team."""
        return self._rates(self.busy)

    def _rates(self, slots: int, more: Collection[str] = ()) -> dict[str, float]:
        """The fluid's division of ``slots`` among the active teams and ``more``."""
        active = [team for team, account in self._accounts.items() if account.is_active]
        weights = {team: self._terms(team).weight for team in [*active, *more]}
        most = {team: self._most(team, self.account(team)) for team in weights}
        return fluid_rates(slots, weights, most)

    @property
    def busy(self) -> int:
        """Number of slots that run jobs."""
        return len(self._jobs_in)

    def next_team(self, teams: Collection[str]) -> str:
        """The team, of those with a job that may start now, whose job should get the next slot.

        It is the team that would lag furthest behind after a job of the longest length has run on each slot,
        counting the rest of the running jobs, assumed as long, as service already received. Comparing present
        lags alone would serve heavy teams too late, since their lag grows faster. (The lookahead is the
        virtual finish time of WF²Q, Bennett & Zhang 1996, as a lag, for several slots and unknown lengths.)
        """
        lags = self._lags_ahead(teams, self.busy + 1)
        return max(sorted(teams), key=lags.__getitem__)

    def next_team_to_join(self, teams: Collection[str], process: str) -> str | None:
        """The team, of those with a compatible job, whose job should join a process that just started.

        A job that joins takes time from those already in the process. So its team must not be too far ahead
        by the lookahead of :meth:`next_team`, unless the process is its own; and no team that has no more
        jobs to catch up with may be pushed too far behind.
        """
        longest = self._longest_now()
        tolerance = SLACK * longest + 1e-9  # rounding
        members = Counter(
            team
            for team, account in self._accounts.items()
            for job in account.began
            if self._process_of[job] == process
        )
        lags = self._lags_ahead({*teams, *members}, self.busy)

        # One more job makes every member's part of the process smaller. For each team, compare the time it
        # gains or loses by that, over the longest job, with what it would be owed anyway.
        def is_fair(team: str) -> bool:
            if lags[team] < -tolerance and set(members) != {team}:
                return False
            joined = members + Counter([team])
            for member, jobs in joined.items():
                gained = longest * (jobs / joined.total() - members[member] / members.total())
                is_behind = lags[member] - gained > tolerance
                if is_behind and not self._can_start(member, 1 + (member == team)):
                    return False
            return True

        return max(filter(is_fair, sorted(teams)), key=lags.__getitem__, default=None)

    def _can_start(self, team: str, jobs: int) -> bool:
        """Whether that many of a team's waiting jobs may start under its quota."""
        account, most = self.account(team), self._terms(team).max_running
        return account.waiting >= jobs and (most is None or len(account.began) + jobs <= most)

    def _lags_ahead(self, teams: Collection[str], slots: int) -> dict[str, float]:
        """The teams' lags after one longest job on each slot; running jobs count as served to their end."""
        rates = self._rates(slots, teams)
        longest = self._longest_now()

        # The slot time that a team's running jobs will still receive if each is as long as the longest.
        def promised(team: str) -> float:
            began = self.account(team).began.items()
            return sum(self._part(job) * (longest - (self._now - at)) for job, at in began)

        return {team: self.account(team).lag - promised(team) + longest * rates[team] for team in teams}

    def has_budget(self, team: str) -> bool:
        """Whether the team has slot-hours left in its budget's period."""
        budget = self._terms(team).budget
        return budget is None or self.account(team).spent[budget.per] < 3600 * budget.slot_hours

    def has_room(self, team: str) -> bool:
        """Whether the team's quota allows one more job to start."""
        most = self._terms(team).max_running
        return most is None or len(self.account(team).began) < most

    def _part(self, job: str) -> float:
        """The fraction of its slot that a running job has."""
        return 1 / self._jobs_in[self._process_of[job]]

    def _longest_now(self) -> float:
        running = (began for account in self._accounts.values() for began in account.began.values())
        return max([self._longest, *(self._now - began for began in running)])

    def _most(self, team: str, account: Account) -> float:
        """The most slots that a team can use."""
        if not self.has_budget(team):
            return 0.0
        jobs = account.waiting + len(account.began)
        quota = self._terms(team).max_running
        # In the fluid, a team that is only paying back still has the jobs that have ended here.
        return min(max(jobs, 1), jobs or 1 if quota is None else quota)


def fluid_rates(capacity: float, weights: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """Divide a capacity by weight, no share above its ``most``; the surplus is divided among the others."""
    rates: dict[str, float] = {}
    left = dict(weights)
    while left:
        share = capacity / sum(left.values())
        full = [team for team, weight in left.items() if share * weight >= most[team]]
        if not full:
            return rates | {team: share * weight for team, weight in left.items()}
        for team in full:
            rates[team] = min(float(most[team]), capacity)
            capacity = max(0.0, capacity - rates[team])
            del left[team]
    return rates


def follow(
    shares: Shares,
    now: float,
    team: str,
    job: str,
    before: str | None,
    after: str,
    process: str | None = None,
) -> None:
    """Update the accounts for a job's change of state; ``before`` is ``None`` for a new job."""
    if before == "running":
        shares.ended(now, team, job)
    elif before == "queued" and after != "running":
        shares.left(now, team)
    if after == "running":
        shares.began(now, team, job, process)
    elif after == "queued":
        shares.queued(now, team)
