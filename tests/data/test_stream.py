from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.elastic import Batch
from data.manifest import load_manifest
from data.stream import ShardStream


def _open(folder: Path, rank: int = 0, world_size: int = 1, **changes: Any) -> ShardStream:
    settings = {"global_batch": 12, "sequence_length": 32, "seed": 0, **changes}
    return ShardStream(folder, rank=rank, world_size=world_size, **settings)


def test_batches_have_the_promised_shapes(built: dict[int, Path]) -> None:
    stream = _open(built[50], world_size=3)
    batch = next(iter(stream))
    assert isinstance(batch, Batch)
    assert (batch.tokens.shape, batch.tokens.dtype) == ((4, 33), torch.int64)
    assert (batch.sample_ids.shape, batch.sample_ids.dtype) == ((4,), torch.int64)
    assert batch.loss_mask is None
    assert torch.equal(batch.tokens, stream.sequence_rows(batch.sample_ids))
    assert stream.sequences == load_manifest(built[50]).splits["train"].sequences
    assert not hasattr(stream, "__len__")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shard_sequences=st.sampled_from([7, 50, 200, 10_000]),
    seed=st.integers(0, 3),
    global_batch=st.sampled_from([24, 48, 120]),
    phases=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 4)), min_size=1, max_size=4),
)
def test_order_survives_restarts_on_other_world_sizes(
    built: dict[int, Path],
    shard_sequences: int,
    seed: int,
    global_batch: int,
    phases: list[tuple[int, int]],
) -> None:
    folder = built[shard_sequences]
    options = {"global_batch": global_batch, "seed": seed}
    state: dict[str, Any] | None = None
    seen: list[Batch] = []
    for world_size, steps in phases:
        ranks = [_open(folder, rank, world_size, **options) for rank in range(world_size)]
        for stream in ranks:
            if state is not None:
                stream.load_state_dict(state)
        iterators = [iter(stream) for stream in ranks]
        for _ in range(steps):
            seen += [next(iterator) for iterator in iterators]
        states = [stream.state_dict() for stream in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]

    alone = iter(_open(folder, **options))
    expected = [next(alone) for _ in range(sum(steps for _, steps in phases))]
    for field in ("sample_ids", "tokens"):
        got, wanted = ([getattr(b, field) for b in batches] for batches in (seen, expected))
        assert torch.equal(torch.cat(got), torch.cat(wanted))


def test_a_stream_may_start_where_another_one_ended(built: dict[int, Path]) -> None:
    first = _open(built[50])
    batches = iter(first)
    seen = {int(i) for _ in range(3) for i in next(batches).sample_ids}
    later = next(iter(_open(built[50], start=36)))
    assert torch.equal(later.sample_ids, next(batches).sample_ids)
    assert not seen & set(later.sample_ids.tolist())


def test_each_epoch_visits_each_sample_once_and_batches_straddle(built: dict[int, Path]) -> None:
    stream = _open(built[7])
    n = stream.sequences
    assert n % 12 != 0
    iterator = iter(stream)
    ids = torch.cat([next(iterator).sample_ids for _ in range(3 * n // 12 + 1)]).numpy()
    for epoch in range(3):
        assert sorted(ids[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_state_counts_what_was_handed_out(built: dict[int, Path]) -> None:
    stream = _open(built[50])
    iterator = iter(stream)
    first = next(iterator)
    assert stream.state_dict()["cursor"] == 12
    other = _open(built[50])
    other.load_state_dict(stream.state_dict())
    assert torch.equal(next(iter(other)).tokens, next(iterator).tokens)
    assert not torch.equal(next(iter(_open(built[50], seed=1))).tokens, first.tokens)


def test_state_of_another_order_is_refused(built: dict[int, Path]) -> None:
    stream = _open(built[50])
    good = stream.state_dict()
    for other in (
        _open(built[50], seed=1),
        _open(built[200]),
        _open(built[50], split="validation"),
    ):
        with pytest.raises(ValueError, match="data order"):
            other.load_state_dict(good)
    for cursor in (-1, 1.5, None):
        with pytest.raises(ValueError, match="cursor"):
            stream.load_state_dict({**good, "cursor": cursor})


def test_validation_rows_are_the_held_out_ones(built: dict[int, Path]) -> None:
    train, held_out = _open(built[50]), _open(built[50], split="validation")
    rows = held_out.sequence_rows(np.arange(held_out.sequences))
    assert torch.equal(rows[2], held_out.sequence_rows(torch.tensor([2]))[0])
    known = {tuple(row.tolist()) for row in train.sequence_rows(np.arange(train.sequences))}
    assert not known & {tuple(row.tolist()) for row in rows}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 5}, "12 = 2 × 5 \\+ 2"),
        ({"world_size": 24}, "12 = 0 × 24 \\+ 12"),
        ({"rank": 1}, "rank 1 of 1"),
        ({"global_batch": 0}, "global batch of 0"),
        ({"sequence_length": 64}, "--sequence-length 64"),
        ({"split": "test"}, "train, validation"),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    built: dict[int, Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _open(built[50], **changes)
    assert "\n" not in str(error.value)
