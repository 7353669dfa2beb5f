"""Runs killed at the last step and at the end of an epoch skip no sample and repeat none."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import events, run_workers, small_settings

import odeformer
from cluster import pretrain
from cluster.checkpoints.commit import Checkpoints
from cluster.settings import PretrainSettings
from cluster.training import worker
from data.manifest import load_manifest
from data.shards import build

SAMPLES = "samples.jsonl"


def pretrain_and_die(config: dict[str, Any]) -> None:
    """What a worker does, writing down its samples, until it has made the step that the environment names;
    after the last one, when that has been committed."""
    step, save = worker.optimizer_step, Checkpoints.save
    settings = PretrainSettings.model_validate(config["settings"])
    made = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def step_and_note(engine: Any, batch: Any, *arguments: Any) -> Any:
        nonlocal made
        result = step(engine, batch, *arguments)
        with (settings.run.dir / SAMPLES).open("a") as file:
            file.write(json.dumps(batch.sample_ids.tolist()) + "\n")
        made += 1
        if os.environ["DIE"] == f"after {made}":
            die()
        return result

    def save_and_die(self: Checkpoints, step: int) -> None:
        save(self, step)
        self.wait()  # killed a moment later, it might not have been made
        if step == settings.train.steps and os.environ["DIE"] == "at the end":
            die()

    worker.optimizer_step, Checkpoints.save = step_and_note, save_and_die  # type: ignore[method-assign]
    pretrain.pretrain_worker(config)


@pytest.mark.slow
def test_each_epoch_has_each_sample_once(
    text_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of little text: a batch is two fifths of it.
    short = [file for file in text_files if file.stat().st_size < 30_000]
    shards = tmp_path / "shards"
    build(short, shards, vocabulary_size=400, sequence_length=32, held_out=0.5)
    size = load_manifest(shards).splits["train"].sequences
    batch = 2 * (size // 5)
    steps = 6

    def settings(name: str) -> PretrainSettings:
        return small_settings(
            shards,
            tmp_path / name,
            train={
                "steps": steps,
                "global_batch": batch,
                "micro_batch": batch // 2,
                "validate_every": 100,
                "depths": [],
            },
            checkpoint={"every": 2},
            cluster={"workers": 1},
        )

    killed, whole = settings("killed"), settings("whole")
    # The third step lies across a boundary and the fifth ends at one; at the end all is made but the result.
    for point in ("after 3", "after 3", "at the end"):
        monkeypatch.setenv("DIE", point)
        with pytest.raises(Exception, match="SIGKILL"):
            run_workers(killed, work=pretrain_and_die)
    monkeypatch.setenv("DIE", "never")
    run_workers(killed, work=pretrain_and_die)
    run_workers(whole, work=pretrain_and_die)

    resumed = [event["step"] for event in events(killed.run.dir, "resumed")]
    made = [json.loads(line) for line in (killed.run.dir / SAMPLES).read_text().splitlines()]
    # What was made after the commit that a run went on from is made again, and nothing else is.
    assert resumed == [2, 4, 6]
    assert (made[2], made[5]) == (made[3], made[6])
    counted = [*made[:2], *made[3:5], *made[6:]]
    expected = [json.loads(line) for line in (whole.run.dir / SAMPLES).read_text().splitlines()]
    assert counted == expected
    samples = [sample for ids in counted for sample in ids]
    assert set(Counter(samples[:size]).values()) == {1}
    assert set(Counter(samples[size : 2 * size]).values()) == {1}
    first, second = (odeformer.load(run.run.dir / "final").state_dict() for run in (killed, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)
