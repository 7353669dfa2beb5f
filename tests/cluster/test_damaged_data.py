"""A damaged shard in a run of two workers: stop at once, or leave samples out up to a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import events, run_workers

from cluster.settings import PretrainSettings
from data.manifest import load_manifest
from data.shards import build
from data.stream import ShardStream

STEPS, BATCH = 6, 8


@pytest.fixture
def damaged(text_files: list[Path], tmp_path: Path) -> Path:
    """Shards of which one in eight has a flipped bit."""
    folder = tmp_path / "damaged"
    build(text_files, folder, vocabulary_size=400, sequence_length=32, held_out=0.1, shard_sequences=64)
    for shard in load_manifest(folder).splits["train"].shards[::8]:
        data = bytearray((folder / shard.name).read_bytes())
        data[3000] ^= 1
        (folder / shard.name).write_bytes(data)
    return folder


def _damaged_by_step(folder: Path) -> list[int]:
    """Damaged samples up to each step."""
    stream = ShardStream(
        folder, rank=0, world_size=1, global_batch=BATCH, sequence_length=32, seed=0, skip_damaged=True
    )
    counts = [len(batch.damaged) for batch, _ in zip(stream, range(STEPS), strict=False)]
    return [sum(counts[: step + 1]) for step in range(STEPS)]


def test_samples_are_left_out_up_to_a_budget_that_all_ranks_share(
    damaged: Path, settings: Callable[..., PretrainSettings]
) -> None:
    by_step = _damaged_by_step(damaged)
    assert 1 < by_step[-1] < STEPS * BATCH
    shards = str(damaged)
    done = settings(data={"shards": shards, "skip_damaged": by_step[-1]}, run={"dir": damaged.parent / "a"})
    run_workers(done)
    assert [event["step"] for event in events(done.run.dir, "step")] == list(range(1, STEPS + 1))

    budget = by_step[-1] - 1
    stopped = settings(data={"shards": shards, "skip_damaged": budget}, run={"dir": damaged.parent / "b"})
    step = next(index for index, count in enumerate(by_step, 1) if count > budget)
    with pytest.raises(Exception, match=f"damaged samples by step {step}, data.skip_damaged allows {budget}"):
        run_workers(stopped)
    assert [event["step"] for event in events(stopped.run.dir, "step")] == list(range(1, step))


def test_without_a_budget_the_first_damaged_sample_stops_the_run(
    damaged: Path, settings: Callable[..., PretrainSettings]
) -> None:
    with pytest.raises(Exception, match=r"DamagedError: .*train-0000\d\d\.tar.* SHA-256 is"):
        run_workers(settings(data={"shards": str(damaged)}))
