"""A source of training data: one split of a data folder, opened for reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import CACHE_BYTES, CachedFiles, Description, describe, open_files
from data.manifest import SplitName
from data.order import STREAMS, GlobalOrder, block_size, order_digest
from data.reader import ShardReader
from odeformer.files.shown import masked


class Source:
    """A split of a data folder, opened for reading."""

    def __init__(
        self,
        location: Path | str,
        split: SplitName,
        *,
        reader: str,
        sequence_length: int,
        seed: int,
        cache: Path = Path("~/.cache/odeformer/shards"),
        cache_bytes: int = CACHE_BYTES,
        described: Description | None = None,
    ) -> None:
        """Open a data folder, and check the sizes of local files.

        Args:
            location: path or URL of the folder or its manifest.json.
            split: ``train`` or ``validation``.
            reader: a name that distinguishes readers that share the cache.
            sequence_length: targets per sequence, as in the manifest.
            seed: seed of the sample order.
            cache: folder for the cache of remote shards.
            cache_bytes: maximum size of the cache in bytes.
            described: the folder's manifest, if it has been read and validated already.

        Raises:
            FileNotFoundError: if there is no manifest.
            ValueError: for damaged files, or a sequence length other than the manifest's.
        """
        described = described or describe(str(location), cache.expanduser())
        self.manifest = manifest = described.manifest
        if sequence_length != manifest.sequence_length:
            raise ValueError(
                f"sequence length {sequence_length} was requested, but {masked(str(location))} holds "
                f"sequences of {manifest.sequence_length}: rebuild the data with "
                f"--sequence-length {sequence_length}"
            )
        self.shards = masked(str(location))
        self.files = open_files(str(location), described, split, cache_bytes, STREAMS, reader)
        self.block = block_size(manifest.sequence_bytes)
        sizes = [shard.sequences for shard in manifest.splits[split].shards]
        self.order = GlobalOrder(sizes, seed, self.block)
        self.digest = order_digest(manifest.digest(), seed, split)
        self.reader = ShardReader(manifest, split, self.files.file)

    def fetch_ahead(self, ids: np.ndarray) -> None:
        """Start downloading the shards that hold these samples, int64 [n], unless they are local."""
        if isinstance(self.files, CachedFiles):
            self.files.fetch_ahead(self.order.shards_of(ids))


def check_they_mix(sources: Sequence[Source]) -> None:
    """Check that one model can be trained on all sources.

    Raises:
        ValueError: for different tokenizers, or the same data twice.
    """
    first = sources[0]
    for number, source in enumerate(sources[1:], start=1):
        if (source.manifest.tokenizer_sha256, source.manifest.end_of_text) != (
            first.manifest.tokenizer_sha256,
            first.manifest.end_of_text,
        ):
            raise ValueError(
                f"{first.shards} and {source.shards} were built with different tokenizers: build one of them "
                "with --tokenizer and the tokenizer.json of the other"
            )
        same = next((other for other in sources[:number] if other.digest == source.digest), None)
        if same is not None:
            raise ValueError(f"{same.shards} and {source.shards} hold the same data: name them once")
