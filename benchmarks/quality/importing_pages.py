"""The claims of :mod:`benchmarks.quality.importing`, and the marked part of docs/importing.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Claim, Row, claims_table, measured_by, table
from benchmarks.quality.claims import Comparison, RowsBySeed, mean_loss
from benchmarks.quality.importing_rows import (
    AS_IT_WAS,
    AT_RANDOM,
    BEFORE,
    FULL,
    HALF,
    OURS,
    THE_SAME,
    WAYS,
    Way,
)
from benchmarks.quality.rows import DEPTH

CLAIMS = (
    Comparison(
        "lossless: imported, at N = L, against the ordinary model", BEFORE.name, DEPTH, AS_IT_WAS.name, DEPTH,
        "within 0.1 %", lambda d: abs(d.mean) <= 0.1,
    ),
    Comparison(
        "trained on, at N = L/2, against layers dropped at random, the same extra tokens",
        OURS.name, HALF, AT_RANDOM.name, HALF, "below", lambda d: d.high < 0,
    ),
    Comparison(
        "trained on, at N = L/2, against every other layer dropped, the same extra tokens",
        OURS.name, HALF, THE_SAME.name, HALF, "below", lambda d: d.high < 0,
    ),
    Comparison(
        "trained on, at N = L, against where it started", OURS.name, DEPTH, BEFORE.name, DEPTH,
        "at most +1 %", lambda d: d.mean <= 1,
    ),
    Comparison("trained on, at N = L/2, against before", OURS.name, HALF, BEFORE.name, HALF),
    Comparison(
        "trained on, at N = L/2, against layers dropped and no extra tokens",
        OURS.name, HALF, AS_IT_WAS.name, HALF,
    ),
    Comparison(
        "trained on, at N = L, against all layers and the same extra tokens",
        OURS.name, DEPTH, FULL.name, DEPTH,
    ),
    Comparison("trained on, at N = 2L, against N = L", OURS.name, 2 * DEPTH, OURS.name, DEPTH),
    Comparison(
        "layers dropped at random, at N = L, against where it started",
        AT_RANDOM.name, DEPTH, AS_IT_WAS.name, DEPTH,
    ),
    Comparison(
        "every other layer dropped, at N = L, against where it started",
        THE_SAME.name, DEPTH, AS_IT_WAS.name, DEPTH,
    ),
)  # fmt: skip


def chosen(rows: Sequence[Row], name: str) -> RowsBySeed:
    """The rows of a way by seed, at the learning rate that was best for its first seed."""
    first = [row for row in rows if row["name"] == name and row["seed"] == 0]
    if not first:
        return {}
    rate = min(first, key=score)["learning_rate"]
    return {row["seed"]: row for row in rows if row["name"] == name and row["learning_rate"] == rate}


def score(row: Row) -> float:
    """The loss that a way's learning rate is chosen by; the least is best.

    It is the loss at N = L/2, for the model that is trained at L alone the loss at N = L, and for ours, which
    must be good at both depths, their mean.
    """
    depths = {FULL.name: (DEPTH,), OURS.name: (HALF, DEPTH)}.get(row["name"], (HALF,))
    return sum(row["validation_loss"][str(n)] for n in depths) / len(depths)


def judged(rows: Sequence[Row]) -> list[Claim]:
    """Every claim with what was measured."""
    return [comparison.judge(lambda name: chosen(rows, name)) for comparison in CLAIMS]


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
