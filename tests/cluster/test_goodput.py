"""Goodput and the time left, computed from event logs for which both are known."""

from __future__ import annotations

import random

import pytest
from logged_runs import Log, troubled

from cluster.planning.hindsight import goodput_in_hindsight
from cluster.runs.events import Event
from cluster.runs.goodput import PARTS, Account
from cluster.runs.pace import Pace, TimeLeft, time_left
from cluster.settings import CheckpointSettings


def account(log: Log) -> Account:
    counted = Account()
    for event in log.events:
        counted.add(event)
    return counted


def test_the_parts_of_a_run_with_three_kills_are_the_true_ones_and_add_up() -> None:
    log = troubled()
    counted = account(log)
    assert counted.wall == pytest.approx(log.now - 1000.0, rel=1e-9)
    for part in PARTS:
        assert counted.seconds[part] == pytest.approx(log.truth[part], abs=0.3), part
    assert counted.seconds["repeat"] == pytest.approx(4 * 1.25 - 0.25 + 2 * 1.25 - 0.25 + 4 * 1.25)
    assert counted.steps == 30
    assert counted.goodput == pytest.approx(log.truth["train"] / (log.now - 1000.0), rel=0.01)
    assert [accident.is_preemption for accident in counted.accidents] == [False] * 4


def test_time_in_which_nobody_ran_the_command_does_not_count() -> None:
    log = Log()
    log.say(Event.LAUNCHED)
    log.start()
    log.steps(1, 4)
    log.say(Event.PREEMPTED, 4)
    wall = account(log).wall
    log.now += 10**6
    log.say(Event.LAUNCHED)
    log.start(step=4, seconds=10.0)
    assert account(log).wall == pytest.approx(wall + 10.0)


def test_a_job_has_starts_though_nobody_announces_them() -> None:
    log = Log()
    log.say(Event.STARTED, workers=1, reason="")
    log.steps(1, 10)
    log.say(Event.CHECKPOINT, 10, checkpoint_seconds=0.0, blocked_seconds=0.0)
    log.say(Event.PREEMPTED, 10)
    log.now += 10**6  # in the pool's queue
    log.say(Event.RESUMED, 10, workers=1, reason="")
    log.steps(11, 12)
    log.now += 30.0  # its process was killed
    log.say(Event.RESUMED, 10, workers=1, reason="")
    log.steps(11, 14)
    counted = account(log)
    assert [accident.is_preemption for accident in counted.accidents] == [False, True, False]
    assert counted.seconds["repeat"] == pytest.approx(2 * 1.25)
    assert counted.wall == pytest.approx(16 * 1.25 + 30.0)
    assert goodput_in_hindsight(counted, CheckpointSettings(every=10)) == pytest.approx(14 / 50, abs=0.1)


def test_steps_that_were_skipped_or_rolled_back_are_no_training() -> None:
    log = Log()
    log.say(Event.LAUNCHED)
    log.start()
    log.steps(1, 3)
    log.say(Event.CHECKPOINT, 3, checkpoint_seconds=0.0, blocked_seconds=0.0)
    log.steps(4, 5)
    log.now += 1.25
    log.say(Event.SKIPPED, 6, reason="loss", samples=[])
    log.now += 2.0
    log.say(Event.ROLLBACK, 6, reason="too many", to=3)
    counted = account(log)
    assert counted.seconds["repeat"] == pytest.approx(3 * 1.25)
    assert counted.seconds["train"] == pytest.approx(3.0)
    assert counted.seconds["restart"] == pytest.approx(22.0)


def test_nodes_with_other_clocks_do_not_turn_time_back() -> None:
    log = Log()
    log.say(Event.LAUNCHED)
    log.start()
    log.steps(1, 2)
    log.now -= 5.0
    log.fail(lost=0.0)
    counted = account(log)
    assert min(counted.seconds.values()) >= 0
    assert counted.wall == pytest.approx(20.0 + 2 * 1.25)


def paced(seconds: list[float]) -> Pace:
    pace, now = Pace(), 0.0
    for step, more in enumerate(seconds, 1):
        now += more
        pace.add({"time": now, "event": Event.STEP, "step": step})
    return pace


def test_nine_in_ten_intervals_contain_the_time_that_the_rest_took() -> None:
    chance, hits = random.Random(0), 0
    for _ in range(400):
        # A commit every 10 steps, and steps of several depths.
        seconds = [chance.choice([0.5, 1, 1, 2]) + 3 * (step % 10 == 0) for step in range(1000)]
        made = chance.randrange(100, 900)
        left = paced(seconds[:made]).left(1000)
        assert left is not None
        assert left.low <= left.seconds <= left.high
        hits += left.low <= sum(seconds[made:]) <= left.high
    assert 0.85 <= hits / 400 <= 0.98


def test_equal_steps_take_exactly_what_they_took() -> None:
    pace = paced([2.0] * 500)
    assert pace.left(600) == TimeLeft(200.0, 200.0, 200.0)
    assert pace.left(500) == TimeLeft(0.0, 0.0, 0.0)
    assert pace.left(400) == TimeLeft(0.0, 0.0, 0.0), "train.steps was lowered"
    assert paced([2.0] * 4).left(600) is None


def test_a_restart_is_part_of_the_pace_and_a_night_without_the_command_is_not() -> None:
    events = [{"time": float(step), "event": "step", "step": step} for step in range(1, 11)]
    repeated = [{"time": 100.0 + step, "event": "step", "step": step} for step in range(5, 21)]
    left = time_left([*events, *repeated], 30)
    assert left is not None
    assert left.seconds == pytest.approx(10 * (120.0 - 1.0) / 19)
    launched = {"time": 100.0, "event": "launched", "step": 0}
    left = time_left([*events, launched, *repeated], 30)
    assert left is not None
    assert left.seconds == pytest.approx(10.0)


def test_the_simulation_of_the_same_accidents_gives_about_what_was_measured() -> None:
    counted = account(troubled())
    simulated = goodput_in_hindsight(counted, CheckpointSettings(every=10))
    assert simulated == pytest.approx(counted.goodput, rel=0.15)
    assert goodput_in_hindsight(Account(), CheckpointSettings()) is None
