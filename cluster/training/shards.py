"""The shards that a run's settings name."""

from __future__ import annotations

from pathlib import Path

from cluster.settings import PretrainSettings
from data import files
from data.manifest import SplitName
from data.stream import ShardStream


def open_stream(
    settings: PretrainSettings,
    split: SplitName,
    *,
    rank: int = 0,
    world_size: int = 1,
    global_batch: int | None = None,
    described: files.Description | None = None,
) -> ShardStream:
    """The run's stream of one split.

    Args:
        global_batch: the run's own by default.
        described: what :func:`describe` returned, where the manifest has been read already.

    Raises:
        ValueError, OSError: as :class:`data.stream.ShardStream`.
    """
    data = settings.data
    return ShardStream(
        data.shards,
        rank=rank,
        world_size=world_size,
        global_batch=settings.train.global_batch if global_batch is None else global_batch,
        sequence_length=data.sequence_length,
        seed=data.seed,
        split=split,
        start=data.start if split == "train" else 0,
        skip_damaged=split == "train" and data.skip_damaged > 0,
        cache=_cache(settings),
        cache_bytes=data.cache_bytes,
        described=described,
    )


def describe(settings: PretrainSettings, cache: Path | None = None) -> files.Description:
    """The manifest of the run's shards, and a local folder that holds it and the tokenizer.

    Args:
        cache: folder for copies of remote files; by default that of the run, which is its workers' alone.

    Raises:
        FileNotFoundError, OSError, ValueError: for missing or damaged shards.
    """
    return files.describe(settings.data.shards, cache or _cache(settings))


def _cache(settings: PretrainSettings) -> Path:
    return settings.run.dir / "shards"
