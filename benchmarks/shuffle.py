"""Is the order of samples as good as a full shuffle? The autocorrelation of what sequences are like.

    python -m benchmarks.shuffle --json benchmarks/results/shuffle.json

Every sequence of real text has a number: how unlikely its tokens are on average (nats under the tokens'
frequencies in the corpus), which neighbours in a document share. Its autocorrelation along the order, at
every lag up to 512, for: the corpus as it lies in the shards, our order, and full shuffles of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.texts import benchmark_texts
from data.manifest import load_manifest
from data.order import GlobalOrder, block_size
from data.shards import build
from data.stream import ShardStream

LENGTH, LAGS, SHUFFLES = 128, 512, 20


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
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
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(levels)} sequences of {LENGTH} tokens; standard error {result['standard_error']:.4f}")
    for name in ("as it lies", "ours", "full shuffle"):
        row = result[name]
        print(f"{name:<14} lag 1 {row['lag_1']:+.4f}   rms {row['rms']:.4f}   largest {row['largest']:.4f}")


def sequence_levels(folder: Path) -> np.ndarray:
    """Mean nats per token of every training sequence, float64 [sequences], under the tokens' frequencies."""
    stream = ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=LENGTH, seed=0)
    rows = stream.sequence_rows(np.arange(stream.sequences)).numpy()[:, :-1]
    counts = np.bincount(rows.reshape(-1))
    nats = -np.log(np.maximum(counts, 1) / rows.size)
    return nats[rows].mean(axis=1)  # type: ignore[no-any-return]


def autocorrelation(levels: np.ndarray) -> np.ndarray:
    """Of a series [n] at the lags 1 … 512."""
    series = (levels - levels.mean()) / levels.std()
    return np.array([(series[:-lag] * series[lag:]).mean() for lag in range(1, LAGS + 1)])


def summary(correlations: list[np.ndarray]) -> dict[str, float]:
    """Means over some orders: at lag 1, root mean square over all lags, and the largest of them."""
    found = np.array(correlations)
    return {
        "lag_1": float(found[:, 0].mean()),
        "rms": float(np.sqrt((found**2).mean())),
        "largest": float(np.abs(found).max(axis=1).mean()),
    }


if __name__ == "__main__":
    main()
