"""Workers, the driver and Ray's raylet, killed at random moments, also while committing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import weights_of
from small_runs import events, run_workers, small_settings

from benchmarks.cluster.faults import KILLS, Program, odeformer, run_through

STEPS = 400
SECTIONS: dict[str, dict[str, Any]] = {
    "train": {"steps": STEPS, "validate_every": 1000, "validation_sequences": 4},
    "checkpoint": {"every": 5},
    "cluster": {"workers": 2, "max_failures": 10},
}


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_very_same_weights(tmp_path: Path, shards: Path) -> None:
    # Another one each time, and shown, so that a failure can be looked into: the moments within a step are
    # the machine's.
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    troubles = [chance.choice(KILLS) for _ in range(7)] + [*KILLS]
    untroubled, settings = (
        small_settings(shards, tmp_path / name, **SECTIONS) for name in ("untroubled", "killed")
    )
    run_workers(untroubled)
    settings.run.dir.parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    command = Program("command", [odeformer(), "pretrain", "config.json"], tmp_path, settings.run.dir)
    faults = run_through(command, troubles, gap=(5, 15), chance=chance)
    print(seed, faults, command.exits)
    assert len(faults) == len(troubles)
    assert events(settings.run.dir, "step")[-1]["step"] == STEPS
    assert weights_of(settings.run.dir) == weights_of(untroubled.run.dir)
