"""The contents of a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data.files import LocalFiles
from data.lengths import document_lengths
from data.manifest import Manifest
from data.reader import ShardReader
from data.tokenizer import load_tokenizer
from launcher.terminal.console import make_table
from odeformer.files.atomic import new_file

MOST_ROWS = 40
"""Number of sources to show."""


def shards_content(manifest: Manifest) -> dict[str, object]:
    """The manifest as JSON values, with the number of shards instead of their list."""
    content: dict[str, Any] = manifest.model_dump(mode="json")
    for split in content["splits"].values():
        split["shards"] = len(split["shards"])
    return content


def build_report(manifest: Manifest) -> list[RenderableType]:
    """The sources of new shards, and a line for each split."""
    report = _sources_tables(manifest)
    for name, split in manifest.splits.items():
        report.append(
            f"  {name}: {split.documents:,} documents, {split.bytes:,} bytes, {split.tokens:,} tokens, "
            f"{split.sequences:,} sequences of {manifest.sequence_length}"
        )
    return report


def inspection(folder: Path, manifest: Manifest, sample: int, png: Path) -> list[RenderableType]:
    """Splits, sources, document lengths and a training sequence; writes a histogram of the lengths.

    Raises:
        ValueError: If the shards have no sequence ``sample``, or are damaged.
    """
    text = _text(folder, manifest, sample)
    lengths = document_lengths(folder, "train")
    report = [_splits_table(manifest), *_sources_tables(manifest)]
    if len(lengths):
        shares = ", ".join(f"{share} % {np.percentile(lengths, share):,.0f}" for share in (10, 50, 90, 99))
        _write_histogram(lengths, manifest.sequence_length, png)
        report += [f"percentiles of tokens per document: {shares}", f"histogram: {png}"]
    return [*report, Panel(Text(text), title=f"training sequence {sample}", title_align="left")]


def _text(folder: Path, manifest: Manifest, sample: int) -> str:
    files = LocalFiles(folder, manifest.splits["train"].shards)
    row = ShardReader(manifest, "train", files.file).rows(np.array([sample]))[0]
    return str(load_tokenizer(folder).decode(row.tolist(), skip_special_tokens=False))


def _splits_table(manifest: Manifest) -> Table:
    titles = ("documents", "bytes", "tokens", "bytes/token", "sequences", "shards", "size on disk")
    table = make_table("split", numbers=titles)
    for name, split in manifest.splits.items():
        table.add_row(
            name,
            f"{split.documents:,}",
            f"{split.bytes:,}",
            f"{split.tokens:,}",
            f"{split.bytes / split.tokens:.2f}",
            f"{split.sequences:,} × {manifest.sequence_length}",
            f"{len(split.shards):,}",
            f"{sum(shard.bytes for shard in split.shards):,}",
        )
    return table


def _sources_tables(manifest: Manifest) -> list[RenderableType]:
    """The documents used of each source, and those that filters dropped."""
    titles = ("bytes", "documents", "held out", "duplicates", "empty", "weight", "in training")
    table = make_table("source", numbers=titles, wrapped=("licence",))
    table.add_column("SHA-256")
    for source in manifest.sources[:MOST_ROWS]:
        table.add_row(
            source.path,
            f"{source.bytes:,}",
            f"{source.documents:,}",
            f"{source.held_out:,}",
            f"{source.duplicates:,}",
            f"{source.empty:,}",
            f"{source.weight:g}",
            f"{source.train:,}",
            source.licence or "not stated",
            source.sha256[:12],
        )
    if len(manifest.sources) > MOST_ROWS:
        table.add_row(f"and {len(manifest.sources) - MOST_ROWS} more, in the manifest")
    return [table, _filters_table(manifest)] if manifest.filters else [table]


def _filters_table(manifest: Manifest) -> Table:
    """The number of dropped documents of each source by filter rule."""
    rules = list(manifest.sources[0].left_out)
    table = make_table("dropped from", numbers=[rule.replace("_", " ") for rule in rules])
    for source in manifest.sources[:MOST_ROWS]:
        table.add_row(source.path, *(f"{count:,}" for count in source.left_out.values()))
    if len(manifest.sources) > 1:
        totals = (sum(source.left_out[rule] for source in manifest.sources) for rule in rules)
        table.add_row("all", *(f"{total:,}" for total in totals), style="bold")
    return table


def _write_histogram(lengths: np.ndarray, sequence_length: int, png: Path) -> None:
    """Draw the number of documents against their tokens, both on logarithmic scales."""
    from matplotlib.figure import Figure  # takes half a second, and only inspect needs it

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    edges = np.geomspace(max(1, lengths.min()), max(2, lengths.max() + 1), 40)
    axes.hist(np.maximum(lengths, 1), list(edges), color="#0072b2")
    axes.axvline(sequence_length, color="#d55e00", label=f"a sequence, {sequence_length} tokens")
    axes.set(xscale="log", yscale="log", xlabel="tokens in a document", ylabel="documents")
    axes.legend(frameon=False)
    with new_file(png) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
