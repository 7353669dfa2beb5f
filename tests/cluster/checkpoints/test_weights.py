"""The weights in a commit are those that the run has, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_runs import run_workers

import odeformer
from cluster.checkpoints import folder
from cluster.checkpoints.weights import weights_of
from cluster.settings import PretrainSettings


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_commit_has_the_weights_of_the_run(settings: Callable[..., PretrainSettings], stage: int) -> None:
    run = settings(zero={"stage": stage}, train={"steps": 2}, checkpoint={"every": 2})
    run_workers(run)
    [commit] = folder.commits(run.run.dir / "checkpoints")
    final, found = odeformer.load(run.run.dir / "final").state_dict(), weights_of(commit)
    assert found.keys() == final.keys()
    assert all(torch.equal(found[name], final[name]) for name in final)

    damaged = max((commit / "state").glob("*model_states.pt"), key=lambda file: file.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"model_states\.pt is not what was written"):
        weights_of(commit)
