"""Damaged folders: nothing of them may reach training."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.manifest import load_manifest
from data.reader import ShardReader
from data.stream import ShardStream


def _first_batch(folder: Path) -> None:
    """Open the folder and take one batch, of every sequence that there is."""
    count = load_manifest(folder).splits["train"].sequences
    next(iter(ShardStream(folder, rank=0, world_size=1, global_batch=count, sequence_length=32, seed=0)))


def _swap(folder: Path) -> None:
    one, two = folder / "train-000000.tar", folder / "train-000001.tar"
    one.rename(folder / "middle")
    two.rename(one)
    (folder / "middle").rename(two)


def test_undamaged_folder_is_read(folder: Path) -> None:
    _first_batch(folder)


def test_flipped_payload_bit(folder: Path) -> None:
    file = folder / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[1500] ^= 1
    file.write_bytes(data)
    with tarfile.open(file) as tar:  # tar itself sees nothing wrong
        assert len(tar.getmembers()) == 1
    with pytest.raises(ValueError, match=r"train-000001\.tar has SHA-256 \w{64}, .* says \w{64}"):
        _first_batch(folder)


def test_swapped_shards(folder: Path) -> None:
    _swap(folder)
    with pytest.raises(ValueError, match=r"train-00000[01]\.tar has SHA-256"):
        _first_batch(folder)


def test_all_missing_cut_and_empty_files_are_listed_at_once(folder: Path) -> None:
    (folder / "train-000000.tar").unlink()
    os.truncate(folder / "train-000001.tar", 1024)
    os.truncate(folder / "train-000002.tar", 0)
    with pytest.raises(ValueError, match="damaged") as error:
        ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=32, seed=0)
    message = str(error.value)
    assert "\n" not in message
    assert "train-000000.tar is missing" in message
    assert "train-000001.tar has 1024 bytes" in message
    assert "train-000002.tar has 0 bytes" in message


def test_cut_after_the_start(folder: Path) -> None:
    stream = ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=32, seed=0)
    for file in folder.glob("train-*.tar"):
        os.truncate(file, 1024)
    with pytest.raises(ValueError, match="has 1024 bytes, the manifest says"):
        next(iter(stream))


def test_gone_after_the_start(folder: Path) -> None:
    stream = ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=32, seed=0)
    for file in folder.glob("train-*.tar"):
        file.unlink()
    with pytest.raises(ValueError, match="gone"):
        next(iter(stream))


def test_another_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the one"):
        _first_batch(folder)


@pytest.mark.parametrize("change", [{"dtype": "uint32"}, {"sequence_length": 31}, {"sequence_length": 64}])
def test_shards_that_differ_from_their_manifest(folder: Path, change: dict[str, object]) -> None:
    manifest = load_manifest(folder).model_copy(update=change)
    with pytest.raises(ValueError, match=r"holds uint16 .*, the manifest says"):
        ShardReader(folder, manifest, "train").rows(np.array([0]))


def test_ids_outside_the_split(folder: Path) -> None:
    manifest = load_manifest(folder)
    count = manifest.splits["train"].sequences
    reader = ShardReader(folder, manifest, "train")
    assert reader.rows(np.array([], dtype=np.int64)).shape == (0, 33)
    for ids in ([-1], [count]):
        with pytest.raises(ValueError, match=f"0 … {count - 1}"):
            reader.rows(np.array(ids))


def test_only_two_windows_stay_in_memory(built: dict[int, Path]) -> None:
    manifest = load_manifest(built[7])
    reader = ShardReader(built[7], manifest, "train")
    count = manifest.splits["train"].sequences
    reader.rows(np.arange(count))
    assert len(reader.shards) > 8
    assert reader._shard_rows.cache_info().currsize == 8
