"""The data benchmarks' results as the last part of docs/data.md.

python -m benchmarks.data_tables >> docs/data.md     # what stands between the marks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NAMES = ("loader", "shuffle", "data_build")


def part(results: dict[str, dict[str, Any]]) -> str:
    """Everything the results say, by the benchmark's name."""
    loader, shuffle, build = (results[name] for name in NAMES)
    far = loader["resume"]
    lines = [
        "## What it costs",
        f"`python -m benchmarks.loader` ({loader['machine']}; {loader['date']}): one process, batches of 64 "
        "sequences of 256 tokens, files in the page cache, loaders in turn, medians.",
        loaders_table(loader),
        f"Ours over the faster of the two as their documentation uses them ({loader['fastest_shuffled']}): "
        f"{verdict(loader['ratio_to_fastest_shuffled'], 1.0)}. Over webdataset reading members in the order "
        "they lie in, unpacked and nothing else, which is as fast as one thread can read that format, and no "
        f"order to train in: {verdict(loader['ratio_to_fastest'], 1.0)}. Of our time, comparing SHA-256 "
        f"takes {loader['share_of_digests']:.0%}.",
        f"From opening a manifest of {far['gigabytes']:.0f} GB to the first batch at a cursor in its third "
        f"epoch: {far['first_batch_seconds']:.2f} s (bar 2 s); over 2,000 batches from there memory grows by "
        f"{far['growth_bytes_over_2000_batches'] / 2**20:.0f} MiB, as the streams' members come in.",
        f"`python -m benchmarks.shuffle` ({shuffle['date']}): autocorrelation of how likely the tokens of a "
        f"sequence are, {shuffle['sequences']:,} sequences of real text, lags 1 to {shuffle['lags']}, "
        f"{shuffle['orders']} orders; the standard error of one is {shuffle['standard_error']:.4f}.",
        shuffle_table(shuffle),
        f"`python -m benchmarks.data_build` ({build['machine']}; {build['date']}): tokens per second and "
        f"core of a whole build of {build['bytes'] / 1e6:.0f} MB over those of `datasets.map` with the same "
        f"tokenizer, which neither drops duplicates nor shuffles nor writes shards: "
        f"{verdict(build['ratio'], 1.0)}.",
    ]
    return "\n\n".join(lines)


def loaders_table(loader: dict[str, Any]) -> str:
    """A line for each loader."""
    lines = ["| loader | tokens/s | first batch | peak memory |", "|---|---|---|---|"]
    for row in loader["rows"]:
        lines.append(
            f"| {row['loader']} | {row['tokens_per_second'] / 1e6:.1f} M | "
            f"{row['first_batch_seconds']:.2f} s | {row['peak_rss'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def shuffle_table(shuffle: dict[str, Any]) -> str:
    """A line for each order."""
    lines = ["| order | lag 1 | root mean square | largest |", "|---|---|---|---|"]
    for name in ("as it lies", "ours", "full shuffle"):
        row = shuffle[name]
        lines.append(f"| {name} | {row['lag_1']:+.4f} | {row['rms']:.4f} | {row['largest']:.4f} |")
    return "\n".join(lines)


def verdict(ratio: float, bar: float) -> str:
    """A ratio against its bar."""
    return f"{ratio:.2f} × (bar ≥ {bar:.1f} ×: {'reached' if ratio >= bar else 'MISSED'})"


def read_results() -> dict[str, dict[str, Any]]:
    """The results files."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in NAMES}


if __name__ == "__main__":
    print(part(read_results()))
