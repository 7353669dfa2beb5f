"""Shards that are cut, changed, empty or missing are found before a sample is used, or skipped."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import events, run_workers, small_settings

from data.manifest import load_manifest
from data.shards import build
from data.stream import ShardStream
from data.verify import verify

STEPS, BATCH = 6, 8
SHARD = "train-000001.tar"


def change(folder: Path, start: int, data: bytes) -> None:
    """Overwrite a part of a shard that tar does not check."""
    with (folder / SHARD).open("r+b") as file:
        file.seek(start)
        file.write(data)


def flip_a_payload_bit(folder: Path) -> None:
    change(folder, 1500, bytes([(folder / SHARD).read_bytes()[1500] ^ 1]))
    with tarfile.open(folder / SHARD) as tar:
        assert len(tar.getmembers()) == 1, "nothing that tar would see"


def swap_two(folder: Path) -> None:
    first = folder / "train-000000.tar"
    assert first.stat().st_size == (folder / SHARD).stat().st_size
    first.rename(folder / "middle")
    (folder / SHARD).rename(first)
    (folder / "middle").rename(folder / SHARD)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    # what is done; what is said; whether the size shows it, so that it is found at the start
    "6 cut in a member": (lambda f: os.truncate(f / SHARD, 1024), r"train-000001\.tar has 1024 bytes", True),
    "7 cut between members": (lambda f: os.truncate(f / SHARD, 4096), r"train-000001\.tar has 4096 by", True),
    "8 header": (lambda f: change(f, 100, b"\xff" * 40), r"train-000001\.tar.* SHA-256 is", False),
    "9 payload bit": (flip_a_payload_bit, r"train-000001\.tar.* SHA-256 is", False),
    "9 two swapped": (swap_two, r"train-00000[01]\.tar.* SHA-256 is", False),
    "10 empty": (lambda f: os.truncate(f / SHARD, 0), r"train-000001\.tar has 0 bytes", True),
    "10 missing": (lambda f: (f / SHARD).unlink(), r"train-000001\.tar is missing", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_before_it_reaches_the_model_and_by_verify(
    name: str, small_shards: Path, tmp_path: Path
) -> None:
    damage, message, shows_in_size = DAMAGES[name]
    folder = Path(shutil.copytree(small_shards, tmp_path / "data"))
    assert verify(folder, deep=True) == []
    damage(folder)

    def first_batch() -> None:
        every = load_manifest(folder).splits["train"].sequences
        stream = ShardStream(
            folder, rank=0, world_size=1, global_batch=every, sequence_length=32, seed=0, skip_damaged=False
        )
        if not shows_in_size:
            next(iter(stream))

    with pytest.raises(ValueError, match=message) as error:
        first_batch()
    assert "\n" not in str(error.value)
    assert any("train-00000" in problem for problem in verify(folder, deep=True))
    assert bool(verify(folder, deep=False)) == shows_in_size


@pytest.fixture(scope="module")
def small_shards(text_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many shards of 64 sequences, which tests must not change."""
    folder = tmp_path_factory.mktemp("small") / "shards"
    build(text_files, folder, vocabulary_size=400, sequence_length=32, held_out=0.1, shard_sequences=64)
    return folder


@pytest.fixture
def damaged(small_shards: Path, tmp_path: Path) -> Path:
    """The small shards, one in eight of them with a flipped bit."""
    folder = Path(shutil.copytree(small_shards, tmp_path / "damaged"))
    for shard in load_manifest(folder).splits["train"].shards[::8]:
        data = bytearray((folder / shard.name).read_bytes())
        data[3000] ^= 1
        (folder / shard.name).write_bytes(data)
    return folder


def _damaged_by_step(folder: Path) -> list[int]:
    """Number of damaged samples up to each step."""
    stream = ShardStream(
        folder, rank=0, world_size=1, global_batch=BATCH, sequence_length=32, seed=0, skip_damaged=True
    )
    counts = [len(batch.damaged) for batch, _ in zip(stream, range(STEPS), strict=False)]
    return [sum(counts[: step + 1]) for step in range(STEPS)]


def test_samples_are_left_out_up_to_a_budget_that_all_ranks_share(damaged: Path, tmp_path: Path) -> None:
    by_step = _damaged_by_step(damaged)
    assert 1 < by_step[-1] < STEPS * BATCH
    done = small_settings(damaged, tmp_path / "a", data={"skip_damaged": by_step[-1]})
    run_workers(done)
    assert [event["step"] for event in events(done.run.dir, "step")] == list(range(1, STEPS + 1))

    budget = by_step[-1] - 1
    stopped = small_settings(damaged, tmp_path / "b", data={"skip_damaged": budget})
    step = next(index for index, count in enumerate(by_step, 1) if count > budget)
    with pytest.raises(Exception, match=f"damaged samples by step {step}; data.skip_damaged allows {budget}"):
        run_workers(stopped)
    assert [event["step"] for event in events(stopped.run.dir, "step")] == list(range(1, step))


def test_without_a_budget_the_first_damaged_sample_stops_the_run(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"DamagedError: .*train-0000\d\d\.tar.* SHA-256 is"):
        # By itself: of two processes, either the reader or the one it leaves alone may be named.
        run_workers(small_settings(damaged, tmp_path, cluster={"workers": 1}))
