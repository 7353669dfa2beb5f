"""Claims of :mod:`benchmarks.quality.compare`, judged by differences of perplexity paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scipy import stats

from benchmarks.bench import Claim, Row, verdict

ORDINARY, HALF, FULL = "ordinary, D layers", "ordinary, D/2 layers", "K = D"
ANY, FIXED = "K = D/2, any depth", "K = D/2"
CHECKPOINT = "K = D, any depth, distillation, late decay"
UP_TO_2D = "K = D/2, any depth up to 2D"
REVERSIBLE = "K = D/2, any depth, by damped leapfrog"
PEER = "transformers' GPT-NeoX"

RowsBySeed = dict[int, Row]


class Difference(NamedTuple):
    """A difference of perplexity in percent: the mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.mean:+.1f} % (one seed)"
        return f"{self.mean:+.1f} % [{self.low:+.1f}, {self.high:+.1f}]"


class Comparison(NamedTuple):
    """A claim about the model ``of`` at one N against the model ``against`` at another."""

    text: str
    of: str
    at: int
    against: str
    against_at: int
    bar: str = ""
    holds: Callable[[Difference], bool] | None = None
    """Whether a difference reaches the bar; None for a difference that is only shown."""

    def judge(self, chosen: Callable[[str], RowsBySeed]) -> Claim:
        """The claim with what the rows of both models say; ``chosen`` gives a model's rows by name."""
        measured = difference(chosen(self.of), self.at, chosen(self.against), self.against_at)
        if measured is None:
            return Claim(self.text, self.bar, "", 0, "not run")
        word = verdict(self.holds(measured)) if self.holds else ""
        return Claim(self.text, self.bar, str(measured), measured.seeds, word)


SEPARATE = {
    8: "ordinary, D layers, late decay",
    6: "ordinary, 3D/4 layers, late decay",
    4: "ordinary, D/2 layers, late decay",
}
"""The ordinary models, each trained separately with the same schedule, that one checkpoint replaces, by N."""
CLAIMS = (
    *(
        Comparison(
            f"{CHECKPOINT}, at N = {name} against the ordinary model of {name} layers",
            CHECKPOINT, n, SEPARATE[n], n, f"at most +{percent} %",
            lambda d, percent=percent: d.mean <= percent,
        )
        for name, n, percent in (("D", 8, 1), ("3D/4", 6, 2), ("D/2", 4, 2))
    ),
    Comparison(
        "K = D at N = D against the ordinary model of D layers", FULL, 8, ORDINARY, 8,
        "below", lambda d: d.high < 0,
    ),
    Comparison(
        "K = D/2, any depth, at N = D against the ordinary model of D layers", ANY, 8, ORDINARY, 8,
        "not above: interval below +0.5 %", lambda d: d.high < 0.5,
    ),
    Comparison(
        "K = D/2, any depth, at N = D/2 against the ordinary model of D/2 layers", ANY, 4, HALF, 4,
        "not above: interval below +0.5 %", lambda d: d.high < 0.5,
    ),
    Comparison(
        "K = D/2, any depth, at N = D/2 against the ordinary model of D layers", ANY, 4, ORDINARY, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    Comparison(
        "depth helps or is free: K = D/2, any depth, N = D against N = D/2", ANY, 8, ANY, 4,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Comparison(
        "depth helps or is free: K = D/2, any depth, N = 2D against N = D", ANY, 16, ANY, 8,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Comparison(
        "price of any depth: K = D/2 at N = D, trained at any depth against at N = D only", ANY, 8, FIXED, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    Comparison(
        "with 2D among the depths trained at: N = D against N = D/2", UP_TO_2D, 8, UP_TO_2D, 4,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Comparison(
        "with 2D among the depths trained at: N = 2D against N = D", UP_TO_2D, 16, UP_TO_2D, 8,
        "no rise beyond the interval", lambda d: d.low <= 0,
    ),
    Comparison(
        "with 2D among the depths trained at: at N = D against trained at N = D only", UP_TO_2D, 8, FIXED, 8,
        "at most +2 %", lambda d: d.mean <= 2,
    ),
    *(
        Comparison(
            f"trained by the reversible solver, run by Euler at N = {name}, against trained by Euler",
            REVERSIBLE, n, ANY, n, "within 1 %", lambda d: abs(d.mean) <= 1,
        )
        for name, n in (("D/2", 4), ("D", 8), ("2D", 16))
    ),
    Comparison(
        "our ordinary model against transformers' GPT-NeoX of the same shape", ORDINARY, 8, PEER, 8,
        "loss within 1 %: perplexity within 3.7 %", lambda d: abs(d.mean) <= 3.7,
    ),
)  # fmt: skip


def judged(rows: Sequence[Row], tokens: int) -> list[Claim]:
    """Every claim with what was measured after this number of training tokens."""
    return [comparison.judge(lambda name: best_rows(rows, name, tokens)) for comparison in CLAIMS]


def best_rows(rows: Sequence[Row], name: str, tokens: int) -> RowsBySeed:
    """A model's rows by seed, at the learning rate that was best for its first seed at its own depth."""
    of_model = [row for row in rows if row["name"] == name and abs(row["tokens"] - tokens) < 4096]
    first = [row for row in of_model if row["seed"] == 0]
    if not first:
        return {}
    rate = min(first, key=lambda row: row["validation_loss"][str(row["D"])])["learning_rate"]
    return {row["seed"]: row for row in of_model if row["learning_rate"] == rate}


def difference(ours: RowsBySeed, depth: int, theirs: RowsBySeed, their_depth: int) -> Difference | None:
    """The paired difference of perplexity over the seeds that both have; None if they share none.

    The interval is Student's for the mean of the paired differences of loss.
    """
    pairs = [
        ours[seed]["validation_loss"][str(depth)] - theirs[seed]["validation_loss"][str(their_depth)]
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    if not pairs:
        return None
    mean, half = statistics.mean(pairs), half_interval(pairs)
    percent = [100 * math.expm1(value) for value in (mean, mean - half, mean + half)]
    return Difference(percent[0], percent[1], percent[2], len(pairs))


def half_interval(values: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * statistics.stdev(values) / math.sqrt(len(values)))


def mean_loss(rows: RowsBySeed, depth: int | str) -> float:
    """The validation loss at N = ``depth``, averaged over seeds."""
    return statistics.mean(row["validation_loss"][str(depth)] for row in rows.values())


def gain_per_flop(rows: Sequence[Row], tokens: int) -> list[dict[str, float]]:
    """The gain from more depth in one checkpoint: nats per 10⁶ further forward FLOPs and token.

    Losses are means over seeds; a negative number is a gain.
    """
    chosen = best_rows(rows, ANY, tokens)
    gains = []
    for shallow, deep in ((4, 8), (8, 16)) if chosen else ():
        flops = (deep - shallow) * next(iter(chosen.values()))["cell_flops"]
        nats = mean_loss(chosen, deep) - mean_loss(chosen, shallow)
        gains.append({"from": shallow, "to": deep, "nats_per_mflop": nats / flops * 1e6})
    return gains
