"""Which job begins next, and which makes room."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.pool.journal import Job
from cluster.pool.order import next_job, to_preempt
from cluster.pool.shares import Shares, Terms, follow


def a_job(team: str, name: str, priority: int = 0, state: Any = "queued", changed: float = 1.0) -> Job:
    return Job(
        id=f"{team}/{name}/1",
        team=team,
        name=name,
        number=1,
        base="models:/base/1",
        priority=priority,
        deadline=None,
        task={},
        state=state,
        submitted=1.0,
        changed=changed,
        reason=None,
        ending=None,
        attempts=1,
        failures=0,
        failed_at=-1,
        result=None,
        error=None,
    )


def shares_of(*jobs: Job, quotas: dict[str, int] | None = None) -> Shares:
    shares = Shares(lambda team: Terms(max_running=(quotas or {}).get(team)))
    for job in jobs:
        follow(shares, 1.0, job.team, job.id, None, "queued")
        if job.state == "running":
            follow(shares, 1.0, job.team, job.id, "queued", "running")
    shares.advance(11.0)
    return shares


def test_priority_then_share_then_age() -> None:
    running = a_job("a", "r", state="running")
    queued = [a_job("a", "1"), a_job("b", "2"), a_job("b", "3"), a_job("a", "4", priority=1)]
    shares = shares_of(running, *queued)
    assert next_job(queued, shares) == queued[3]
    assert next_job(queued[:3], shares) == queued[1], "team a has a slot, team b has none"
    assert next_job([], shares) is None


def test_a_team_at_its_quota_waits_whatever_its_priority() -> None:
    running, urgent, other = a_job("a", "r", state="running"), a_job("a", "u", priority=9), a_job("b", "o")
    shares = shares_of(running, urgent, other, quotas={"a": 1})
    assert next_job([urgent, other], shares) == other
    assert next_job([urgent], shares) is None


@pytest.mark.parametrize(
    ("free", "quota", "expected"), [(0, None, "b/old/1"), (1, None, None), (1, 1, "a/r/1")]
)
def test_room_is_made_by_the_lowest_and_at_the_quota_by_one_s_own(
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
