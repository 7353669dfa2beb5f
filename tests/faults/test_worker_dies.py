"""A killed worker: the run resumes from its last commit and ends with the same weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faulty_runs import STEPS, pretraining, restarts, weights_of
from small_runs import events


@pytest.mark.slow
def test_the_weights_are_those_of_an_uninterrupted_run(
    tmp_path: Path, shards: Path, untroubled: Path
) -> None:
    step = random.randrange(8, 26)
    with pretraining(tmp_path, shards, until=step) as command:
        command.wait_for_step(step)
        command.worker(1).kill()
        command.let(STEPS)
        code, said, errors = command.end()
    assert code == 0, (step, said, errors)
    [restart] = restarts(command.run)
    assert restart["reason"].startswith("worker ")
    assert restart["restart"] == {"pause": 1.0, "left": 2, "preemption": False}
    assert "starting again from step" in said
    # What is made twice are exactly the steps after the last commit.
    committed = restart["step"]
    made = command.steps()
    reached = made[-(STEPS - committed) - 1]
    assert made == [*range(1, reached + 1), *range(committed + 1, STEPS + 1)]
    # The commit after it may have been in flight.
    assert 0 <= reached - committed < 14
    assert committed % 7 == 0
    assert weights_of(command.run) == weights_of(untroubled)
    assert len(events(command.run, "finished")) == 1
