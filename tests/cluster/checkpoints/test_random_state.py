"""A killed run with dropout continues exactly like an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import events, run_workers, tiny_shape
from torch import distributed as dist

import odeformer
from cluster import pretrain
from cluster.checkpoints import random_state
from cluster.checkpoints.commit import Checkpoints
from cluster.settings import (
    CheckpointSettings,
    OptimSettings,
    PretrainSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.training import zero
from odeformer.model import Odeformer

SETTINGS = OptimSettings(), ZeroSettings(stage=1)


class Nowhere:
    """A stream position that never changes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def draw_again(config: dict[str, Any]) -> None:
    folder = Path(config["settings"]["run"]["dir"])
    engine = zero.initialize(
        Odeformer(tiny_shape(50, 8)), TrainSettings(steps=9, global_batch=2, micro_batch=1), *SETTINGS, folder
    )
    with Checkpoints(
        engine, Nowhere(), folder / "checkpoints", CheckpointSettings(), lambda *_: None, 7
    ) as commits:
        assert commits.restore() == 0
        anew = torch.rand(3)
        commits.save(2)
        drawn = torch.rand(3)
        assert commits.restore() == 2
        assert torch.equal(torch.rand(3), drawn), "as it would have gone on"
        mine = drawn.clone()
        dist.broadcast(drawn, 0)
        assert dist.get_rank() == 0 or not torch.equal(mine, drawn), "each rank draws its own"
        # A commit of other workers, or of before there were random states: a new beginning.
        manifest = folder / "checkpoints/step-000000002/commit.json"
        content = json.loads(manifest.read_text())
        content["files"] = {name: x for name, x in content["files"].items() if "random" not in name}
        dist.barrier()
        if dist.get_rank() == 0:
            manifest.write_text(json.dumps(content | {"format_version": 2}))
        dist.barrier()
        beginnings = []
        for _ in range(2):
            assert commits.restore() == 2
            beginnings.append(torch.rand(3))
        assert torch.equal(*beginnings)
        assert not torch.equal(beginnings[0], mine)
        assert not torch.equal(beginnings[0], anew)


def test_what_is_drawn_goes_on_and_begins_anew_with_other_workers(
    settings: Callable[..., PretrainSettings],
) -> None:
    run_workers(settings(), work=draw_again)


def pretrain_and_die(config: dict[str, Any]) -> None:
    """Worker function that kills itself after the commit of step 2."""
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, step: int) -> None:
        save(self, step)
        self.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die  # type: ignore[method-assign]
    pretrain.pretrain_worker(config)


@pytest.mark.slow
def test_a_killed_run_drops_out_what_an_uninterrupted_one_does(
    settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    def run(name: str) -> PretrainSettings:
        return settings(
            model={"flavour": "paper", "dropout": 0.3, "rotary_fraction": None},
            train={"steps": 4, "validate_every": 9},
            checkpoint={"every": 2},
            run={"dir": tmp_path / name},
        )

    whole, killed = run("whole"), run("killed")
    run_workers(whole)
    with pytest.raises(Exception, match="SIGKILL"):
        run_workers(killed, work=pretrain_and_die)
    run_workers(killed)
    assert [event["step"] for event in events(killed.run.dir, "resumed")] == [2]
    first, second = (odeformer.load(run.run.dir / "final").state_dict() for run in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    states = [
        (killed.run.dir / "checkpoints/step-000000002" / random_state.file_name(rank)).read_bytes()
        for rank in range(2)
    ]
    assert states[0] != states[1], "ranks drop out different things"


def test_a_beginning_is_one_of_seed_step_and_rank() -> None:
    drawn = set()
    for seed, step, rank in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        for _ in range(2):
            random_state.begin(seed, step, rank)
            drawn.add(torch.rand(3).sum().item())
    assert len(drawn) == 4
