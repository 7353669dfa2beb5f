"""Fair share, against a fluid that is computed slowly and apart from it."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pool.shares import Shares, Terms, fluid_rates, follow

LONGEST = 20.0
STEP = 0.5
"""Seconds: the slow reference goes in steps of so many, and durations are multiples of it."""


def fluid_step(busy: int, teams: dict[str, tuple[float, float]]) -> dict[str, float]:
    """How many of the busy slots each team has: poured out in drops, by weight, until all cups are full."""
    rates = dict.fromkeys(teams, 0.0)
    left, drop = float(busy), busy / 2000
    while left > 1e-9 and any(rates[t] < most - 1e-9 for t, (_, most) in teams.items()):
        open_teams = {t: weight for t, (weight, most) in teams.items() if rates[t] < most - 1e-9}
        poured = min(drop, left)
        for team, weight in open_teams.items():
            more = min(poured * weight / sum(open_teams.values()), teams[team][1] - rates[team])
            rates[team] += more
            left -= more
    return rates


@given(
    capacity=st.integers(1, 6),
    teams=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_the_fluid_is_divided_as_if_poured_drop_by_drop(capacity: int, teams: list[tuple[int, int]]) -> None:
    named = {str(n): (float(weight), float(most)) for n, (weight, most) in enumerate(teams)}
    poured = fluid_step(capacity, named)
    rates = fluid_rates(capacity, *({t: pair[i] for t, pair in named.items()} for i in (0, 1)))
    assert rates == pytest.approx(poured, abs=0.02 * capacity)


def served(
    weights: list[float],
    quotas: list[int | None],
    slots: int,
    durations: random.Random,
    jobs_per_slot: int = 1,
) -> dict[str, tuple[float, float]]:
    """Every team has jobs all the time. How far each team's service was behind the fluid's, and ahead of it.

    The fluid is this function's own, from the slots that are busy; the accounts only say whose turn it is. A
    slot that jobs share has others when the last of them has ended.
    """
    names = [str(n) for n in range(len(weights))]
    quota = {name: quotas[n] for n, name in enumerate(names)}
    shares = Shares(lambda team: Terms(weights[int(team)], quota[team]))
    for name in names:
        for _ in range(200 * jobs_per_slot):
            shares.queued(1.0, name)
    real, fluid = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    behind, ahead = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    running: dict[str, tuple[str, int, str]] = {}  # job: team, the tick at which it ends, its process
    ids = map(str, itertools.count())
    most = {n: float(quota[n] or slots * jobs_per_slot) for n in names}
    total = 0.0

    def with_room() -> list[str]:
        return [name for name in names if shares.has_room(name)]

    def begin(team: str, process: str) -> None:
        job = next(ids)
        shares.began(now, team, job, process)
        length = max(1, round(durations.uniform(0.05, 1.0) * LONGEST / STEP))
        running[job] = (team, tick + length, process)

    for tick in range(int(25 * LONGEST / STEP)):
        now = 1.0 + tick * STEP
        for job in [job for job, (_, end, _) in running.items() if end <= tick]:
            shares.ended(now, running.pop(job)[0], job)
        while len({place for _, _, place in running.values()}) < slots and (may := with_room()):
            process = f"process {next(ids)}"
            begin(shares.next_team(may), process)
            for _ in range(jobs_per_slot - 1):
                team = shares.next_team_to_join(with_room(), process)
                if team is not None:
                    begin(team, process)
        sharing = Counter(place for _, _, place in running.values())
        rates = fluid_rates(len(sharing), dict(zip(names, weights, strict=True)), most)
        total += STEP * len(sharing)
        for name in names:
            real[name] += STEP * sum(1 / sharing[p] for team, _, p in running.values() if team == name)
            fluid[name] += STEP * rates[name]
            behind[name] = max(behind[name], fluid[name] - real[name])
            ahead[name] = max(ahead[name], real[name] - fluid[name])
    shares.advance(now + STEP)
    assert sum(shares.account(name).service for name in names) == pytest.approx(total), "none is lost or made"
    for name in names:
        account = shares.account(name)
        assert account.service == pytest.approx(real[name], abs=1e-6)
        assert account.lag == pytest.approx(fluid[name] - real[name], abs=1e-6)
    return {name: (behind[name], ahead[name]) for name in names}


@given(
    weights=st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=6),
    slots=st.integers(1, 4),
    jobs_per_slot=st.sampled_from([1, 1, 2, 4]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_team_stays_within_one_longest_job_of_the_fluid_or_two_where_slots_are_shared(
    weights: list[float], slots: int, jobs_per_slot: int, seed: int, data: st.DataObject
) -> None:
    quotas = data.draw(
        st.lists(st.sampled_from([None, None, 1, 2]), min_size=len(weights), max_size=len(weights))
    )
    durations = random.Random(seed)
    for team, (behind, ahead) in served(weights, quotas, slots, durations, jobs_per_slot).items():
        bound = LONGEST if jobs_per_slot == 1 else 2 * LONGEST
        assert max(behind, ahead) <= bound, f"team {team}, quotas {quotas}"


def test_five_teams_on_two_slots_are_within_one_longest_job() -> None:
    for seed in range(5):
        found = served([1, 1, 1, 2, 3], [None] * 5, 2, random.Random(seed))
        assert max(max(pair) for pair in found.values()) <= LONGEST


def test_a_team_that_was_away_has_no_credit() -> None:
    shares = Shares(lambda team: Terms())
    shares.queued(1.0, "busy")
    shares.began(1.0, "busy", "long")
    for _ in range(4):
        shares.queued(100.0, "busy")
        shares.queued(100.0, "new")
    shares.ended(100.0, "busy", "long")
    turns = []
    now = 100.0
    for job in map(str, range(8)):
        waiting = [team for team in ("busy", "new") if shares.account(team).waiting]
        turns.append(shares.next_team(waiting))
        shares.began(now, turns[-1], job)
        now += 10
        shares.ended(now, turns[-1], job)
    assert turns[:6].count("new") == 3, "half, not all until it has had as much as the other one ever had"


def test_what_follows_a_job_moves_the_account_of_its_team() -> None:
    shares = Shares(lambda team: Terms(max_running=1))
    for now, (before, after) in enumerate(
        [(None, "queued"), ("queued", "running"), ("running", "queued"), ("queued", "running")], start=1
    ):
        follow(shares, float(now), "a", "a/x/1", before, after)
    follow(shares, 4.0, "a", "a/y/1", None, "queued")
    assert not shares.has_room("a")
    follow(shares, 6.0, "a", "a/x/1", "running", "succeeded")
    follow(shares, 6.0, "a", "a/y/1", "queued", "cancelled")
    account = shares.account("a")
    assert (account.waiting, len(account.began), account.service) == (0, 0, 3.0)
    assert shares.has_room("a")


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    shares = Shares(lambda team: Terms())
    shares.queued(100.0, "a")
    shares.began(100.0, "a", "x")
    shares.advance(110.0)
    shares.advance(50.0)
    shares.ended(60.0, "a", "x")
    assert shares.account("a").service == 10.0
