"""What the rows of :mod:`benchmarks.quality` say of each claim: differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

Row = dict[str, Any]

ORDINARY, HALF, FULL = "ordinary, D layers", "ordinary, D/2 layers", "K = D"
ANY, FIXED = "K = D/2, any depth", "K = D/2"
UP_TO_2D = "K = D/2, any depth up to 2D"
REVERSIBLE = "K = D/2, any depth, by damped leapfrog"
LOW_RANK, PEER = "low rank, depth parameters ≤ 1/4", "transformers' GPT-NeoX"


@dataclass(frozen=True)
class Difference:
    """A difference of perplexity in percent: the mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.mean:+.1f} % (one seed)"
        return f"{self.mean:+.1f} % [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims: model ``of`` at N against model ``against`` at N."""

    text: str
    of: str
    at: int
    against: str
    against_at: int
    bar: str
    holds: Callable[[Difference], bool]


CLAIMS = (
    Claim(
        "K = D at N = D against the ordinary model of D layers", FULL, 8, ORDINARY, 8,
        "below", lambda d: d.high < 0,
    ),
    Claim(
        "K = D/2, any depth, at N = D against the ordinary model of D layers", ANY, 8, ORDINARY, 8,
        "not above: interval below +0.5 %", lambda d: d.high < 0.5,
    ),
    Claim(
        "K = D/2, any depth, at N = D/2 against the ordinary model of D/2 layers", ANY, 4, HALF, 4,
        "not above: interval below +0.5 %", lambda d: d.high < 0.5,
    ),
    Claim(
        "K = D/2, any depth, at N = D/2 against the ordinary model of D layers", ANY, 4, ORDINARY, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    Claim(
        "depth helps or is free: K = D/2, any depth, N = D against N = D/2", ANY, 8, ANY, 4,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Claim(
        "depth helps or is free: K = D/2, any depth, N = 2D against N = D", ANY, 16, ANY, 8,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Claim(
        "price of any depth: K = D/2 at N = D, trained at any depth against at N = D only", ANY, 8, FIXED, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    Claim(
        "with 2D among the depths trained at: N = D against N = D/2", UP_TO_2D, 8, UP_TO_2D, 4,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Claim(
        "with 2D among the depths trained at: N = 2D against N = D", UP_TO_2D, 16, UP_TO_2D, 8,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Claim(
        "with 2D among the depths trained at: at N = D against trained at N = D only", UP_TO_2D, 8, FIXED, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    *(
        Claim(
            f"trained by the reversible solver, run by Euler at N = {name}, against trained by Euler",
            REVERSIBLE, n, ANY, n, "within 1 %", lambda d: abs(d.mean) <= 1,
        )
        for name, n in (("D/2", 4), ("D", 8), ("2D", 16))
    ),
    Claim(
        "low rank, depth parameters ≤ 1/4, at N = D against the ordinary model", LOW_RANK, 8, ORDINARY, 8,
        "at most +3 %", lambda d: d.mean <= 3,
    ),
    Claim(
        "our ordinary model against transformers' GPT-NeoX of the same shape", ORDINARY, 8, PEER, 8,
        "loss within 1 %: perplexity within 3.7 %", lambda d: abs(d.mean) <= 3.7,
    ),
)  # fmt: skip


def best_rows(rows: Sequence[Row], name: str, tokens: int) -> dict[int, Row]:
    """By seed, a model's rows at the learning rate that was best for its first seed at its own depth."""
    of_model = [row for row in rows if row["name"] == name and abs(row["tokens"] - tokens) < 4096]
    first = [row for row in of_model if row["seed"] == 0]
    if not first:
        return {}
    rate = min(first, key=lambda row: row["validation_loss"][str(row["D"])])["learning_rate"]
    return {row["seed"]: row for row in of_model if row["learning_rate"] == rate}


def difference(
    ours: dict[int, Row], depth: int, theirs: dict[int, Row], their_depth: int
) -> Difference | None:
    """The paired difference of perplexity over the seeds that both have; None when they share none.

    The interval is Student's for the mean of the paired differences of loss.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [
        ours[seed]["validation_loss"][str(depth)] - theirs[seed]["validation_loss"][str(their_depth)]
        for seed in seeds
    ]
    if not pairs:
        return None
    mean = statistics.mean(pairs)
    half = 0.0
    if len(pairs) > 1:
        half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    percent = [100 * math.expm1(value) for value in (mean, mean - half, mean + half)]
    return Difference(percent[0], percent[1], percent[2], len(pairs))


def judged(rows: Sequence[Row], tokens: int) -> list[dict[str, Any]]:
    """Every claim with what was measured at this number of tokens."""
    table = []
    for claim in CLAIMS:
        measured = difference(
            best_rows(rows, claim.of, tokens), claim.at,
            best_rows(rows, claim.against, tokens), claim.against_at,
        )  # fmt: skip
        verdict = "not run" if measured is None else "reached" if claim.holds(measured) else "MISSED"
        table.append(
            {
                "claim": claim.text,
                "bar": claim.bar,
                "measured": "" if measured is None else str(measured),
                "seeds": 0 if measured is None else measured.seeds,
                "verdict": verdict,
            }
        )
    return table


def gain_per_flop(rows: Sequence[Row], tokens: int) -> list[dict[str, float]]:
    """What more depth buys in one checkpoint: nats for each extra forward FLOP, N to the next N.

    In nats per 10⁶ FLOPs and token, of the mean over seeds; negative is a gain.
    """
    chosen = list(best_rows(rows, ANY, tokens).values())
    gains = []
    for shallow, deep in ((4, 8), (8, 16)):
        if chosen:
            loss = [
                statistics.mean(row["validation_loss"][str(n)] for row in chosen) for n in (shallow, deep)
            ]
            flops = (deep - shallow) * chosen[0]["cell_flops"]
            gains.append({"from": shallow, "to": deep, "nats_per_mflop": (loss[1] - loss[0]) / flops * 1e6})
    return gains
