"""The global order of samples, a pure function of the shards' sizes and a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

STREAMS = 64
"""Number of streams that an epoch is cut into; every batch takes from them in turn."""
BLOCK_BYTES = 2**18
"""Bytes of the samples of one stream that are shuffled among each other."""
ROUNDS = 256
"""Number of rounds for which the order of the streams is drawn together."""
ORDER_VERSION = 2
"""Part of every order's digest, so that a cursor of an order with other rules is refused."""


def permutation(size: int, *key: int | str) -> np.ndarray:
    """A permutation that depends on the key alone: int64 [size].

    It sorts the raw output of Philox, which is the same in all numpy versions. numpy's own ``permutation``
    could change with a version, and a resumed run would then repeat samples.
    """
    return np.argsort(_raw(size, *key), kind="stable")


def _raw(size: int, *key: int | str) -> np.ndarray:
    """Random numbers that depend on the key alone: uint64 [size]."""
    text = "/".join(str(part) for part in key)
    generator = np.random.Philox(key=int(hashlib.sha256(text.encode()).hexdigest()[:32], 16))
    return generator.random_raw(size)


def order_digest(*key: int | str) -> str:
    """The identity of an order, without which a cursor has no meaning."""
    text = "/".join(str(part) for part in (ORDER_VERSION, *key))
    return hashlib.sha256(text.encode()).hexdigest()


def block_size(sample_bytes: int) -> int:
    """The number of samples of ``sample_bytes`` bytes that are shuffled among each other."""
    return max(1, BLOCK_BYTES // sample_bytes)


class GlobalOrder:
    """The endless sequence of sample ids, epoch after epoch.

    A sample's id is its position in the split: the shard's offset plus the row. In each epoch the shards are
    permuted and concatenated, this line is cut into ``STREAMS`` streams of equal length, and each stream is
    shuffled within blocks of ``block`` samples. Then the streams give one sample each, in rounds whose order
    is drawn anew. So a reader holds ``STREAMS`` blocks at a time, whatever the size of the corpus, every
    epoch visits each sample once, and the order depends neither on the number of ranks nor on the batch size.
    (The idea of streams that do not depend on their readers is from MosaicML Streaming.)

    This shuffles enough because documents are shuffled when shards are built, so that only sequences of the
    same document are similar. Such sequences are in the same stream, a round or more apart on average, in
    random places of their block. ``benchmarks.data.shuffle`` measures the remaining correlation.

    Args:
        shard_sizes: number of samples in each shard.
        seed: the seed of all permutations.
        block: number of samples of a stream that are shuffled among each other.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, block: int) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])  # int64 [shards + 1]
        self.sequences = int(self.offsets[-1])
        self._seed, self._block_size = seed, block
        self._line = lru_cache(maxsize=2)(self._compute_line)
        self._turns = lru_cache(maxsize=8)(self._compute_turns)
        self._block = lru_cache(maxsize=4 * STREAMS)(self._compute_block)

    def ids(self, positions: np.ndarray) -> np.ndarray:
        """The sample ids at global positions: int64 [n] → int64 [n]."""
        return self.streamed(positions)[1]

    def streamed(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The streams at global positions, numbered over all epochs, and the sample ids: both int64 [n]."""
        epochs, places = np.divmod(positions, self.sequences)
        keys, ids = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            in_epoch = epochs == epoch
            streams = self._streams(epoch, places[in_epoch])
            keys[in_epoch] = epoch * STREAMS + streams
            ids[in_epoch] = self._ids(epoch, places[in_epoch], streams)
        return keys, ids

    def batches(self, start: int, size: int, count: int) -> np.ndarray:
        """The sample ids of ``count`` batches from the global position ``start`` on: int64 [count, size].

        In each row the samples of a stream are adjacent. If ``size`` is a multiple of ``STREAMS``, a rank
        that takes a contiguous part of every row thus reads from its own part of the streams only.
        """
        return in_rows(*self.streamed(np.arange(start, start + size * count)), size)

    def shards_of(self, ids: np.ndarray) -> list[int]:
        """The indices of the shards that hold these samples."""
        return np.unique(np.searchsorted(self.offsets, ids, side="right") - 1).tolist()

    def _streams(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The stream of each of these positions of an epoch."""
        rounds, slots = np.divmod(places, STREAMS)
        streams = np.empty(len(places), dtype=np.int64)
        for group in groups(rounds // ROUNDS):
            turns = self._turns(epoch, int(rounds[group[0]]) // ROUNDS)
            streams[group] = turns[rounds[group] % ROUNDS, slots[group]]
        return streams

    def _ids(self, epoch: int, places: np.ndarray, streams: np.ndarray) -> np.ndarray:
        """The sample ids at these positions of an epoch, which belong to these streams."""
        indices = places // STREAMS
        blocks = indices // self._block_size
        lines = np.empty(len(places), dtype=np.int64)
        shards, starts, firsts = self._line(epoch)
        for group in groups(streams + STREAMS * blocks):
            stream, block = int(streams[group[0]]), int(blocks[group[0]])
            start = int(firsts[stream]) + block * self._block_size
            size = min(self._block_size, int(firsts[stream + 1]) - start)
            mixed = self._block(epoch, stream, block, size)
            lines[group] = start + mixed[indices[group] - block * self._block_size]
        which = np.searchsorted(starts, lines, side="right") - 1
        ids: np.ndarray = self.offsets[shards[which]] + lines - starts[which]
        return ids

    def _compute_line(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An epoch's shards in order, their first positions on the line, and those of the streams.

        The last of the ``STREAMS`` + 1 positions of streams is the end of the line.
        """
        shards = permutation(len(self.sizes), "shards", self._seed, epoch)
        rounds, rest = divmod(self.sequences, STREAMS)
        lengths = np.full(STREAMS, rounds, dtype=np.int64)
        # In the last round only the first ``rest`` streams of its order have a turn.
        lengths[self._turns(epoch, rounds // ROUNDS)[rounds % ROUNDS, :rest]] += 1
        starts = np.cumsum(self.sizes[shards]) - self.sizes[shards]
        return shards, starts, np.concatenate([[0], np.cumsum(lengths)])

    def _compute_turns(self, epoch: int, chunk: int) -> np.ndarray:
        """The order of the streams in each of a chunk of rounds: int64 [ROUNDS, STREAMS]."""
        raw = _raw(ROUNDS * STREAMS, "turns", self._seed, epoch, chunk)
        return np.argsort(raw.reshape(ROUNDS, STREAMS), axis=1, kind="stable")

    def _compute_block(self, epoch: int, stream: int, block: int, size: int) -> np.ndarray:
        return permutation(size, "samples", self._seed, epoch, stream, block)


def in_rows(keys: np.ndarray, ids: np.ndarray, size: int) -> np.ndarray:
    """Ids [n · size] as rows [n, size], each sorted by key; equal keys keep their order."""
    by_key = np.argsort(keys.reshape(-1, size), axis=1, kind="stable")
    return np.take_along_axis(ids.reshape(-1, size), by_key, axis=1)


def groups(keys: np.ndarray) -> list[np.ndarray]:
    """The positions of each distinct key in ``keys`` int64 [n], in ascending order of the keys."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(order, borders) if len(keys) else []
