"""A commit in flight: training continues, and its end waits for the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from small_runs import events, run_workers
from torch import nn
from waiting import wait_for

from cluster import pretrain
from cluster.checkpoints import durable
from cluster.checkpoints.host_copy import HostCopies
from cluster.settings import PretrainSettings
from cluster.training import worker


def pretrain_on_a_slow_disk(config: dict[str, Any]) -> None:
    """Worker function: a manifest takes until the next commit waits for it, then a step fails."""
    write, step, made = durable.write, worker.optimizer_step, 0
    run = Path(config["settings"]["run"]["dir"])

    def writing(path: Path, content: Callable[[BinaryIO], object]) -> str:
        if path.name == "commit.json":
            wait_for(lambda: len(events(run, "step")) >= 4)
            time.sleep(0.5)
        return write(path, content)

    def stepping(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 6:
            raise RuntimeError("this step is broken")
        return step(*arguments)

    durable.write, worker.optimizer_step = writing, stepping
    pretrain.pretrain_worker(config)


def test_steps_are_made_meanwhile_and_an_error_waits(settings: Callable[..., PretrainSettings]) -> None:
    run = settings(checkpoint={"every": 2}, train={"validate_every": 9}, cluster={"workers": 1})
    with pytest.raises(Exception, match="this step is broken"):
        run_workers(run, work=pretrain_on_a_slow_disk)
    first, second = events(run.run.dir, "checkpoint")
    assert (first["step"], second["step"]) == (2, 4)
    # Steps 3 and 4 are made while the first is in flight; the second waits for it, and the error for both.
    made = {event["step"]: event["time"] for event in events(run.run.dir, "step")}
    assert made[3] < made[4] < first["time"] < made[5] < second["time"]
    assert first["blocked_seconds"] < first["checkpoint_seconds"] - 0.5
    assert second["blocked_seconds"] > 0
    names = sorted(path.name for path in (run.run.dir / "checkpoints").iterdir())
    assert names == ["step-000000002", "step-000000004"]


def test_copies_are_compact_and_later_ones_take_the_same_memory() -> None:
    whole = torch.arange(1000.0)
    state = {"views": [whole[:3], whole[3:6]], "p": nn.Parameter(whole[:2]), "shape": torch.Size((2, 3))}
    copies = HostCopies()
    first = copies.of(state)
    copies.fill()
    whole += 1
    assert [view.tolist() for view in first["views"]] == [[0, 1, 2], [3, 4, 5]]
    assert first["views"][0].untyped_storage().nbytes() == 12
    assert first["shape"].numel() == 6
    assert not first["p"].requires_grad
    copies.begin()
    second = copies.of(state)
    copies.fill()
    assert [view.tolist() for view in second["views"]] == [[1, 2, 3], [4, 5, 6]]
    assert [v.data_ptr() for v in first["views"]] == [v.data_ptr() for v in second["views"]]
