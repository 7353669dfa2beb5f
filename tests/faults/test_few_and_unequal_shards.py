"""Fewer shards than workers, or shards of unequal size: workers share sequences, not shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import events, run_workers, small_settings

from data.manifest import load_manifest
from data.shards import build
from data.stream import ShardStream


@pytest.mark.parametrize(
    ("shard_sequences", "shards"),
    [(400, 3), (10_000, 1)],
    ids=["11 three shards, the last one small", "12 one shard for two workers"],
)
def test_both_ranks_make_all_steps_and_no_sequence_is_seen_twice(
    shard_sequences: int, shards: int, text_files: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    build(
        text_files[:1],
        folder,
        vocabulary_size=400,
        sequence_length=32,
        held_out=0.1,
        shard_sequences=shard_sequences,
    )
    split = load_manifest(folder).splits["train"]
    assert len(split.shards) == shards
    assert split.shards[-1].sequences < shard_sequences
    epoch = split.sequences // 8
    seen = []
    for rank in range(2):
        stream = ShardStream(folder, rank=rank, world_size=2, global_batch=8, sequence_length=32, seed=0)
        for batch, _ in zip(stream, range(epoch), strict=False):
            seen += batch.sample_ids.tolist()
    assert len(set(seen)) == len(seen) == epoch * 8
    if shards > 1:
        return  # what workers do with their streams does not depend on it

    settings = small_settings(folder, tmp_path)
    run_workers(settings)
    assert [event["step"] for event in events(settings.run.dir, "step")] == list(range(1, 7))


def test_workers_that_cannot_share_a_batch_are_refused_with_the_arithmetic(shards: Path) -> None:
    with pytest.raises(ValueError, match="12 = 2 × 5 \\+ 2"):
        ShardStream(shards, rank=0, world_size=5, global_batch=12, sequence_length=32, seed=0)
