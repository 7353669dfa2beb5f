"""A bit that is flipped in a gradient stops the run before anything with it is committed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from small_runs import events, run_workers
from torch import Tensor
from torch import distributed as dist

from cluster import pretrain
from cluster.checkpoints.folder import commits, step_of
from cluster.runs import heartbeat
from cluster.settings import PretrainSettings
from cluster.tracking import runs
from cluster.training.replay import digest

FLIPPED_AT = 4
"""The step in which a bit is flipped."""


def flipping_worker(config: dict[str, Any]) -> None:
    """Worker function of a run in which rank 1 computes a gradient wrongly by one bit, once."""
    from cluster.training import zero

    initialize, flipped = zero.initialize, []

    def flip(gradient: Tensor) -> Tensor | None:
        if dist.get_rank() != 1 or heartbeat._step != FLIPPED_AT - 1 or flipped:
            return None
        flipped.append(True)
        gradient = gradient.clone()
        gradient.view(torch.int32).view(-1)[3] ^= 1  # the least bit of one number
        return gradient

    def initialize_and_watch(model: Any, *arguments: Any) -> Any:
        engine = initialize(model, *arguments)
        next(engine.module.parameters()).register_hook(flip)
        return engine

    zero.initialize = initialize_and_watch
    pretrain.pretrain_worker(config)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_flipped_bit_is_caught_before_a_commit(
    settings: Callable[..., PretrainSettings], stage: int
) -> None:
    made = settings(
        train={"replay_every": 1, "micro_batch": 4}, zero={"stage": stage}, checkpoint={"every": 1, "keep": 9}
    )
    with pytest.raises(Exception, match=r"gave other bits when it was run again \(worker 1: gradient of"):
        run_workers(made, work=flipping_worker)
    [corrupted] = events(made.run.dir, "corrupted")
    assert corrupted["step"] == FLIPPED_AT
    assert "worker 1: gradient of" in corrupted["reason"]
    assert "worker 0" not in corrupted["reason"]
    steps = [event["step"] for event in events(made.run.dir, "step")]
    assert steps == list(range(1, FLIPPED_AT)), "the update was not made"
    assert max(map(step_of, commits(made.run.dir / "checkpoints"))) < FLIPPED_AT


def test_what_is_run_twice_and_traced_changes_no_bit(
    settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    weights = []
    model = {"flavour": "paper", "dropout": 0.1, "rotary_fraction": None}
    for watched in ({}, {"replay_every": 2, "trace": "2-3"}):
        folder = tmp_path / str(len(watched))
        made = settings(
            model=model,
            train={"objective": "distillation", "depths": [2, 4, 8], **watched},
            run={"dir": folder},
        )
        run_workers(made)
        weights.append((folder / "final" / "model.safetensors").read_bytes())
        replays = ["replay_seconds" in event for event in events(folder, "step")]
        assert replays == [step % 2 == 0 and bool(watched) for step in range(6)]
    assert weights[0] == weights[1]

    names = [f"steps-2-3.rank-{rank}.json.gz" for rank in range(2)]
    assert sorted(path.name for path in (folder / "traces").iterdir()) == names
    assert made.tracking.uri is not None
    fetched = mlflow.artifacts.download_artifacts(
        run_id=runs.open_run(folder),
        artifact_path="traces",
        dst_path=str(tmp_path),
        tracking_uri=made.tracking.uri,
    )
    assert sorted(path.name for path in Path(fetched).iterdir()) == names
    with gzip.open(Path(fetched) / names[0]) as file:
        traced = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "aten::mm" in traced


def test_a_digest_changes_with_any_bit() -> None:
    tensor = torch.randn(33, 7)
    seen = {int(digest(tensor))}
    for bit in range(32):
        other = tensor.clone()
        word = other.view(torch.int32).view(-1)[5 * bit % 200 : 5 * bit % 200 + 1]
        word ^= (1 << bit) if bit < 31 else -(2**31)
        seen.add(int(digest(other)))
    assert len(seen) == 33


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"trace": "12-10"}}, "the first step comes before the last"),
        ({"train": {"trace": "10"}}, "String should match pattern"),
        ({"train": {"replay_every": 5}, "zero": {"stage": 3}}, "use zero.stage 2"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    settings: Callable[..., PretrainSettings], sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**sections)
