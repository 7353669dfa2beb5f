"""Weighted fair share of the slots between teams, by the service they have had. No clock, no files, no Ray.

What is fair is a fluid: at every moment the slots that are busy are divided among the teams that have jobs,
by weight; a team gets no more than its quota or its unfinished jobs can use, and what it leaves goes to the
others. A team's *lag* is the fluid's service less its own, in slot-seconds. Jobs are whole and nobody knows
how long they take, so lags cannot be zero; :meth:`Shares.next_team` keeps them within about the length of the
longest job. Jobs that share a slot, in one process, are served an equal part of its time each; lags are then
within about twice that.

A team that has spent its budget is given nothing until the next period begins, and loses nothing of its lag.
A team that has nothing to do earns no credit for later: its lag goes to zero. What it is ahead stays: the
fluid gives the time back to the others while the team is still paying for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cluster.pool.budget import PERIODS, Budget, Per, period

SHORTEST = 1.0
"""Seconds: the longest job that was seen counts as at least so long."""
SLACK = 0.25
"""Of the longest job: so far from its share a team may be brought by letting jobs share a slot."""


@dataclass(frozen=True)
class Terms:
    """What a team is entitled to."""

    weight: float = 1.0
    max_running: int | None = None
    """Jobs at a time."""
    budget: Budget | None = None


@dataclass
class Account:
    """What a team has now, and has had."""

    waiting: int = 0
    service: float = 0.0
    """Slot-seconds, all attempts of all jobs."""
    spent: dict[Per, float] = field(default_factory=lambda: dict.fromkeys(PERIODS, 0.0))
    """Slot-seconds of that in the day, week and month that it is."""
    lag: float = 0.0
    """Slot-seconds that the fluid gave it and we did not."""
    began: dict[str, float] = field(default_factory=dict)
    """When each of its running jobs began."""

    @property
    def is_active(self) -> bool:
        """Whether it has jobs, or has had more than its share and so still takes part in the fluid."""
        return self.waiting > 0 or bool(self.began) or self.lag < 0


class Shares:
    """The teams' accounts, moved on by what happens. ``terms`` says what a team is entitled to."""

    def __init__(self, terms: Callable[[str], Terms]) -> None:
        self._terms = terms
        self._accounts: dict[str, Account] = {}
        self._processes: dict[str, str] = {}
        """By running jobs."""
        self._sharing = Counter[str]()
        """How many jobs each process has."""
        self._now = 0.0
        self._longest = SHORTEST

    def account(self, team: str) -> Account:
        """That of a team; empty when nothing is known of it."""
        return self._accounts.setdefault(team, Account())

    def teams(self) -> list[str]:
        """All that ever had a job, by name."""
        return sorted(self._accounts)

    def queued(self, now: float, team: str) -> None:
        """A job of the team waits from now on."""
        self.advance(now)
        self.account(team).waiting += 1

    def left(self, now: float, team: str) -> None:
        """A job that waited does not any more, without having begun."""
        self.advance(now)
        self.account(team).waiting -= 1

    def began(self, now: float, team: str, job: str, process: str | None = None) -> None:
        """A job that waited has a slot: with the others of its process, alone when none is named."""
        self.advance(now)
        account = self.account(team)
        account.waiting -= 1
        account.began[job] = self._now
        self._processes[job] = process or job
        self._sharing[process or job] += 1

    def ended(self, now: float, team: str, job: str) -> None:
        """A job has given its slot, or its part of one, back."""
        self.advance(now)
        self._longest = max(self._longest, self._now - self.account(team).began.pop(job))
        process = self._processes.pop(job)
        self._sharing[process] -= 1
        if not self._sharing[process]:
            del self._sharing[process]

    def advance(self, now: float) -> None:
        """Let time pass; a clock that was set back stands still instead."""
        self._now = self._now or now  # nothing has happened yet
        # What the fluid gives changes when a budget's period ends, and those end with a day.
        while (midnight := period(self._now, "day").end) < now:
            self._pass(midnight)
        self._pass(max(self._now, now))

    def _pass(self, until: float) -> None:
        rates = self.rates()
        seconds, self._now = until - self._now, until
        over = [per for per in PERIODS if period(until, per).begin == until]
        for team, account in self._accounts.items():
            had = seconds * sum(map(self._part, account.began))
            account.service += had
            for per in PERIODS:
                account.spent[per] = 0.0 if per in over else account.spent[per] + had
            account.lag += seconds * rates.get(team, 0.0) - had
            if not account.waiting and not account.began:
                account.lag = min(account.lag, 0.0)

    def rates(self) -> dict[str, float]:
        """How many of the busy slots the fluid gives to each active team."""
        active = {team: account for team, account in self._accounts.items() if account.is_active}
        weights = {team: self._terms(team).weight for team in active}
        most = {team: self._most(team, account) for team, account in active.items()}
        return fluid_rates(self.busy, weights, most)

    @property
    def busy(self) -> int:
        """How many slots have jobs."""
        return len(self._sharing)

    def next_team(self, teams: Collection[str]) -> str:
        """Of teams with a job that may have a slot now, the one whose job should.

        It is the one that would be furthest behind by the time that a job as long as the longest has run on
        each slot, the rest of the running jobs, as long, already counted as service it has had. Looking only
        at what is owed now would serve heavy teams too late: theirs grows faster. (The lookahead is the
        virtual finish time of WF²Q, Bennett & Zhang 1996, as a lag, for several slots and unknown lengths.)
        """
        behind = self._behind_by_then(teams, self.busy + 1)
        return max(sorted(teams), key=behind.__getitem__)

    def next_team_to_join(self, teams: Collection[str], process: str) -> str | None:
        """Of teams with a job that may join those that have just begun in a process, the one whose should.

        It takes from those that are there. So it is none whose team is too far ahead by then, by the same
        measure, but for one that is there alone; and none by which a team would be too far behind that has
        no more jobs to make up for it with.
        """
        longest = self._longest_now()
        most = SLACK * longest + 1e-9  # rounding
        there = Counter(
            team
            for team, account in self._accounts.items()
            for job in account.began
            if self._processes[job] == process
        )
        behind = self._behind_by_then({*teams, *there}, self.busy)

        def is_fair(team: str) -> bool:
            if behind[team] < -most and set(there) != {team}:
                return False
            with_it = there + Counter([team])
            for one, jobs in with_it.items():
                more = longest * (jobs / with_it.total() - there[one] / there.total())
                if behind[one] - more > most and not self._has_more(one, 1 + (one == team)):
                    return False
            return True

        return max(filter(is_fair, sorted(teams)), key=behind.__getitem__, default=None)

    def _has_more(self, team: str, jobs: int) -> bool:
        """Whether so many of a team's jobs wait that its quota lets begin."""
        account, most = self.account(team), self._terms(team).max_running
        return account.waiting >= jobs and (most is None or len(account.began) + jobs <= most)

    def _behind_by_then(self, teams: Collection[str], slots: int) -> dict[str, float]:
        active = {team for team, account in self._accounts.items() if account.is_active}
        weights = {team: self._terms(team).weight for team in active | set(teams)}
        most = {team: self._most(team, self.account(team)) for team in weights}
        rates = fluid_rates(slots, weights, most)
        longest = self._longest_now()

        def promised(team: str) -> float:
            began = self.account(team).began.items()
            return sum(self._part(job) * (longest - (self._now - at)) for job, at in began)

        return {team: self.account(team).lag - promised(team) + longest * rates[team] for team in teams}

    def has_budget(self, team: str) -> bool:
        """Whether the team has slot-hours left in its budget's period."""
        budget = self._terms(team).budget
        return budget is None or self.account(team).spent[budget.per] < 3600 * budget.slot_hours

    def has_room(self, team: str) -> bool:
        """Whether its quota lets one more job begin."""
        most = self._terms(team).max_running
        return most is None or len(self.account(team).began) < most

    def _part(self, job: str) -> float:
        """Of its slot, that a running job has."""
        return 1 / self._sharing[self._processes[job]]

    def _longest_now(self) -> float:
        running = (began for account in self._accounts.values() for began in account.began.values())
        return max([self._longest, *(self._now - began for began in running)])

    def _most(self, team: str, account: Account) -> float:
        if not self.has_budget(team):
            return 0.0
        jobs = account.waiting + len(account.began)
        quota = self._terms(team).max_running
        # One that is only paying back has jobs in the fluid that have long ended here.
        return min(max(jobs, 1), jobs or 1 if quota is None else quota)


def fluid_rates(capacity: float, weights: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """Divide a capacity by weight, no share above its ``most``; what one leaves is divided again."""
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
    """Move the accounts on by a job's change of state; ``before`` is ``None`` of a new one."""
    if before == "running":
        shares.ended(now, team, job)
    elif before == "queued" and after != "running":
        shares.left(now, team)
    if after == "running":
        shares.began(now, team, job, process)
    elif after == "queued":
        shares.queued(now, team)
