"""Simulated runs against closed forms: nothing happens; failures at random; slow nodes; too few nodes."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from cluster.planning.forecast import quantiles, summary
from cluster.planning.reliability import best_interval, goodput
from cluster.planning.simulation import DAY, LongRun, simulate

CALM = LongRun(steps=1_000, step_seconds=2.0, commit_every=200.0, commit_seconds=5.0)


def mean_wall(run: LongRun, times: int, seed: int = 0) -> tuple[float, float]:
    """Mean and its standard error, in seconds."""
    walls = [one.wall for one in simulate(run, seed, times)]
    return fmean(walls), stdev(walls) / math.sqrt(times)


@pytest.mark.parametrize(
    ("changes", "commits"),
    [
        ({}, 10 * 5.0),
        ({"commit_seconds": 0.0}, 0.0),
        ({"steps": 1_050}, 11 * 5.0),  # one of the last steps, too
        ({"write_seconds": 30.0}, 10 * 5.0 + 30),  # behind the work, but for the last
        ({"write_seconds": 230.0}, 5 + 9 * (30 + 5) + 230),  # a commit waits for the one before
        ({"commit_every": 1.0, "steps": 10}, 10 * 5.0),  # a step at least
    ],
)
def test_without_failures_a_run_takes_its_steps_and_its_commits(
    changes: dict[str, float], commits: float
) -> None:
    run = LongRun(**(CALM.__dict__ | changes))
    [outcome] = simulate(run, 0, 1)
    assert outcome.wall == pytest.approx(run.steps * 2.0 + commits)
    assert outcome.seconds["work"] == pytest.approx(run.steps * 2.0)


@pytest.mark.parametrize(
    ("every", "commit", "between", "restart"),
    [(300.0, 20.0, 5_000.0, 300.0), (600.0, 5.0, 2_000.0, 100.0), (100.0, 30.0, 1_000.0, 0.0)],
)
def test_failures_at_random_take_as_long_as_daly_says(
    every: float, commit: float, between: float, restart: float
) -> None:
    """Daly 2006, equation 20, is exact for failures at a constant rate, also in commits and restarts."""
    run = LongRun(
        steps=30_000,
        step_seconds=1.0,
        commit_every=every,
        commit_seconds=commit,
        failures_per_day=DAY / between,
        restart_seconds=restart,
    )
    found, error = mean_wall(run, 400)
    assert error < 0.01 * found, "or the next line says nothing"
    assert found == pytest.approx(run.work / goodput(every, commit, between, restart), abs=4 * error)


def test_the_best_of_many_intervals_is_that_of_young_and_daly() -> None:
    commit, between = 20.0, 6_000.0
    best = best_interval(commit, between)
    tried = [best * 2 ** (at / 2) for at in range(-4, 5)]
    rates = {"failures_per_day": DAY / between, "restart_seconds": 60.0}
    walls = {
        every: mean_wall(LongRun(100_000, 1.0, every, commit, **rates), 100)[0] / 100_000 for every in tried
    }
    assert min(walls, key=walls.__getitem__) == pytest.approx(best, rel=0.45), "a neighbor at most"
    assert walls[tried[0]] > walls[best] < walls[tried[-1]]


def test_what_is_on_its_way_when_a_node_fails_is_lost() -> None:
    """A failure in an interval loses half of it, and while a commit is being written a whole one more."""
    rates = {"failures_per_day": 20.0, "restart_seconds": 0.0}

    def lost(write: float) -> float:
        run = LongRun(200_000, 1.0, 400.0, 0.0, write, **rates)
        outcomes = simulate(run, 3, 200)
        failures = sum(one.failures for one in outcomes)
        return sum(one.seconds["work made again"] for one in outcomes) / failures

    between = DAY / 20.0
    # Of an interval that a failure falls into: E[x | x < τ] for exponential x.
    half = between - 400 / math.expm1(400 / between)
    assert lost(0.0) == pytest.approx(half, rel=0.03)
    assert lost(200.0) == pytest.approx(half + 400 * (200 / 400), rel=0.05)


def test_a_slow_node_slows_all_of_them() -> None:
    """Slow nodes come and go as in a queue with servers for everybody: none is slow e^−ρ of the time."""
    run = LongRun(5_000, 100.0, 10_000.0, stragglers_per_day=6.0, slowdown=1.5, slow_seconds=7_200.0)
    none = math.exp(-6.0 * 7_200 / DAY)
    speed = none + (1 - none) / 1.5
    found, error = mean_wall(run, 300)
    # It begins with none, which is a little faster.
    assert found == pytest.approx(run.work / speed, abs=4 * error + 7_200 * (1 - speed))
    assert all(one.goodput == pytest.approx(run.work / one.wall) for one in simulate(run, 0, 5))


def test_a_preemption_loses_no_step_and_costs_a_commit_and_a_restart() -> None:
    run = LongRun(
        50_000,
        1.0,
        500.0,
        5.0,
        40.0,
        restart_seconds=200.0,
        preemptions_per_day=DAY / 5_000,
        away_seconds=60.0,
    )
    outcomes = simulate(run, 0, 200)
    taken = sum(one.preemptions for one in outcomes)
    assert taken > 1_000
    again = sum(one.seconds["work made again"] for one in outcomes) / taken
    assert again == pytest.approx(0.5, abs=0.1), "half of the step in progress"
    stopped = sum(one.seconds["restarts"] for one in outcomes) / taken
    assert stopped == pytest.approx(200, rel=0.05), "less, where one is taken during a restart"


def test_without_a_spare_the_run_waits_until_the_node_is_mended() -> None:
    rates = {"failures_per_day": 2.0, "restart_seconds": 0.0, "repair_seconds": 10_000.0}
    run = LongRun(100_000, 10.0, 100.0, spares=0, **rates)
    outcomes = simulate(run, 0, 20)
    for one in outcomes:
        assert one.seconds["waiting for nodes"] == pytest.approx(one.failures * 10_000)
    [plenty] = simulate(LongRun(100_000, 10.0, 100.0, spares=None, **rates), 0, 1)
    assert plenty.seconds["waiting for nodes"] == 0
    some = fmean(one.wall for one in simulate(LongRun(100_000, 10.0, 100.0, spares=1, **rates), 0, 20))
    assert plenty.wall < some < fmean(one.wall for one in outcomes)


def test_the_same_seed_has_the_same_accidents_and_parts_are_the_whole() -> None:
    run = LongRun(
        20_000, 5.0, 300.0, 3.0, 60.0, 10.0, 300.0, 1, preemptions_per_day=3.0, stragglers_per_day=3.0
    )
    outcomes = simulate(run, 5, 20)
    assert simulate(run, 5, 20) == outcomes != simulate(run, 6, 20)
    said = summary(run, outcomes, 5)
    assert sum(said["parts"].values()) == pytest.approx(1)
    assert all(share > 0 for share in said["parts"].values())
    assert said["days"]["low"] < said["days"]["median"] < said["days"]["high"]
    assert quantiles(range(101)) == (5, 50, 95)
