"""Marked parts of README.md: one number each of three benchmarks, and one of the limits."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Row, table
from benchmarks.quality.claims import ANY, HALF, ORDINARY, Difference, best_rows, difference
from benchmarks.quality.pages import budgets


def numbers(quality: dict[str, Any], soak: dict[str, Any], generation: dict[str, Any]) -> str:
    """The table of results with the commands that measure them."""
    rows = quality["rows"]
    tokens = budgets(rows)[0]
    deep, shallow = against(rows, 8, ORDINARY, tokens), against(rows, 4, HALF, tokens)
    assert soak["one_value_per_step"], "README says that metrics are complete"
    assert not any(soak["left"].values()), "README says that nothing is left behind"
    ratios = [row["ratio"] for row in generation["rows"]]
    return table(
        ["measured on CPUs", "result", "command"],
        [
            [
                "perplexity of one checkpoint that stores D/2 sets of layer weights, run at D and at D/2 "
                "layers, relative to ordinary models of those depths, trained separately "
                f"({tokens / 1e6:.1f} M tokens, {deep.seeds} seeds)",
                f"{deep.mean:+.1f} %, {shallow.mean:+.1f} %",
                "`python -m benchmarks.quality.compare`",
            ],
            [
                f"a training run with {len(soak['troubles'])} injected faults: metrics complete, no "
                "processes or files left behind",
                f"all {soak['steps']:,} steps, {soak['restarts']} restarts",
                "`python -m benchmarks.cluster.soak`",
            ],
            [
                "generation speed (tokens per second) relative to `transformers` on the same checkpoint",
                f"{min(ratios):.1f} to {max(ratios):.1f} ×",
                "`python -m benchmarks.speed.generation`",
            ],
        ],
    )


def longest(quality: dict[str, Any]) -> str:
    """The perplexity with most training tokens, relative to the ordinary model."""
    rows = quality["rows"]
    tokens = max(budgets(rows))
    measured = against(rows, 8, ORDINARY, tokens)
    assert measured.mean > 0, "README says that more training makes it worse"
    seeds = "one seed" if measured.seeds == 1 else f"{measured.seeds} seeds"
    return f"{tokens / 1e6:.1f} M tokens ({seeds}) its perplexity at D layers is {measured.mean:.0f} % above"


def against(rows: list[Row], depth: int, ordinary: str, tokens: int) -> Difference:
    """The model with D/2 weight sets at this depth, relative to an ordinary model of the same depth."""
    measured = difference(best_rows(rows, ANY, tokens), depth, best_rows(rows, ordinary, tokens), depth)
    assert measured is not None, f"{ANY} and {ordinary} have no seed in common"
    return measured
