"""The order of samples against a full shuffle: autocorrelation of a property that neighbors share.

    python -m benchmarks.data.shuffle --json benchmarks/results/shuffle.json

Every sequence of real text has a number that neighbors in a document share: the mean surprisal of its tokens
(nats, under the tokens' frequencies in the corpus). Its autocorrelation along the order is taken at every lag
up to 512 for the corpus as stored in the shards, for our order and for full shuffles.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench
from benchmarks.texts import benchmark_texts
from data.manifest import load_manifest
from data.order import GlobalOrder, block_size
from data.shards import build
from data.stream import ShardStream

LENGTH, LAGS, SHUFFLES = 128, 512, 20


def main() -> None:
    """Measure all orders, print and write the summaries."""
    arguments = bench.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        build(
            benchmark_texts(Path(temporary)),
            folder,
            vocabulary_size=2048,
            sequence_length=LENGTH,
            held_out=0.01,
        )
        levels = sequence_levels(folder)
        block = block_size(load_manifest(folder).sequence_bytes)
        sizes = [shard.sequences for shard in load_manifest(folder).splits["train"].shards]
    draw = np.random.default_rng(0)
    shuffles = [autocorrelation(draw.permutation(levels)) for _ in range(SHUFFLES)]
    ours = [
        autocorrelation(levels[GlobalOrder(sizes, seed, block).ids(np.arange(len(levels)))])
        for seed in range(SHUFFLES)
    ]
    result: dict[str, Any] = {
        "sequences": len(levels),
        "lags": LAGS,
        "standard_error": len(levels) ** -0.5,
        "orders": SHUFFLES,
        "as it lies": summary([autocorrelation(levels)]),
        "ours": summary(ours),
        "full shuffle": summary(shuffles),
        **bench.stamp(),
    }
    bench.save(arguments.json, result)
    bench.print_row(result)


def sequence_levels(folder: Path) -> np.ndarray:
    """The mean surprisal of every training sequence in nats per token, float64 ``[sequences]``."""
    stream = ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=LENGTH, seed=0)
    rows = stream.sequence_rows(np.arange(stream.sequences)).numpy()[:, :-1]
    counts = np.bincount(rows.reshape(-1))
    nats = -np.log(np.maximum(counts, 1) / rows.size)
    return nats[rows].mean(axis=1)  # type: ignore[no-any-return]


def autocorrelation(levels: np.ndarray) -> np.ndarray:
    """The autocorrelation of a series ``[n]`` at the lags 1 … 512."""
    series = (levels - levels.mean()) / levels.std()
    return np.array([(series[:-lag] * series[lag:]).mean() for lag in range(1, LAGS + 1)])


def summary(correlations: list[np.ndarray]) -> dict[str, float]:
    """Means over orders: the value at lag 1, the root mean square over all lags, and the largest."""
    values = np.array(correlations)
    return {
        "lag_1": float(values[:, 0].mean()),
        "rms": float(np.sqrt((values**2).mean())),
        "largest": float(np.abs(values).max(axis=1).mean()),
    }


if __name__ == "__main__":
    main()
