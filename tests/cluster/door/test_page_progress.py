"""How far a job is, from its log: curves, speed, and what is no number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cluster.door.pages.drawing import chart, nice_numbers, smooth, sparkline
from cluster.door.pages.progress import MOST_POINTS, Point, ProgressLog, ProgressLogs, Validation
from cluster.door.pages.words import duration, metric_name


def write(folder: Path, *events: dict[str, Any]) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def steps(first: int, last: int, began: float, each: float = 2.0) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": step, "loss": float(step), "time": began + each * (step - first)}
        for step in range(first, last + 1)
    ]


def test_losses_speed_and_end_follow_the_log_as_it_grows(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    assert (log.read().step, log.read().losses, log.read().end(10)) == (0, (), None)
    write(tmp_path, {"event": "started", "step": 0, "time": 0.0}, *steps(1, 3, 100.0))
    assert log.read().losses == (Point(1, 1.0), Point(2, 2.0), Point(3, 3.0))
    write(
        tmp_path,
        {"event": "validation", "step": 3, "time": 105.0, "validation_loss": 1.5},
        *steps(4, 6, 106.0),
    )
    seen = log.read()
    assert (seen.step, seen.validations) == (6, (Validation(3, {"loss": 1.5}),))
    assert (seen.seconds_per_step, seen.end(10)) == (2.0, 110.0 + 4 * 2.0)


def test_a_resumed_job_repeats_steps_and_its_pause_is_none_of_their_time(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    validation = {"event": "validation", "step": 6, "validation_loss": 9.0}
    write(tmp_path, *steps(1, 6, 100.0), {**validation, "time": 112.0})
    log.read()
    write(tmp_path, {"event": "resumed", "step": 4, "time": 5000.0})
    assert (log.read().step, log.read().end(10)) == (4, None)
    write(tmp_path, *steps(5, 7, 5001.0, each=1.0), {**validation, "time": 5004.0, "validation_loss": 1.0})
    seen = log.read()
    assert [point.step for point in seen.losses] == [1, 2, 3, 4, 5, 6, 7]
    assert (seen.seconds_per_step, seen.validations) == (1.0, (Validation(6, {"loss": 1.0}),))


def test_a_long_curve_keeps_its_shape_in_few_points(tmp_path: Path) -> None:
    log, count = ProgressLog(tmp_path), 20_000
    for first in range(1, count, 4000):
        write(tmp_path, *steps(first, first + 3999, float(first)))
        seen = log.read()
        assert len(seen.losses) <= 2 * MOST_POINTS
    assert len(seen.losses) > MOST_POINTS / 2
    for point in seen.losses:  # the loss was the step
        assert abs(point.loss - point.step) < count / MOST_POINTS


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    odd: list[Any] = ["<b>", None, True, math.nan, math.inf, 10**400, [], {}]
    for value in odd:
        write(tmp_path, {"event": "step", "step": value, "loss": 1.0, "time": 1.0},
              {"event": "step", "step": 1, "loss": value, "time": value},
              {"event": "validation", "step": 1, "time": 1.0, "validation_loss": value})  # fmt: skip
    write(tmp_path, {"step": 1}, {"event": [], "step": 1, "time": 1.0})
    (tmp_path / "events.jsonl").open("a").write('"text"\n[1]\nno JSON\n')
    write(tmp_path, *steps(1, 2, 1.0))
    seen = ProgressLogs().read(str(tmp_path))
    assert (seen.step, [point.step for point in seen.losses]) == (2, [1, 2])
    drawn = chart(seen)
    assert drawn is not None
    assert drawn.training == "50,100 100,0"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.103, 4.92), (2.0, 2.0), (0.0, 100_000.0), (1e-9, 2e-9)]
)
def test_numbers_at_an_axis_are_few_and_hold_all(low: float, high: float) -> None:
    numbers = nice_numbers(low, high)
    assert numbers[0] <= low + 1e-12
    assert numbers[-1] >= high - 1e-12
    assert 2 <= len(numbers) <= 7


def test_a_drawing_stays_within_its_frame(tmp_path: Path) -> None:
    write(
        tmp_path,
        *steps(1, 30, 0.0),
        {"event": "validation", "step": 30, "time": 60.0, "validation_loss": 99.0},
    )
    seen = ProgressLog(tmp_path).read()
    drawn = chart(seen)
    assert drawn is not None
    for line in (drawn.training, drawn.steps_alone, drawn.validation, sparkline(seen.losses)):
        for pair in line.split():
            assert all(0 <= float(number) <= 100 for number in pair.split(","))
    assert (drawn.marks[0].x, drawn.steps[-1].text) == (100.0, "30")
    assert "training loss 1.000 at step 1, 30.000 at step 30" in drawn.words
    assert chart(ProgressLog(tmp_path / "none").read()) is None


def test_smoothing_keeps_a_constant_and_lessens_noise() -> None:
    assert smooth([Point(step, 2.0) for step in range(9)]) == [Point(step, 2.0) for step in range(9)]
    noisy = smooth([Point(step, float(step % 2)) for step in range(400)])
    assert all(abs(point.loss - 0.5) < 0.2 for point in noisy[50:])


def test_times_and_metrics_in_words() -> None:
    said = [duration(seconds) for seconds in (-1, 59.9, 61, 3599, 3660, 90_000)]
    assert said == ["0 s", "59 s", "1 min 01 s", "59 min", "1 h 01 min", "1 d 1 h"]
    assert [metric_name(metric) for metric in ("loss_4", "accuracy", "reward_margin")] == [
        "loss at N = 4",
        "accuracy",
        "reward margin",
    ]
