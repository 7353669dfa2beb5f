"""The figure of :mod:`benchmarks.quality`: perplexity against depth, and the trend with tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality_claims import ANY, FIXED, FULL, HALF, ORDINARY, Row, best_rows

HIGHLIGHTED = {ORDINARY: "black", HALF: "tab:gray", FULL: "tab:green", FIXED: "tab:orange", ANY: "tab:blue"}
TREND = (ORDINARY, HALF, ANY)


def plot(rows: Sequence[Row], tokens: int, path: Path) -> None:
    """Perplexity against N at one number of tokens, beside perplexity at N = D against tokens.

    Means over seeds; every model at its best learning rate. Models other than the claimed ones are thin.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_depth, by_tokens) = pyplot.subplots(
        1, 2, figsize=(12, 6.5), width_ratios=(3, 2), layout="constrained"
    )
    best = min(perplexity(best_rows(rows, name, tokens)).get(8, math.inf) for name in HIGHLIGHTED)
    styles = iter((marker, style) for style in ("--", ":", "-.") for marker in "sv^Dx+P*")
    for name in dict.fromkeys(row["name"] for row in rows):
        curve = perplexity(best_rows(rows, name, tokens))
        if not curve:
            continue
        color = HIGHLIGHTED.get(name)
        if color:
            by_depth.plot(
                curve.keys(), curve.values(), "o-", color=color, linewidth=2.5, label=name, zorder=3
            )
        else:
            marker, style = next(styles)
            by_depth.plot(
                curve.keys(), curve.values(), marker=marker, linestyle=style, linewidth=1, markersize=4,
                label=name,
            )  # fmt: skip
    by_depth.set_ylim(0.97 * best, 1.8 * best)
    by_depth.set_xscale("log", base=2)
    by_depth.set_xticks((4, 6, 8, 12, 16, 32), ("4 = D/2", "6", "8 = D", "12", "16 = 2D", "32"))
    by_depth.minorticks_off()
    by_depth.set_xlabel("cells N (D = 8)")
    by_depth.set_ylabel("validation perplexity per token")
    by_depth.set_title(f"{tokens / 1e6:.1f} M training tokens, one epoch; curves that leave are cut off")
    by_depth.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)
    by_depth.grid(alpha=0.3)

    budgets = sorted({row["tokens"] for row in rows})
    for name in TREND:
        points = [
            (budget, perplexity(chosen)[chosen[0]["D"]])
            for budget in budgets
            if (chosen := best_rows(rows, name, budget)) and 0 in chosen
        ]
        if points:
            by_tokens.plot(*zip(*points, strict=True), "o-", color=HIGHLIGHTED[name], label=name)
    by_tokens.set_xticks(budgets, [f"{budget / 1e6:.1f} M" for budget in budgets])
    by_tokens.set_xlabel("training tokens, one epoch")
    by_tokens.set_ylabel("validation perplexity at the model's own depth")
    by_tokens.set_title("With more tokens")
    by_tokens.legend()
    by_tokens.grid(alpha=0.3)
    figure.savefig(path, dpi=140)


def perplexity(rows: dict[int, Row]) -> dict[int, float]:
    """By N, the perplexity of the mean loss over seeds."""
    losses = [row["validation_loss"] for row in rows.values()]
    return {
        int(n): math.exp(statistics.mean(loss[n] for loss in losses)) for n in (losses[0] if losses else {})
    }
