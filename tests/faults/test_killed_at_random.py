"""Workers, the driver and Ray's raylet, killed at random moments, also while committing.

The run is one with a teacher, which does all that another run does, and loads the teacher at each start.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_runs import weights_of
from small_runs import events, run_workers, small_settings, tiny_shape

from benchmarks.cluster.faults import KILLS, Program, odeformer, run_through
from data.manifest import load_manifest
from odeformer import checkpoint
from odeformer.model import Odeformer

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
    shape, teacher = tiny_shape(load_manifest(shards).vocabulary_size, 32), tmp_path / "teacher"
    torch.manual_seed(7)
    checkpoint.save(Odeformer(shape).state_dict(), shape, "euler", shards / "tokenizer.json", teacher)
    untroubled, settings = (
        small_settings(shards, tmp_path / name, teacher={"model": str(teacher), "depth": 3}, **SECTIONS)
        for name in ("untroubled", "killed")
    )
    run_workers(untroubled)
    settings.run.dir.parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    arguments = [odeformer(), "distill", str(teacher), "config.json"]
    command = Program("command", arguments, tmp_path, settings.run.dir)
    faults = run_through(command, troubles, gap=(5, 15), chance=chance)
    print(seed, faults, command.exits)
    assert len(faults) == len(troubles)
    assert events(settings.run.dir, "step")[-1]["step"] == STEPS
    assert weights_of(settings.run.dir) == weights_of(untroubled.run.dir)
