"""A run resumed with other numbers of workers and ZeRO stages continues unchanged."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import events, run_workers, small_settings
from torch import distributed as dist

from cluster import pretrain
from cluster.checkpoints.commit import Checkpoints
from cluster.training import worker

Leg = tuple[int, int, int]
"""Workers, ZeRO stage, and the step whose commit ends it."""


class LegEndsError(Exception):
    """The end of a leg of a run."""


def pretrain_one_leg(config: dict[str, Any]) -> None:
    """Worker function that records its samples, and ends with the commit named by the environment."""
    end, save, step = int(os.environ["LEG_ENDS"]), Checkpoints.save, worker.optimizer_step
    samples = Path(config["settings"]["run"]["dir"]) / f"samples-to-{end}-{dist.get_rank()}.jsonl"

    def save_and_end(self: Checkpoints, step: int) -> None:
        save(self, step)
        if step == end:
            raise LegEndsError

    def step_and_note(engine: Any, batch: Any, *arguments: Any) -> Any:
        with samples.open("a") as file:
            file.write(json.dumps(batch.sample_ids.tolist()) + "\n")
        return step(engine, batch, *arguments)

    Checkpoints.save = save_and_end  # type: ignore[method-assign]
    worker.optimizer_step = step_and_note
    with suppress(LegEndsError):
        pretrain.pretrain_worker(config)


def global_batches(folder: Path, legs: list[Leg]) -> list[list[int]]:
    batches = []
    for workers, _, end in legs:
        files = [folder / f"samples-to-{end}-{rank}.jsonl" for rank in range(workers)]
        parts = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        batches += [sorted(chain(*of_ranks)) for of_ranks in zip(*parts, strict=True)]
    return batches


def run_in_legs(
    shards: Path,
    folder: Path,
    legs: list[Leg],
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, Any],
    **sections: dict[str, Any],
) -> tuple[list[float], list[list[int]]]:
    """Loss and samples of each step of a run in several legs, with the schedule of the whole run."""
    for workers, stage, end in legs:
        run = small_settings(
            shards,
            folder.parent,
            train={"steps": legs[-1][2], "validate_every": 1000, **train},
            zero={"stage": stage},
            cluster={"workers": workers},
            checkpoint={"every": 2, "keep": 2},
            run={"dir": folder},
            **sections,
        )
        monkeypatch.setenv("LEG_ENDS", str(end))
        folder.mkdir(exist_ok=True)
        run_workers(run, work=pretrain_one_leg)
    assert [event["step"] for event in events(folder, "resumed")] == [end for _, _, end in legs[:-1]]
    assert not list((folder / "checkpoints").glob(".*")), "what was converted is gone"
    return [event["loss"] for event in events(folder, "step")], global_batches(folder, legs)


def check(
    shards: Path,
    tmp_path: Path,
    legs: list[Leg],
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, Any] | None = None,
    **sections: dict[str, Any],
) -> None:
    sections["train"] = train or {}
    steps = legs[-1][2]
    losses, samples = run_in_legs(shards, tmp_path / "whole", [(1, 2, steps)], monkeypatch, **sections)
    changed, changed_samples = run_in_legs(shards, tmp_path / "changed", legs, monkeypatch, **sections)
    assert len(losses) == steps
    assert changed_samples == samples
    difference = (torch.tensor(changed) - torch.tensor(losses)).abs().max().item()
    print(f"largest difference of a loss over {steps} steps: {difference:.1e}")
    assert difference <= 1e-4


def test_two_workers_then_one_at_other_stages(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model has three groups of parameters with rates of their own, of which none may get lost.
    check(shards, tmp_path, [(2, 2, 2), (1, 3, 4), (1, 1, 6)], monkeypatch)


def test_muon_on_two_workers_then_one_then_three(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three workers cut the weight sets into parts elsewhere than two do.
    optim = {"name": "muon", "learning_rate": 5e-3, "muon_rate": 4.0}
    train = {"global_batch": 6, "micro_batch": 1}
    legs = [(2, 2, 2), (1, 0, 4), (3, 1, 6)]
    check(shards, tmp_path, legs, monkeypatch, optim=optim, train=train)


@pytest.mark.slow
def test_a_hundred_steps_on_two_one_two_and_four_workers(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(shards, tmp_path, [(2, 2, 26), (1, 3, 50), (2, 1, 76), (4, 0, 88), (4, 2, 100)], monkeypatch)
