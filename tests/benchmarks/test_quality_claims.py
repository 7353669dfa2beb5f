"""Differences paired by seed, their intervals, and the verdicts that follow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.quality import frontier
from benchmarks.quality.claims import (
    ANY,
    CHECKPOINT,
    FULL,
    HALF,
    ORDINARY,
    SEPARATE,
    best_rows,
    difference,
    judged,
)
from benchmarks.quality.plot import plot


def row(name: str, seed: int, losses: dict[int, float], rate: float = 4e-3, depth: int = 8) -> dict[str, Any]:
    return {
        "name": name,
        "D": depth,
        "seed": seed,
        "tokens": 1_599_488,
        "learning_rate": rate,
        "cell_flops": 4e5,
        "validation_loss": {str(n): loss for n, loss in losses.items()},
    }


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    ours = {seed: row("a", seed, {8: 3.7 + 0.1 * seed + 0.01 * seed**2}) for seed in range(4)}
    theirs = {seed: row("b", seed, {8: 3.7 + 0.1 * seed}) for seed in range(5)}
    measured = difference(ours, 8, theirs, 8)
    assert measured is not None
    pairs = np.array([0.0, 0.01, 0.04, 0.09])
    low, high = stats.t.interval(0.95, 3, loc=pairs.mean(), scale=stats.sem(pairs))
    assert measured.seeds == 4
    assert measured.mean == pytest.approx(100 * math.expm1(pairs.mean()))
    assert (measured.low, measured.high) == pytest.approx((100 * math.expm1(low), 100 * math.expm1(high)))
    assert difference(ours, 8, {9: theirs[0]}, 8) is None


def test_rows_are_those_of_the_rate_that_is_best_for_the_first_seed() -> None:
    rows = [
        row("m", 0, {8: 3.9}, rate=3e-3),
        row("m", 0, {8: 3.7}, rate=6e-3),
        row("m", 1, {8: 3.8}, rate=6e-3),
        row("m", 1, {8: 3.1}, rate=3e-3),
        row("m", 0, {8: 2.0}, rate=9e-3) | {"tokens": 6_000_000},
    ]
    assert {seed: r["learning_rate"] for seed, r in best_rows(rows, "m", 1_600_000).items()} == {
        0: 6e-3,
        1: 6e-3,
    }
    assert best_rows(rows, "another", 1_600_000) == {}


def table(any_at_8: float) -> list[dict[str, Any]]:
    rows = []
    for seed in range(3):
        noise = 0.001 * seed
        rows += [
            row(ORDINARY, seed, {4: 8.0, 8: 3.70 + noise, 16: 4.2}),
            row(HALF, seed, {4: 3.69 + noise, 8: 4.4}, depth=4),
            row(FULL, seed, {8: 3.68 + 2 * noise}),
            row(ANY, seed, {4: 3.69, 8: any_at_8, 16: 3.70}),
        ]
    return rows


def verdicts(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {claim.claim: claim.verdict for claim in judged(rows, 1_599_488)}


def test_a_claim_is_reached_missed_or_not_run() -> None:
    claim = "K = D/2, any depth, at N = D against the ordinary model of D layers"
    assert verdicts(table(3.69))[claim] == "reached"
    assert verdicts(table(3.72))[claim] == "MISSED"
    assert verdicts([r for r in table(3.69) if r["name"] != ANY])[claim] == "not run"
    # The mean is not above, but with seeds this far apart that says nothing.
    wide = [r for r in table(3.70) if r["name"] != ANY]
    wide += [row(ANY, seed, {4: 3.7, 8: loss, 16: 3.7}) for seed, loss in enumerate((3.60, 3.70, 3.80))]
    assert verdicts(wide)[claim] == "MISSED"


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    plot(
        [*table(3.69), row("a model at one rate", 0, {4: 3.9, 8: 3.8, 16: 3.9})],
        1_599_488,
        tmp_path / "f.png",
    )
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_one_checkpoint_is_held_against_ordinary_models_of_each_depth(tmp_path: Path) -> None:
    rows = [
        row(CHECKPOINT, 0, {4: 2.5, 6: 2.4, 8: 2.3}) | {"training_flops": 9e13},
        row(SEPARATE[8], 0, {8: 2.2}) | {"training_flops": 10e13},
        row(SEPARATE[6], 0, {6: 2.39}, depth=6) | {"training_flops": 7.5e13},
    ]
    assert frontier.training_share(rows, 1_600_000) is None, "an ordinary model is missing"
    rows.append(row(SEPARATE[4], 0, {4: 2.55}, depth=4) | {"training_flops": 5e13})
    assert frontier.training_share(rows, 1_600_000) == pytest.approx(9 / 22.5)
    verdicts = {claim.claim: claim.verdict for claim in judged(rows, 1_600_000)}
    against = CHECKPOINT + ", at N = {0} against the ordinary model of {0} layers"
    assert [verdicts[against.format(n)] for n in ("D", "3D/4", "D/2")] == ["MISSED", "reached", "reached"]
    frontier.plot(rows, 1_600_000, 2048, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
