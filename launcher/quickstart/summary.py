"""The quick start's last screen, and the same numbers as JSON."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tokenizers import Tokenizer

from cluster.registry import Version
from cluster.settings import PretrainSettings
from cluster.tags import ORDINARY_PARAMETERS, PARAMETERS
from cluster.training.shards import open_stream
from cluster.training.validation import sample_rows
from launcher.tables.results import finetune_table
from launcher.terminal.progress import Progress
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, token_losses


def measure(model: Odeformer, depths: Sequence[int], progress: Progress) -> dict[str, Any]:
    """What this machine needs for a forward pass at each depth, and to train with each gradient method.

    Returns:
        ``seconds``: of a forward pass over 8 sequences by depth with W(t) at hand, the fastest of
        interleaved runs (others may use the machine too);
        ``peak_bytes``: of a forward and backward pass over the same at the model depth, by gradient method.
    """
    assert model.config.vocabulary_size is not None
    assert model.config.context_length is not None
    tokens = torch.randint(0, model.config.vocabulary_size, (8, model.config.context_length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    rounds = 5
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    with torch.inference_mode():
        weights = {depth: model.depth_weights(depth) for depth in depths}
        for i in range(rounds + 1):
            progress.update(i / (rounds + 3), "forward passes")
            for depth in depths:
                started = time.perf_counter()
                model(inputs, depth=depth, weights=weights[depth])
                seconds[depth].append(time.perf_counter() - started)

    def train_step() -> None:
        token_losses(model(inputs).logits, targets).mean().backward()
        model.zero_grad()

    peaks = {}
    for method in ("checkpoint", "direct"):
        model.options = replace(model.options, gradient=method)
        peaks[method] = peak_bytes(train_step)
    return {"seconds": {depth: min(times) for depth, times in seconds.items()}, "peak_bytes": peaks}


class ValidationText(NamedTuple):
    """The very text that validation losses are of: how many tokens are predicted, and its UTF-8 bytes."""

    tokens: int
    data: bytes


def validation_text(settings: PretrainSettings, tokenizer: Tokenizer) -> ValidationText:
    """The text of the sequences that the run validated on, without each one's first token."""
    stream = open_stream(settings, "validation")
    rows = sample_rows(stream, settings.train.validation_sequences)[:, 1:]
    texts = tokenizer.decode_batch(rows.tolist(), skip_special_tokens=True)
    return ValidationText(rows.numel(), "".join(texts).encode())


def summarise(
    *,
    seconds: float,
    validations: Sequence[dict[int, float]],
    text: ValidationText,
    version: Version,
    uri: str,
    results: Sequence[dict[str, Any]],
    measured: dict[str, Any],
    depth: int,
) -> dict[str, Any]:
    """All numbers of the quick start. Losses in nats per token, at the model depth where none is named."""
    after = validations[-1]
    nats_to_bits_per_byte = text.tokens / len(text.data) / math.log(2)
    cost = measured["seconds"]
    return {
        "seconds": round(seconds, 1),
        "validation_loss_before": validations[0][depth],
        "validation_loss_after": after[depth],
        "bits_per_byte_before": validations[0][depth] * nats_to_bits_per_byte,
        "bits_per_byte": after[depth] * nats_to_bits_per_byte,
        "gzip_bits_per_byte": 8 * len(gzip.compress(text.data, 9)) / len(text.data),
        "model_depth": depth,
        "depth_losses": {str(n): loss for n, loss in after.items()},
        "depth_relative_cost": {str(n): cost[n] / cost[depth] for n in after},
        "peak_bytes": measured["peak_bytes"],
        "parameters": int(version.tags[PARAMETERS]),
        "ordinary_parameters": int(version.tags[ORDINARY_PARAMETERS]),
        "registered_model": version.name,
        "registered_version": version.version,
        "tracking_uri": uri,
        "finetunes": list(results),
    }


def write(summary: dict[str, Any], path: Path) -> None:
    """The summary as JSON."""
    path.write_text(json.dumps(summary, indent=2) + "\n")


def show(summary: dict[str, Any], console: Console) -> None:
    """The summary as one screen."""
    name = summary["registered_model"]
    console.print()
    console.print(
        f"[bold]models:/{name}@champion[/] is version {summary['registered_version']}: "
        f"{summary['parameters']:,} parameters, "
        f"{summary['parameters'] / summary['ordinary_parameters']:.0%} of the ordinary model's "
        f"{summary['ordinary_parameters']:,}. {summary['seconds']:.0f} s in all.",
        highlight=False,
    )
    console.print()
    table = _table("held-out text", "nats/token", "bits/byte")
    for title, loss, bits in (
        ("before training", "validation_loss_before", "bits_per_byte_before"),
        ("after", "validation_loss_after", "bits_per_byte"),
    ):
        table.add_row(title, f"{summary[loss]:.3f}", f"{summary[bits]:.3f}")
    table.add_row("gzip -9 on it", "", f"{summary['gzip_bits_per_byte']:.3f}")
    console.print(table)
    console.print()
    table = _table("the same checkpoint at", "nats/token", "relative cost")
    for depth, loss in summary["depth_losses"].items():
        table.add_row(f"N = {depth}", f"{loss:.3f}", f"{summary['depth_relative_cost'][depth]:.2f} ×")
    console.print(table)
    console.print()
    table = _table(f"memory to train at N = {summary['model_depth']}", "peak MiB")
    for method, size in summary["peak_bytes"].items():
        table.add_row(f"gradient: {method}", f"{size / 2**20:.0f}")
    console.print(table)
    console.print()
    console.print(finetune_table(summary["finetunes"]))
    console.print()
    for command in (
        f"mlflow ui --backend-store-uri {summary['tracking_uri']}",
        f'odeformer generate --model models:/{name}@champion --depth 4 "def main("',
        "odeformer models list",
    ):
        console.print(f"[dim]next:[/] {escape(f'.venv/bin/{command}')}", highlight=False, soft_wrap=True)


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for title in numbers:
        table.add_column(title, justify="right")
    return table
