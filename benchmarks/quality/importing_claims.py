"""Claims of :mod:`benchmarks.quality.importing`: differences of perplexity paired by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bench import Claim, Row
from benchmarks.quality.claims import Comparison, RowsBySeed
from benchmarks.quality.importing_rows import AS_IT_WAS, AT_RANDOM, BEFORE, FULL, HALF, OURS, THE_SAME
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
