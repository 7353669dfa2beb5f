"""What is in a folder of shards: counts, the lengths of documents, and one sequence as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from data.files import LocalFiles
from data.lengths import document_lengths
from data.manifest import Manifest, load_manifest
from data.reader import ShardReader
from data.tokenizer import load_tokenizer
from launcher.data_build import filters_table, sources_table


def inspect_shards(folder: Path, sample: int, png: Path, console: Console) -> None:
    """Print the counts and the training sequence ``sample``, and draw the documents' lengths.

    Raises:
        ValueError, OSError: for a folder that is not one of shards, or damaged, or has no such sequence.
    """
    manifest = load_manifest(folder)
    text = _text(folder, manifest, sample)
    lengths = document_lengths(folder, "train")
    console.print(_splits_table(manifest))
    console.print(sources_table(manifest))
    if manifest.filters:
        console.print(filters_table(manifest))
    if len(lengths):
        shares = ", ".join(f"{share} % {np.percentile(lengths, share):,.0f}" for share in (10, 50, 90, 99))
        console.print(f"tokens in a document, at most: {shares}", highlight=False)
        _histogram(lengths, manifest.sequence_length, png)
        console.print(f"their histogram: {png}", highlight=False, soft_wrap=True)
    console.print(Panel(escape(text), title=f"training sequence {sample}", title_align="left"))


def _text(folder: Path, manifest: Manifest, sample: int) -> str:
    files = LocalFiles(folder, manifest.splits["train"].shards)
    row = ShardReader(manifest, "train", files.file).rows(np.array([sample]))[0]
    return str(load_tokenizer(folder).decode(row.tolist(), skip_special_tokens=False))


def _splits_table(manifest: Manifest) -> Table:
    table = Table("split", box=None, header_style="bold", pad_edge=False)
    for title in ("documents", "bytes", "tokens", "bytes/token", "sequences", "shards", "size on disk"):
        table.add_column(title, justify="right")
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


def _histogram(lengths: np.ndarray, sequence_length: int, png: Path) -> None:
    """Draw how many documents have how many tokens, both on logarithmic scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    edges = np.geomspace(max(1, lengths.min()), max(2, lengths.max() + 1), 40)
    axes.hist(np.maximum(lengths, 1), list(edges), color="#0072b2")
    axes.axvline(sequence_length, color="#d55e00", label=f"a sequence, {sequence_length} tokens")
    axes.set(xscale="log", yscale="log", xlabel="tokens in a document", ylabel="documents")
    axes.legend(frameon=False)
    figure.savefig(png, dpi=150)
    pyplot.close(figure)
