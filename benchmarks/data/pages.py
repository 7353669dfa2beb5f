"""The section on cost of docs/data.md."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import table, verdict

Content = dict[str, Any]


def cost(loader: Content, shuffle: Content, build: Content) -> str:
    """The whole section, from the results of the three benchmarks."""
    resume = loader["resume"]
    lines = [
        "## What it costs",
        f"`python -m benchmarks.data.loader` ({loader['machine']}; {loader['date']}): one process, batches "
        "of 64 sequences of 256 tokens, files in the page cache, alternating loaders, medians.",
        loaders_table(loader),
        f"Ours relative to the faster of the other two, used as documented ({loader['fastest_shuffled']}): "
        f"{ratio(loader['ratio_to_fastest_shuffled'])}. Relative to webdataset without shuffling, which is "
        "as fast as one thread can read this format but unsuitable for training: "
        f"{ratio(loader['ratio_to_fastest'])}. Verifying SHA-256 takes {loader['share_of_digests']:.0%} of "
        "our time.",
        f"Resuming in the third epoch of {resume['gigabytes']:.0f} GB of shards takes "
        f"{resume['first_batch_seconds']:.2f} s from opening the manifest to the first batch (bar 2 s); over "
        f"the next 2,000 batches memory grows by {resume['growth_bytes_over_2000_batches'] / 2**20:.0f} MiB, "
        "as members are read.",
        f"`python -m benchmarks.data.shuffle` ({shuffle['date']}): autocorrelation of the mean surprisal of "
        f"a sequence's tokens, {shuffle['sequences']:,} sequences of real text, lags 1 to {shuffle['lags']}, "
        f"{shuffle['orders']} orders; the standard error of one value is {shuffle['standard_error']:.4f}.",
        shuffle_table(shuffle),
        f"`python -m benchmarks.data.build` ({build['machine']}; {build['date']}): tokens per second and "
        f"core of a whole build of {build['bytes'] / 1e6:.0f} MB, relative to `datasets.map` with the same "
        f"tokenizer, which neither drops duplicates nor shuffles nor writes shards: {ratio(build['ratio'])}.",
    ]
    return "\n\n".join(lines)


def loaders_table(loader: Content) -> str:
    """A line for each loader."""
    lines = [
        [
            row["loader"],
            f"{row['tokens_per_second'] / 1e6:.1f} M",
            f"{row['first_batch_seconds']:.2f} s",
            f"{row['peak_rss'] / 2**20:.0f} MiB",
        ]
        for row in loader["rows"]
    ]
    return table(["loader", "tokens/s", "first batch", "peak memory"], lines)


def shuffle_table(shuffle: Content) -> str:
    """A line for each order."""
    lines = []
    for name in ("as it lies", "ours", "full shuffle"):
        row = shuffle[name]
        lines.append([name, f"{row['lag_1']:+.4f}", f"{row['rms']:.4f}", f"{row['largest']:.4f}"])
    return table(["order", "lag 1", "root mean square", "largest"], lines)


def ratio(value: float, bar: float = 1.0) -> str:
    """A ratio against its bar."""
    return f"{value:.2f} × (bar ≥ {bar:.1f} ×: {verdict(value >= bar)})"
