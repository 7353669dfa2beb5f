"""The quality benchmark's results as Markdown: docs/quality.md, and the README's table.

python -m benchmarks.quality_tables benchmarks/results/quality.json > docs/quality.md
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.quality_claims import Row, best_rows, judged
from benchmarks.result_page import print_page

SHOWN = (4, 8, 16, 32)
CHANGED = (4, 6, 8, 12, 16)
WAYS = {"drop or repeat": "dropped or repeated", "interpolate": "interpolated, steps scaled by D/N"}


def page(content: dict[str, Any]) -> str:
    """Everything a results file says, for each number of training tokens."""
    rows = content["rows"]
    parts = [
        "# Quality at every depth",
        "What `python -m benchmarks.quality` measured; this page is printed by "
        "`python -m benchmarks.quality_tables benchmarks/results/quality.json`. "
        f"Machine: {content['machine']}; rows from {min(r['date'] for r in rows)} to "
        f"{max(r['date'] for r in rows)}.",
        "Every row saw the same tokens once, in the same order, with the same optimizer, initialisation "
        "scale, weight decay and schedule, through the same loop. Perplexity per token of held-out text. "
        "Differences are paired by seed; in brackets the 95 % interval of their mean over seeds.",
        "![Perplexity against depth](../benchmarks/results/quality.png)",
    ]
    for tokens in budgets(rows):
        parts.append(f"## {tokens / 1e6:.1f} M training tokens")
        if any(claim["seeds"] for claim in judged(rows, tokens)):
            parts.append(claims_table(judged(rows, tokens)))
        parts.append(models_table(rows, tokens))
    parts += ["## The same change of depth done to the ordinary model", changed_table(rows)]
    return "\n\n".join(parts)


def changed_table(rows: Sequence[Row]) -> str:
    """What dropping, repeating or interpolating an ordinary model's layers makes of its perplexity."""
    lines = [
        "| model | layers are | " + " | ".join(f"N = {n}" for n in CHANGED) + " |",
        "|---" * (2 + len(CHANGED)) + "|",
    ]
    tokens = budgets(rows)[0]
    for name in dict.fromkeys(row["name"] for row in rows if "changed_depth" in row):
        chosen = list(best_rows(rows, name, tokens).values())
        for way in chosen[0]["changed_depth"] if chosen else ():
            shown = [
                f"{math.exp(statistics.mean(row['changed_depth'][way][str(n)] for row in chosen)):.1f}"
                for n in CHANGED
            ]
            lines.append(f"| {name} | {WAYS[way]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def budgets(rows: Sequence[Row]) -> list[int]:
    """The numbers of training tokens that rows were trained on, the one with most rows first."""
    counts = [row["tokens"] for row in rows]
    return sorted(set(counts), key=lambda tokens: -counts.count(tokens))


def claims_table(claims: Sequence[dict[str, Any]]) -> str:
    """Each claim that was run, its bar, and what was measured."""
    lines = ["| perplexity on held-out text, N cells | bar | measured | |", "|---|---|---|---|"]
    lines += [
        f"| {claim['claim']} | {claim['bar']} | {claim['measured']} | {claim['verdict']} |"
        for claim in claims
        if claim["seeds"]
    ]
    return "\n".join(lines)


def models_table(rows: Sequence[Row], tokens: int) -> str:
    """Each model's perplexity by N: means over its seeds at its best learning rate."""
    lines = [
        "| model | parameters | training FLOPs | seeds | rate | train loss | "
        + " | ".join(f"N = {n}" for n in SHOWN)
        + " |",
        "|---" * (6 + len(SHOWN)) + "|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        chosen = list(best_rows(rows, name, tokens).values())
        if not chosen:
            continue
        first = chosen[0]
        shown = [
            f"{math.exp(statistics.mean(row['validation_loss'][str(n)] for row in chosen)):.1f}"
            if str(n) in first["validation_loss"]
            else ""
            for n in SHOWN
        ]
        lines.append(
            f"| {name} | {first['parameters'] / 1e6:.2f} M | {first['training_flops'] / 1e12:.1f} T | "
            f"{len(chosen)} | {first['learning_rate']:g} | "
            f"{statistics.mean(row['train_loss'] for row in chosen):.3f} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print_page(__doc__, page)
