"""What the rows of :mod:`benchmarks.importing` say of each claim: differences paired by checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.importing_rows import AS_IT_WAS, AT_RANDOM, BEFORE, FULL, HALF, OURS, THE_SAME
from benchmarks.quality_claims import Difference, Row, difference
from benchmarks.quality_rows import DEPTH


@dataclass(frozen=True)
class Claim:
    """One way at N against another at N; a difference that is only shown has no bar."""

    text: str
    of: str
    at: int
    against: str
    against_at: int
    bar: str = ""
    holds: Callable[[Difference], bool] | None = None


CLAIMS = (
    Claim(
        "lossless: imported, at N = L, against the ordinary model", BEFORE.name, DEPTH, AS_IT_WAS.name, DEPTH,
        "within 0.1 %", lambda d: abs(d.mean) <= 0.1,
    ),
    Claim(
        "trained on, at N = L/2, against layers dropped at random, the same extra tokens",
        OURS.name, HALF, AT_RANDOM.name, HALF, "below", lambda d: d.high < 0,
    ),
    Claim(
        "trained on, at N = L/2, against every other layer dropped, the same extra tokens",
        OURS.name, HALF, THE_SAME.name, HALF, "below", lambda d: d.high < 0,
    ),
    Claim(
        "trained on, at N = L, against where it started", OURS.name, DEPTH, BEFORE.name, DEPTH,
        "at most +1 %", lambda d: d.mean <= 1,
    ),
    Claim("trained on, at N = L/2, against before", OURS.name, HALF, BEFORE.name, HALF),
    Claim(
        "trained on, at N = L/2, against layers dropped and no extra tokens",
        OURS.name, HALF, AS_IT_WAS.name, HALF,
    ),
    Claim(
        "trained on, at N = L, against all layers and the same extra tokens",
        OURS.name, DEPTH, FULL.name, DEPTH,
    ),
    Claim("trained on, at N = 2L, against N = L", OURS.name, 2 * DEPTH, OURS.name, DEPTH),
    Claim(
        "layers dropped at random, at N = L, against where it started",
        AT_RANDOM.name, DEPTH, AS_IT_WAS.name, DEPTH,
    ),
    Claim(
        "every other layer dropped, at N = L, against where it started",
        THE_SAME.name, DEPTH, AS_IT_WAS.name, DEPTH,
    ),
)  # fmt: skip


def chosen(rows: Sequence[Row], name: str) -> dict[int, Row]:
    """By seed, the rows of a way at the learning rate that its first seed was best at."""
    first = [row for row in rows if row["name"] == name and row["seed"] == 0]
    if not first:
        return {}
    best = min(first, key=score)
    return {
        row["seed"]: row
        for row in rows
        if row["name"] == name and row["learning_rate"] == best["learning_rate"]
    }


def score(row: Row) -> float:
    """What a way's learning rate is chosen by: the least is best.

    It is the loss at N = L/2, and at N = L for the model that is trained at L alone. Ours has both to look
    after, and is chosen by their mean.
    """
    depths = {FULL.name: (DEPTH,), OURS.name: (HALF, DEPTH)}.get(row["name"], (HALF,))
    return sum(row["validation_loss"][str(n)] for n in depths) / len(depths)


def judged(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every claim with what was measured."""
    table = []
    for claim in CLAIMS:
        measured = difference(chosen(rows, claim.of), claim.at, chosen(rows, claim.against), claim.against_at)
        verdict = ""
        if measured is None:
            verdict = "not run"
        elif claim.holds is not None:
            verdict = "reached" if claim.holds(measured) else "MISSED"
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
