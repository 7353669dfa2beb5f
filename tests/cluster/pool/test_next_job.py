"""Which job begins next, and which makes room."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.pool.job import JobRecord
from cluster.pool.order import next_job, next_to_join, to_preempt
from cluster.pool.shares import Shares, Terms, follow

TASK = {"kind": "classification", "data": {"train": "train.jsonl"}, "train": {"sequence_length": 8}}


def a_job(
    team: str,
    name: str,
    priority: int = 0,
    state: Any = "queued",
    changed: float = 1.0,
    process: str | None = None,
    failures: int = 0,
    **task: Any,
) -> JobRecord:
    return JobRecord(
        id=f"{team}/{name}/1",
        team=team,
        name=name,
        number=1,
        base="models:/base/1",
        priority=priority,
        deadline=None,
        task={"team": team, "name": name, "base": "models:/base/1", **TASK, **task},
        state=state,
        submitted=1.0,
        changed=changed,
        reason=None,
        ending=None,
        attempts=1,
        failures=failures,
        failed_at=-1,
        result=None,
        error=None,
        process=process,
    )


def shares_of(
    *jobs: JobRecord,
    quotas: dict[str, int] | None = None,
    weights: dict[str, float] | None = None,
    now: float = 11.0,
) -> Shares:
    shares = Shares(lambda team: Terms((weights or {}).get(team, 1.0), (quotas or {}).get(team)))
    for job in jobs:
        follow(shares, 1.0, job.team, job.id, None, "queued")
        if job.state == "running":
            follow(shares, 1.0, job.team, job.id, "queued", "running", job.process)
    shares.advance(now)
    return shares


def test_priority_then_share_then_age() -> None:
    running = a_job("a", "r", state="running")
    queued = [a_job("a", "1"), a_job("b", "2"), a_job("b", "3"), a_job("a", "4", priority=1)]
    shares = shares_of(running, *queued)
    assert next_job(queued, shares) == queued[3]
    assert next_job(queued[:3], shares) == queued[1], "team a has a slot, team b has none"
    assert next_job([], shares) is None


def test_who_shares_a_slot_is_alike_and_chosen_like_the_next_one() -> None:
    first = a_job("a", "r", state="running", process="p")
    alike = [a_job("a", "1"), a_job("b", "2"), a_job("b", "3")]
    others = [
        a_job("b", "urgent", priority=1),
        a_job("b", "long", train={"sequence_length": 16}),
        a_job("b", "unsaid", train={}),
        a_job("b", "whole", method="full"),
        a_job("b", "died", failures=1),
    ]
    shares = shares_of(first, *others, *alike, now=1.0)
    assert next_to_join([first], [*others, *alike], shares) == alike[1], "team b has no slot"
    assert next_to_join([first], others, shares) is None
    assert next_to_join([a_job("a", "r", failures=1)], alike, shares) is None, "it is tried alone"
    assert next_to_join([a_job("a", "r", train={})], alike, shares) is None
    of_a = shares_of(first, alike[0], a_job("b", "r", state="running"), *alike[1:], quotas={"b": 1}, now=1.0)
    assert next_to_join([first], alike, of_a) == alike[0], "team b's quota is used up"


def test_nobody_takes_much_more_than_its_share_of_a_slot_of_another_team() -> None:
    heavy = a_job("a", "r", state="running", process="p")
    light = a_job("b", "l", state="running", process="p")
    queued = [a_job("b", "2"), a_job("b", "3")]
    shares = shares_of(heavy, light, *queued, weights={"a": 5.0}, now=1.0)
    assert next_to_join([heavy, light], queued, shares) is None, "half of it is too much already"
    alone = shares_of(light, *queued, now=1.0)
    assert next_to_join([light], queued, alone) == queued[0], "from its own it may take"


def test_a_team_that_cannot_make_up_for_it_is_not_joined() -> None:
    heavy, light = a_job("a", "r", state="running", process="p"), a_job("b", "l")
    only = shares_of(heavy, light, weights={"a": 5.0}, now=1.0)
    assert next_to_join([heavy], [light], only) is None
    with_more = shares_of(heavy, a_job("a", "2"), light, weights={"a": 5.0}, now=1.0)
    assert next_to_join([heavy], [light], with_more) == light
    at_its_quota = shares_of(heavy, a_job("a", "2"), light, weights={"a": 5.0}, quotas={"a": 1}, now=1.0)
    assert next_to_join([heavy], [light], at_its_quota) is None


def test_a_team_at_its_quota_waits_whatever_its_priority() -> None:
    running, urgent, other = a_job("a", "r", state="running"), a_job("a", "u", priority=9), a_job("b", "o")
    shares = shares_of(running, urgent, other, quotas={"a": 1})
    assert next_job([urgent, other], shares) == other
    assert next_job([urgent], shares) is None


@pytest.mark.parametrize(
    ("free", "quota", "expected"), [(0, None, "b/old/1"), (1, None, None), (1, 1, "a/r/1")]
)
def test_room_is_made_by_the_lowest_and_at_the_quota_by_the_same_team(
    free: int, quota: int | None, expected: str | None
) -> None:
    own = a_job("a", "r", priority=1, state="running")
    others = [a_job("b", "old", state="running", changed=2.0), a_job("c", "x", priority=2, state="running")]
    urgent = a_job("a", "u", priority=2)
    shares = shares_of(own, *others, urgent, quotas={} if quota is None else {"a": quota})
    victim = to_preempt([urgent], [own, *others], free, shares)
    assert (victim.id if victim else None) == expected


def test_equals_do_not_preempt_each_other_and_the_latest_goes_first() -> None:
    first, second = (a_job("b", n, state="running", changed=t) for n, t in (("1", 2.0), ("2", 3.0)))
    equal, urgent = a_job("a", "e"), a_job("a", "u", priority=1)
    shares = shares_of(first, second, equal, urgent)
    assert to_preempt([equal], [first, second], 0, shares) is None
    assert to_preempt([equal, urgent], [first, second], 0, shares) == second
