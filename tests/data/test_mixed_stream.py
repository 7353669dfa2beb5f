"""Batches from several data folders: on any number of workers, after any restart, across any edge."""

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import spawn
from waiting import wait_for

from data.elastic import Batch
from data.mixture import MixedSource, Mixture, Stage
from data.shards import build
from data.source import Source
from data.stream import MixedStream, ShardStream

LENGTH, BATCH = 32, 12


@pytest.fixture(scope="session")
def sources(corpus: Path, built: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three data folders of different sizes with the same tokenizer."""
    root, documents = tmp_path_factory.mktemp("sources"), sorted(corpus.iterdir())
    tokenizer = built[50] / "tokenizer.json"
    for name, part in (("few", documents[:15]), ("some", documents[15:40])):
        build(part, root / name, tokenizer=tokenizer, sequence_length=LENGTH, held_out=0.2, shard_sequences=9)
    return [built[50], root / "few", root / "some"]


def a_source(folder: Path, reader: str = "0-of-1") -> Source:
    return Source(folder, "train", reader=reader, sequence_length=LENGTH, seed=0)


def a_mixture(
    sources: Sequence[Source], *stages: tuple[int, tuple[int, ...]], limits: Sequence[int | None] = ()
) -> Mixture:
    kinds = zip(sources, limits or [None] * len(sources), strict=True)
    return Mixture(
        sources=tuple(
            MixedSource(name=Path(source.shards).name, shards=source.shards, order=source.digest, limit=limit)
            for source, limit in kinds
        ),
        stages=tuple(Stage(begin=begin, weights=weights) for begin, weights in stages),
    )


STAGES = ((0, (5, 2, 1)), (10 * BATCH, (1, 3, 0)), (25 * BATCH, (1, 1, 4)))


def a_stream(folders: Sequence[Path], *stages: tuple[int, tuple[int, ...]], **options: Any) -> MixedStream:
    limits = options.pop("limits", ())
    opened = [a_source(folder) for folder in folders]
    options = {"rank": 0, "world_size": 1, "global_batch": BATCH, **options}
    return MixedStream(opened, a_mixture(opened, *(stages or STAGES), limits=limits), **options)


def taken_from(stream: MixedStream, batches: int) -> list[Batch]:
    iterator = iter(stream)
    return [next(iterator) for _ in range(batches)]


def slow_reference(
    folders: Sequence[Path], parts: Sequence[tuple[int, Sequence[tuple[int, tuple[int, ...]]]]], count: int
) -> list[set[bytes]]:
    """The rows of each global batch, taken one by one from streams of the single folders.

    ``parts`` are the positions at which parts begin, with their stages. Here a sample's source is the first
    that gets too late otherwise, by the rule of the schedule's definition.
    """
    alone = [
        iter(ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=LENGTH, seed=0))
        for folder in folders
    ]
    rows: list[bytes] = []
    edges = sorted({max(at, begin) for at, stages in parts for begin, _ in stages})
    for position in range(count * BATCH):
        [*_, (at, stages)] = [part for part in parts if part[0] <= position]
        [*_, weights] = [weights for begin, weights in stages if begin <= position]
        if position in edges or position == at:
            since = [0] * len(folders)
        total, few = sum(weights), 2 * sum(map(bool, weights)) - 2
        turn = sum(since) + 1
        ready = [
            i for i, w in enumerate(weights) if w and few * (w * turn - total * since[i]) >= total * bool(few)
        ]
        chosen = min(ready, key=lambda i: (since[i] + 1 - 1 / max(few, 1)) / weights[i])
        since[chosen] += 1
        rows.append(next(alone[chosen]).tokens[0].numpy().tobytes())
    return [set(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]


def rows_of(batches: Sequence[Batch]) -> list[set[bytes]]:
    return [{row.numpy().tobytes() for row in batch.tokens} for batch in batches]


def test_batches_are_those_of_a_slow_reference_across_stages(sources: list[Path]) -> None:
    batches = taken_from(a_stream(sources), 40)
    assert rows_of(batches) == slow_reference(sources, [(0, STAGES)], 40)
    stream = a_stream(sources)
    for batch in batches:
        assert torch.equal(batch.tokens, stream.sequence_rows(batch.sample_ids))
        assert torch.equal(batch.sources, stream.sources_of(batch.sample_ids))
    counts = torch.stack([torch.bincount(batch.sources, minlength=3) for batch in batches]).cumsum(0)
    shares = torch.tensor([[5, 2, 1], [1, 3, 0], [1, 1, 4]]) / torch.tensor([[8.0], [4.0], [6.0]])
    for begin, end, share in ((0, 10, shares[0]), (10, 25, shares[1]), (25, 40, shares[2])):
        for step in range(begin, end):
            since = counts[step] - (counts[begin - 1] if begin else 0)
            assert (since - share * BATCH * (step + 1 - begin)).abs().max() < 1


@pytest.mark.parametrize("folders", [1, 3])
def test_one_source_is_what_a_plain_stream_is(sources: list[Path], folders: int) -> None:
    plain = ShardStream(sources[0], rank=0, world_size=1, global_batch=BATCH, sequence_length=LENGTH, seed=0)
    weights = (1, 0, 0)[:folders]  # sources with weight 0 are as if they were not there
    mixed = a_stream(sources[:folders], (0, weights))
    for ours, theirs in zip(taken_from(mixed, 30), taken_from(plain, 30), strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
    if folders == 1:
        assert (
            mixed.state_dict() == plain.state_dict() == {"cursor": 360, "order": a_source(sources[0]).digest}
        )


def test_a_changed_mixture_begins_a_part_in_which_each_source_goes_on(sources: list[Path]) -> None:
    plain = ShardStream(sources[0], rank=0, world_size=1, global_batch=BATCH, sequence_length=LENGTH, seed=0)
    batches = taken_from(plain, 4)
    first, second = a_stream(sources, (0, (1, 1, 0))), a_stream(sources)
    first.load_state_dict(plain.state_dict())
    batches += taken_from(first, 4)
    second.load_state_dict(first.state_dict())
    third = a_stream(sources)
    third.load_state_dict(json.loads(json.dumps(first.state_dict())))
    batches += taken_from(second, 4)
    assert second.state_dict() != first.state_dict()
    third.load_state_dict(json.loads(json.dumps(second.state_dict())))  # the same mixture: no new part
    batches += taken_from(third, 20)
    assert [part.begin for part in third.parts] == [0, 4 * BATCH, 8 * BATCH]
    parts = [(0, [(0, (1, 0, 0))]), (4 * BATCH, [(0, (1, 1, 0))]), (8 * BATCH, STAGES)]
    assert rows_of(batches) == slow_reference(sources, parts, 32)

    with pytest.raises(ValueError, match="belongs to data order"):
        plain.load_state_dict(third.state_dict())
    turned = a_stream(sources[::-1], (0, (4, 1, 1)))  # of which nothing was trained on: it was never a part
    turned.load_state_dict(first.state_dict())
    again = a_stream(sources)
    again.load_state_dict(turned.state_dict())
    assert again.parts == second.parts


def test_a_state_loaded_while_reading_ahead_replaces_what_was_read(sources: list[Path]) -> None:
    first = a_stream(sources, (0, (1, 1, 0)))
    taken_from(first, 3)
    early, _ = first.state_dict(), taken_from(first, 2)
    stream = a_stream(sources)
    stream.load_state_dict(first.state_dict())
    iterator = iter(stream)
    next(iterator)
    # As after a rollback to an older checkpoint, with the samples that came since passed over.
    stream.load_state_dict(early)
    stream.load_state_dict({**stream.state_dict(), "cursor": 6 * BATCH})
    fresh = a_stream(sources)
    fresh.load_state_dict({**early})
    fresh.load_state_dict({**fresh.state_dict(), "cursor": 6 * BATCH})
    for _ in range(5):
        assert torch.equal(next(iterator).tokens, next(iter(fresh)).tokens)


def test_data_end_by_the_rule_of_their_sources(sources: list[Path]) -> None:
    few = a_source(sources[1]).order.sequences
    dropped = taken_from(a_stream(sources, (0, (1, 1, 0)), limits=[None, few, None]), 3 * few // BATCH)
    ids = torch.cat([batch.sample_ids[batch.sources == 1] for batch in dropped])
    assert len(ids) == few == len(set(ids.tolist()))
    assert (dropped[-1].sources == 0).all()

    ending = a_stream(sources, (0, (0, 1, 0)), limits=[None, 2 * few, None])
    batches = taken_from(ending, 2 * few // BATCH)
    counts = torch.cat([batch.sample_ids for batch in batches]).bincount()
    assert set(counts[counts > 0].tolist()) <= {1, 2}
    with pytest.raises(ValueError, match=f"the data end after {len(batches) * BATCH} samples: all sources"):
        next(iter(ending))


def test_what_cannot_be_mixed_is_refused(sources: list[Path], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"50 and .*50 hold the same data: name them once"):
        a_stream([sources[0], sources[1], sources[0]])
    build([corpus], tmp_path / "other", vocabulary_size=300, sequence_length=LENGTH, held_out=0.2)
    with pytest.raises(
        ValueError, match=r"50 and .*other were built with different tokenizers: .*--tokenizer"
    ):
        a_stream([sources[0], tmp_path / "other"], (0, (1, 1)))


def read_until_killed(rank: int, world: int, folders: list[str], folder: str, no_further: int) -> None:
    """A loader process: it notes each batch, then its state, and is killed at some step or at the last."""
    place = Path(folder)
    opened = [a_source(Path(name), f"{rank}-of-{world}") for name in folders]
    mixture = a_mixture(opened, *STAGES, limits=[None, opened[1].order.sequences, None])
    stream = MixedStream(opened, mixture, rank=rank, world_size=world, global_batch=BATCH)
    state = place / "state.json"
    if state.exists():
        stream.load_state_dict(json.loads(state.read_text()))
    for batch in stream:
        step = stream.state_dict()["cursor"] // BATCH
        digest = hashlib.sha256(batch.tokens.numpy().tobytes() + batch.sample_ids.numpy().tobytes())
        beside = place / f"{step}-{rank}-of-{world}.new"
        beside.write_text(digest.hexdigest())
        beside.rename(beside.with_suffix(""))
        # A state is of a step that all ranks have made, as a checkpoint's is.
        while rank == 0 and not all((place / f"{step}-{r}-of-{world}").exists() for r in range(world)):
            time.sleep(0.001)
        if rank == 0:
            beside = state.with_suffix(".new")
            beside.write_text(json.dumps(stream.state_dict()))
            beside.rename(state)
        while step >= no_further:
            time.sleep(1)


def step_of(state: Path) -> int:
    return int(json.loads(state.read_text())["cursor"]) // BATCH if state.exists() else 0


def test_loader_processes_killed_at_random_read_the_same_batches(sources: list[Path], tmp_path: Path) -> None:
    folders, chance = [str(folder) for folder in sources], random.Random(0)
    state = tmp_path / "state.json"
    made = 0
    for world in (1, 2, 4, 2, 1, 4, 1, 2):
        until = made + chance.randint(1, 6)
        arguments = (world, folders, str(tmp_path), until + 4)
        processes = spawn(read_until_killed, arguments, nprocs=world, join=False)
        wait_for(lambda until=until: step_of(state) >= until, pause=0.001)
        for process in processes.processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        made = step_of(state)

    limit = a_source(sources[1]).order.sequences
    whole = a_stream(sources, limits=[None, limit, None])
    batches = taken_from(whole, made + 10)
    noted = [path for path in tmp_path.iterdir() if path.suffix != ".new" and path.name[0].isdigit()]
    for path in noted:
        step, rank, world = (int(part) for part in path.name.replace("of-", "").split("-"))
        share = BATCH // world
        own = slice(rank * share, (rank + 1) * share)
        batch = batches[step - 1]
        tokens, ids = (part[own].contiguous().numpy().tobytes() for part in (batch.tokens, batch.sample_ids))
        assert path.read_text() == hashlib.sha256(tokens + ids).hexdigest(), path.name
    assert {int(path.name.partition("-")[0]) for path in noted} >= set(range(1, made + 1))
