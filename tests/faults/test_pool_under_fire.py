"""A full pool whose jobs, actor, node and cluster are killed at random: nothing is lost or done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import QUICK, TOKEN, nodes
from pool_tasks import lags, most_at_once, process_of
from small_tasks import a_task, register_base
from waiting import wait_for

from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.pool import Pool, PoolSettings
from cluster.pool.journal import Journal

WEIGHTS = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0, "e": 3.0}
QUOTAS = {"d": 1}
JOBS = 8
"""Of each team."""
SLOTS = 2
CHECKS = {**QUICK, "health_check_period_ms": 1000, "health_check_timeout_ms": 5000}
"""Of Ray's own: a busy machine is not given up."""


def kill_job(pool: Pool, chance: random.Random) -> str:
    """Kill the process of a job that runs."""
    running = [job for job in pool.jobs() if job.state == "running"]
    if running and (process := process_of(chance.choice(running))):
        process.kill()
    return "job"


def kill_actor(pool: Pool) -> str:
    """Kill the pool itself: that of this test's cluster."""
    ours = TOKEN["RAY_AUTH_TOKEN"]
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "ray::PoolActor" and process.environ().get("RAY_AUTH_TOKEN") == ours:
            process.kill()
    return "actor"


def fire(pool: Pool, chance: random.Random, until: int, kills: list[Callable[[], str]]) -> list[str]:
    """Kill one thing after the other, each after some more jobs have succeeded, until so many have."""
    begun, killed = succeeded(pool), []
    for number, kill in enumerate(kills):
        wait_for(partial(has, pool, begun + (until - begun) * number // len(kills)))
        time.sleep(chance.uniform(0, 3))
        killed.append(kill())
    wait_for(partial(has, pool, until))
    return killed


def succeeded(pool: Pool) -> int:
    """How many jobs have."""
    return sum(job.state == "succeeded" for job in pool.jobs())


def has(pool: Pool, jobs: int) -> bool:
    """Whether so many jobs have succeeded."""
    return succeeded(pool) >= jobs


@pytest.mark.slow
def test_all_jobs_end_once_and_shares_and_quotas_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    chance = random.Random(8)
    uri = register_base(tmp_path)
    settings = PoolSettings.model_validate(
        {
            "dir": tmp_path / "pool",
            "tracking_uri": uri,
            "max_failures": 10,
            "teams": {
                team: {"weight": weight, "max_running": QUOTAS.get(team)} for team, weight in WEIGHTS.items()
            },
        }
    )
    places: dict[str, Any] = {"resources": {"finetune": SLOTS}, "system": CHECKS}
    with nodes(1, **places) as (there, [raylet]), ray_cluster(there.address), Pool.start(settings) as pool:
        for number in range(JOBS):
            for team in WEIGHTS:
                pool.submit(a_task(tmp_path, team, f"t{number}", steps=chance.randint(10, 60)))

        def kill_node() -> str:
            raylet.kill()
            there.add()
            return "node"

        job, actor = partial(kill_job, pool, chance), partial(kill_actor, pool)
        killed = fire(pool, chance, 20, [job, job, actor, job, job, kill_node, job, job])
    # The cluster is gone, with all of its processes, wherever they were.
    with nodes(1, **places) as (there, _), ray_cluster(there.address), Pool.start(settings) as pool:
        job, actor = partial(kill_job, pool, chance), partial(kill_actor, pool)
        killed += fire(pool, chance, JOBS * len(WEIGHTS), [job, actor, job, job, job, job])
        pool.stop()

    journal = Journal(settings.dir)
    jobs, transitions = journal.jobs(), journal.transitions()
    assert len(jobs) == JOBS * len(WEIGHTS)
    assert {job.state for job in jobs} == {"succeeded"}
    versions = [version.name for version in registry.versions(uri) if version.name != "base"]
    assert sorted(versions) == sorted(f"base--{job.team}--{job.name}" for job in jobs), "one version each"
    assert most_at_once(transitions) == SLOTS
    for team, quota in QUOTAS.items():
        assert most_at_once(transitions, team) <= quota
    assert {"job", "actor", "node"} <= set(killed), killed
    assert sum(job.attempts for job in jobs) > len(jobs), "some were hit"
    behind, longest = lags(transitions, WEIGHTS, QUOTAS)
    print(f"killed {killed}; behind the fluid by {behind}, longest job {longest:.1f} s")
    assert max(map(abs, behind.values())) <= longest
