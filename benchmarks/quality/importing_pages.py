"""The marked part of docs/importing.md."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.bench import Row, claims_table, measured_by, table
from benchmarks.quality.claims import RowsBySeed, mean_loss
from benchmarks.quality.importing_claims import chosen, judged
from benchmarks.quality.importing_rows import OURS, WAYS, Way

MEASURED = """\
Each seed is another GPT-NeoX of `transformers` with 8 layers and width 128, trained here on {tokens} M tokens
and saved by `transformers`; none was downloaded. The extra tokens are the {extra} k that follow in the same
stream, seen once. Every way of further training has the same tokens in the same order, batches, optimizer,
warm-up and weight decay, and, except "with all layers", both depths in every batch. Where layers are dropped,
the model is that of `transformers` with layers left out; it is evaluated with the best of four choices of
layers (every other one from the first or the second on, or with both ends).

The learning rates {rates} were tried in rising order until a way got worse. Each way has the one with the
lowest validation loss for seed 0: at N = L/2 for the others (at N = L with all layers), the mean of both
depths for ours, {rate}. Perplexity per token of held-out text; differences are paired by checkpoint, in
brackets the 95 % interval of their mean. The logits of checkpoint and import at N = L in float32 differ by at
most {difference} of their standard deviation."""


def part(content: dict[str, Any]) -> str:
    """How it was measured, the claims, and the perplexity of every way."""
    rows = content["rows"]
    dates = sorted({row["date"] for row in rows})
    rates = sorted({row["learning_rate"] for row in rows} - {0.0})
    measured = MEASURED.format(
        tokens=f"{content['tokens'] / 1e6:g}",
        extra=f"{content['extra'] / 1e3:g}",
        rates=", ".join(f"{rate:g}" for rate in rates),
        rate=f"{chosen(rows, OURS.name)[0]['learning_rate']:g}",
        difference=f"{content['largest_difference']:.0e}",
    )
    return "\n\n".join(
        [
            measured_by("quality.importing", "importing")
            + f" Machine: {content['machine']}; rows from {dates[0]} to {dates[-1]}.",
            measured,
            claims_table(judged(rows), "perplexity on held-out text"),
            "Perplexity, the mean over seeds:",
            losses_table(rows),
        ]
    )


def losses_table(rows: list[Row]) -> str:
    """A line for each way."""
    depths = sorted({int(n) for row in rows for n in row["validation_loss"]})
    titles = ["checkpoint of L = 8 layers", "seeds", "rate", *(f"N = {n}" for n in depths)]
    return table(titles, [_line(way, chosen(rows, way.name), depths) for way in WAYS])


def _line(way: Way, rows: RowsBySeed, depths: list[int]) -> list[str]:
    if not rows:
        return [way.name, "0", *([""] * (1 + len(depths)))]
    first = next(iter(rows.values()))
    cells = [
        f"{math.exp(mean_loss(rows, n)):.1f}" if str(n) in first["validation_loss"] else "" for n in depths
    ]
    rate = first["learning_rate"]
    return [way.name, str(len(rows)), f"{rate:g}" if rate else "–", *cells]
