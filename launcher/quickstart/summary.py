"""The summary of the quick start, as one screen and as JSON."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from cluster.finetuning.result import FinetuneResult
from cluster.registry import Version
from cluster.settings import PretrainSettings
from cluster.tags import ORDINARY_PARAMETERS, PARAMETERS
from cluster.training.shards import open_stream
from cluster.training.validation import sample_rows
from launcher.tables.results import finetune_table
from launcher.terminal.console import make_table
from launcher.terminal.progress import Progress
from odeformer.files.atomic import new_file
from odeformer.files.shown import masked_values
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, token_losses


class Measured(NamedTuple):
    """Time and memory of a model on this machine, on 8 sequences."""

    seconds: dict[int, float]
    """Fastest forward pass with precomputed weights W(t), by depth."""
    peak_bytes: dict[str, int]
    """Peak memory of a forward and backward pass at the model's depth, by gradient method."""


def measure(model: Odeformer, depths: Sequence[int], progress: Progress) -> Measured:
    """Measure the time of a forward pass at each depth and the memory of each gradient method."""
    assert model.config.vocabulary_size is not None
    assert model.config.context_length is not None
    tokens = torch.randint(0, model.config.vocabulary_size, (8, model.config.context_length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    rounds = 5
    # The depths take turns, since other work on the machine comes and goes.
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
    return Measured({depth: min(times) for depth, times in seconds.items()}, peaks)


class ValidationText(NamedTuple):
    """The text of the validation loss: the number of predicted tokens, and its UTF-8 bytes."""

    tokens: int
    data: bytes


def validation_text(settings: PretrainSettings, tokenizer: Tokenizer) -> ValidationText:
    """The text of the run's validation sequences, without the first token of each, which is not predicted."""
    stream = open_stream(settings, "validation")
    rows = sample_rows(stream, settings.train.validation_sequences)[:, 1:]
    texts = tokenizer.decode_batch(rows.tolist(), skip_special_tokens=True)
    return ValidationText(rows.numel(), "".join(texts).encode())


@dataclass(frozen=True)
class Summary:
    """All numbers of the quick start; losses are in nats per token, at the model's depth by default."""

    seconds: float
    validation_loss_before: float
    validation_loss_after: float
    bits_per_byte_before: float
    bits_per_byte: float
    gzip_bits_per_byte: float
    model_depth: int
    depth_losses: dict[str, float]
    depth_relative_cost: dict[str, float]
    peak_bytes: dict[str, int]
    parameters: int
    ordinary_parameters: int
    registered_model: str
    registered_version: str
    tracking_uri: str
    finetunes: list[FinetuneResult]


def summarize(
    *,
    seconds: float,
    validations: Sequence[dict[int, float]],
    text: ValidationText,
    version: Version,
    uri: str,
    results: Sequence[FinetuneResult],
    measured: Measured,
    depth: int,
) -> Summary:
    """Compute the summary from what the stages measured."""
    after = validations[-1]
    nats_to_bits_per_byte = text.tokens / len(text.data) / math.log(2)
    cost = measured.seconds
    return Summary(
        seconds=round(seconds, 1),
        validation_loss_before=validations[0][depth],
        validation_loss_after=after[depth],
        bits_per_byte_before=validations[0][depth] * nats_to_bits_per_byte,
        bits_per_byte=after[depth] * nats_to_bits_per_byte,
        gzip_bits_per_byte=8 * len(gzip.compress(text.data, 9)) / len(text.data),
        model_depth=depth,
        depth_losses={str(n): loss for n, loss in after.items()},
        depth_relative_cost={str(n): cost[n] / cost[depth] for n in after},
        peak_bytes=measured.peak_bytes,
        parameters=int(version.tags[PARAMETERS]),
        ordinary_parameters=int(version.tags[ORDINARY_PARAMETERS]),
        registered_model=version.name,
        registered_version=version.version,
        tracking_uri=uri,
        finetunes=list(results),
    )


def write(summary: Summary, path: Path) -> None:
    """Write the summary as JSON."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(masked_values(asdict(summary)), indent=2) + "\n", encoding="utf-8")


def show(summary: Summary, console: Console) -> None:
    """Show the summary as one screen."""
    model = f"models:/{summary.registered_model}@champion"
    share = summary.parameters / summary.ordinary_parameters
    line = (
        f" is version {summary.registered_version}: {summary.parameters:,} parameters, {share:.0%} of "
        f"the ordinary model's {summary.ordinary_parameters:,}. {summary.seconds:.0f} s in all."
    )
    losses = make_table("held-out text", numbers=("nats/token", "bits/byte"))
    for title, nats, bits in (
        ("before training", summary.validation_loss_before, summary.bits_per_byte_before),
        ("after", summary.validation_loss_after, summary.bits_per_byte),
    ):
        losses.add_row(title, f"{nats:.3f}", f"{bits:.3f}")
    losses.add_row("gzip -9 on it", "", f"{summary.gzip_bits_per_byte:.3f}")
    depths = make_table("the same checkpoint at", numbers=("nats/token", "relative cost"))
    for depth, loss in summary.depth_losses.items():
        depths.add_row(f"N = {depth}", f"{loss:.3f}", f"{summary.depth_relative_cost[depth]:.2f} ×")
    memory = make_table(f"memory to train at N = {summary.model_depth}", numbers=("peak MiB",))
    for method, size in summary.peak_bytes.items():
        memory.add_row(f"gradient: {method}", f"{size / 2**20:.0f}")

    headline = Text.assemble((model, "bold"), line)
    for part in (headline, losses, depths, memory, finetune_table(summary.finetunes)):
        console.print()
        console.print(part)
    console.print()
    for command in (
        f"mlflow ui --backend-store-uri {summary.tracking_uri}",
        f'odeformer generate --model {model} --depth 4 "def main("',
        "odeformer models list",
    ):
        console.print(Text.assemble(("next:", "dim"), f" .venv/bin/{command}"), soft_wrap=True)
