"""Damaged folders: nothing of them may reach training."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.elastic import Batch
from data.manifest import load_manifest
from data.order import STREAMS, block_size
from data.reader import DamagedError, ShardReader
from data.stream import ShardStream
from data.verify import verify


def _open(folder: Path, skip_damaged: bool = False) -> ShardStream:
    """A stream whose first batch has every sequence that there is."""
    count = load_manifest(folder).splits["train"].sequences
    return ShardStream(
        folder,
        rank=0,
        world_size=1,
        global_batch=count,
        sequence_length=32,
        seed=0,
        skip_damaged=skip_damaged,
    )


def _first_batch(folder: Path, skip_damaged: bool = False) -> Batch:
    return next(iter(_open(folder, skip_damaged)))


def _reader(folder: Path) -> ShardReader:
    manifest = load_manifest(folder)
    shards = manifest.splits["train"].shards
    return ShardReader(manifest, "train", lambda index: folder / shards[index].name)


def _flip_a_payload_bit(folder: Path) -> None:
    data = bytearray((folder / "train-000001.tar").read_bytes())
    data[1500] ^= 1
    (folder / "train-000001.tar").write_bytes(data)


def test_an_extra_shard_is_found_by_verify_and_never_read(folder: Path) -> None:
    before = _first_batch(folder).tokens
    shutil.copy(folder / "train-000000.tar", folder / "train-000099.tar")
    assert verify(folder, deep=False) == ["train-000099.tar is not in the manifest"]
    assert torch.equal(_first_batch(folder).tokens, before)


def test_all_missing_cut_and_empty_files_are_listed_at_once(folder: Path) -> None:
    (folder / "train-000000.tar").unlink()
    os.truncate(folder / "train-000001.tar", 1024)
    os.truncate(folder / "train-000002.tar", 0)
    with pytest.raises(ValueError, match="damaged") as error:
        _open(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "train-000000.tar is missing",
        "train-000001.tar has 1024 bytes",
        "train-000002.tar has 0 bytes",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: os.truncate(file, 1024), "1024 of .* are there"),
        (lambda file: file.unlink(), "gone since the start"),
    ],
)
def test_damage_after_the_start(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    stream = _open(folder)
    for file in folder.glob("train-*.tar"):
        damage(file)
    with pytest.raises(DamagedError, match=message):
        next(iter(stream))


def test_skipped_samples_keep_their_places_and_do_not_count(folder: Path) -> None:
    whole = _first_batch(folder)
    _flip_a_payload_bit(folder)
    batch = _first_batch(folder, skip_damaged=True)
    assert torch.equal(batch.sample_ids, whole.sample_ids)
    lost = (batch.sample_ids >= 50) & (batch.sample_ids < 100)  # the second shard's only member
    assert len(batch.damaged) == int(lost.sum()) == 50
    assert "train-000001.tar" in batch.damaged[0]
    assert batch.loss_mask is not None
    assert torch.equal(batch.loss_mask.any(dim=1), ~lost)
    assert torch.equal(batch.loss_mask.all(dim=1), ~lost)
    assert torch.equal(batch.tokens[~lost], whole.tokens[~lost])
    assert set(batch.tokens[lost].flatten().tolist()) == {load_manifest(folder).end_of_text}


def test_another_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the one"):
        _first_batch(folder)
    assert verify(folder, deep=False) == ["tokenizer.json is not the one in the manifest"]


@pytest.mark.parametrize("change", [{"dtype": "uint32"}, {"sequence_length": 31}, {"sequence_length": 64}])
def test_shards_that_differ_from_their_manifest(folder: Path, change: dict[str, object]) -> None:
    manifest = load_manifest(folder).model_copy(update=change)
    shards = manifest.splits["train"].shards
    with pytest.raises(ValueError, match=r"does not hold uint\d\d .*, as the manifest says"):
        ShardReader(manifest, "train", lambda index: folder / shards[index].name).rows(np.array([0]))


def test_ids_outside_the_split(folder: Path) -> None:
    count = load_manifest(folder).splits["train"].sequences
    reader = _reader(folder)
    assert reader.rows(np.array([], dtype=np.int64)).shape == (0, 33)
    for ids in ([-1], [count]):
        with pytest.raises(ValueError, match=f"0 … {count - 1}"):
            reader.rows(np.array(ids))


def test_only_what_the_order_needs_stays_in_memory(built: dict[int, Path]) -> None:
    reader = _reader(built[7])
    reader.room = 5
    count = load_manifest(built[7]).splits["train"].sequences
    rows = reader.rows(np.arange(count))
    assert len(reader.kept) == 5
    assert np.array_equal(reader.rows(np.arange(count)), rows)
    # Members of 7 rows: so many hold the blocks of all streams, wherever these begin in a member.
    block = block_size(load_manifest(built[7]).sequence_bytes)
    assert _reader(built[7]).room >= STREAMS * (block // 7 + 1)
