"""The quality benchmark's results as Markdown: what the README shows comes from here.

python -m benchmarks.quality_tables benchmarks/results/quality.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality_claims import Row, best_rows, judged

SHOWN = (4, 8, 16)


def main() -> None:
    """Print both tables of a results file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    rows = json.loads(parser.parse_args().json.read_text())["rows"]
    for tokens in budgets(rows):
        print(f"\n{tokens:,} training tokens\n")
        print(claims_table(judged(rows, tokens)))
        print()
        print(models_table(rows, tokens))


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
    main()
