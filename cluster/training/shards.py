"""The shards that a run's settings name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.settings import PretrainSettings
from data import files
from data.manifest import SplitName
from data.mixture import MixedSource, Mixture, Stage, whole_weights
from data.remote import is_remote
from data.source import Source
from data.stream import MixedStream


def open_stream(
    settings: PretrainSettings,
    split: SplitName,
    *,
    rank: int = 0,
    world_size: int = 1,
    global_batch: int | None = None,
    described: Sequence[files.Description] | None = None,
) -> MixedStream:
    """The run's stream of one split.

    Args:
        global_batch: the run's own by default.
        described: what :func:`describe` returned, where the manifests have been read already.

    Raises:
        ValueError, OSError: as :class:`data.source.Source` and :class:`data.stream.MixedStream`.
    """
    data = settings.data
    if described is None:
        described = describe(settings)
    remote = sum(is_remote(source.shards) for source in data.mixed)
    sources = [
        Source(
            source.shards,
            split,
            reader=f"{rank}-of-{world_size}",
            sequence_length=data.sequence_length,
            seed=data.seed,
            cache_bytes=data.cache_bytes // max(1, remote),
            described=description,
        )
        for source, description in zip(data.mixed, described, strict=True)
    ]
    return MixedStream(
        sources,
        mixture_of(settings, sources),
        rank=rank,
        world_size=world_size,
        global_batch=settings.train.global_batch if global_batch is None else global_batch,
        start=data.start if split == "train" else 0,
        skip_damaged=split == "train" and data.skip_damaged > 0,
        may_change=data.shards is None,
    )


def mixture_of(settings: PretrainSettings, sources: Sequence[Source]) -> Mixture:
    """The mixture of a run; its stages begin at global positions that follow from their steps."""
    data, train = settings.data, settings.train
    mixed = [
        MixedSource(
            name=named.name,
            shards=source.shards,
            order=source.digest,
            limit=None if named.epochs is None else named.epochs * source.order.sequences,
            stops=named.at_end == "stop",
        )
        for named, source in zip(data.mixed, sources, strict=True)
    ]
    begins = [data.start + round(stage.begin * train.steps) * train.global_batch for stage in data.stages]
    stages = [
        Stage(begin=begin, weights=whole_weights(weights))
        for begin, weights in zip([0, *begins], data.weights, strict=True)
    ]
    return Mixture(sources=tuple(mixed), stages=tuple(stages))


def describe(settings: PretrainSettings, cache: Path | None = None) -> list[files.Description]:
    """The manifests of all sources of a run, and local folders that hold them and the tokenizer.

    Args:
        cache: folder for copies of remote files; by default that of the run, which is its workers' alone.

    Raises:
        FileNotFoundError, OSError, ValueError: for missing or damaged shards.
    """
    cache = cache or settings.run.dir / "shards"
    return [files.describe(source.shards, cache) for source in settings.data.mixed]
