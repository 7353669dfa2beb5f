"""The figure of :mod:`benchmarks.quality.compare`: perplexity against depth and against tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Row, subplots
from benchmarks.quality.claims import ANY, FIXED, FULL, HALF, ORDINARY, RowsBySeed, best_rows, mean_loss

HIGHLIGHTED = {ORDINARY: "black", HALF: "tab:gray", FULL: "tab:green", FIXED: "tab:orange", ANY: "tab:blue"}
TREND = (ORDINARY, HALF, ANY)


def plot(rows: Sequence[Row], tokens: int, path: Path) -> None:
    """Draw perplexity against N at one number of tokens, and perplexity at N = D against tokens.

    Values are means over seeds, every model at its best learning rate. Models without a claim are thin.
    """
    figure, (by_depth, by_tokens) = subplots(1, 2, figsize=(12, 6.5), width_ratios=(3, 2))
    _plot_by_depth(by_depth, rows, tokens)
    _plot_by_tokens(by_tokens, rows)
    figure.savefig(path, dpi=140)


def _plot_by_depth(axes: Any, rows: Sequence[Row], tokens: int) -> None:
    curves = {
        name: perplexity(best_rows(rows, name, tokens)) for name in dict.fromkeys(r["name"] for r in rows)
    }
    best = min(curves.get(name, {}).get(8, math.inf) for name in HIGHLIGHTED)
    styles = iter((marker, style) for style in ("--", ":", "-.") for marker in "sv^Dx+P*")
    for name, curve in curves.items():
        if not curve:
            continue
        if color := HIGHLIGHTED.get(name):
            axes.plot(curve.keys(), curve.values(), "o-", color=color, linewidth=2.5, label=name, zorder=3)
        else:
            marker, style = next(styles)
            look = {"marker": marker, "linestyle": style, "linewidth": 1, "markersize": 4}
            axes.plot(curve.keys(), curve.values(), label=name, **look)
    axes.set_ylim(0.97 * best, 1.8 * best)
    axes.set_xscale("log", base=2)
    axes.set_xticks((4, 6, 8, 12, 16, 32), ("4 = D/2", "6", "8 = D", "12", "16 = 2D", "32"))
    axes.minorticks_off()
    axes.set_xlabel("cells N (D = 8)")
    axes.set_ylabel("validation perplexity per token")
    axes.set_title(f"{tokens / 1e6:.1f} M training tokens, one epoch; curves that leave are cut off")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)
    axes.grid(alpha=0.3)


def _plot_by_tokens(axes: Any, rows: Sequence[Row]) -> None:
    budgets = sorted({row["tokens"] for row in rows})
    for name in TREND:
        chosen = {budget: best_rows(rows, name, budget) for budget in budgets}
        points = {n: perplexity(by_seed)[by_seed[0]["D"]] for n, by_seed in chosen.items() if 0 in by_seed}
        if points:
            axes.plot(points.keys(), points.values(), "o-", color=HIGHLIGHTED[name], label=name)
    axes.set_xticks(budgets, [f"{budget / 1e6:.1f} M" for budget in budgets])
    axes.set_xlabel("training tokens, one epoch")
    axes.set_ylabel("validation perplexity at the model's own depth")
    axes.set_title("With more tokens")
    axes.legend()
    axes.grid(alpha=0.3)


def perplexity(rows: RowsBySeed) -> dict[int, float]:
    """The perplexity of the mean loss over seeds, by N."""
    depths = next(iter(rows.values()))["validation_loss"] if rows else ()
    return {int(n): math.exp(mean_loss(rows, n)) for n in depths}
