"""The marked part of docs/quality.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Row, claims_table, measured_by, table
from benchmarks.quality.claims import best_rows, judged, mean_loss
from benchmarks.quality.frontier import MOST_TRAINING, training_share

SHOWN = (4, 6, 8, 16, 32)
CHANGED = (4, 6, 8, 12, 16)
WAYS = {"drop or repeat": "dropped or repeated", "interpolate": "interpolated, steps scaled by D/N"}
CLAIM = "perplexity on held-out text, N cells"


def part(content: dict[str, Any]) -> str:
    """Claims and models for each number of training tokens, then ordinary models at changed depths."""
    return "\n\n".join(
        [
            *claims_and_models(content, "quality"),
            "## The same change of depth done to the ordinary model",
            changed_table(content["rows"]),
        ]
    )


def long_part(content: dict[str, Any]) -> str:
    """Claims and models of the longest runs."""
    return "\n\n".join(claims_and_models(content, "quality_long"))


def claims_and_models(content: dict[str, Any], name: str) -> list[str]:
    """What was measured and where, then claims and models for each number of training tokens."""
    rows = content["rows"]
    dates = [row["date"] for row in rows]
    machine = f"Machine: {content['machine']}; rows from {min(dates)} to {max(dates)}."
    parts = [f"{measured_by('quality.compare', name)} {machine}"]
    for tokens in budgets(rows):
        parts.append(f"## {tokens / 1e6:.1f} M training tokens")
        claims = [claim for claim in judged(rows, tokens) if claim.seeds]
        parts += [claims_table(claims, CLAIM)] if claims else []
        if share := training_share(rows, tokens):
            parts.append(
                f"Training the one checkpoint cost {share:.2f} × the FLOPs of the three ordinary models "
                f"together (bar: at most {MOST_TRAINING})."
            )
        parts.append(models_table(rows, tokens))
    return parts


def budgets(rows: Sequence[Row]) -> list[int]:
    """The numbers of training tokens, the one with most rows first."""
    counts = [row["tokens"] for row in rows]
    return sorted(set(counts), key=lambda tokens: -counts.count(tokens))


def names(rows: Sequence[Row]) -> list[str]:
    """The models' names, in the order in which they were trained."""
    return list(dict.fromkeys(row["name"] for row in rows))


def models_table(rows: Sequence[Row], tokens: int) -> str:
    """Each model's perplexity by N: means over its seeds at its best learning rate."""
    titles = ["model", "parameters", "training FLOPs", "seeds", "rate", "train loss"]
    lines = []
    for name in names(rows):
        chosen = best_rows(rows, name, tokens)
        if not chosen:
            continue
        first = next(iter(chosen.values()))
        lines.append(
            [
                name,
                f"{first['parameters'] / 1e6:.2f} M",
                f"{first['training_flops'] / 1e12:.1f} T",
                str(len(chosen)),
                f"{first['learning_rate']:g}",
                f"{statistics.mean(row['train_loss'] for row in chosen.values()):.3f}",
                *(
                    f"{math.exp(mean_loss(chosen, n)):.1f}" if str(n) in first["validation_loss"] else ""
                    for n in SHOWN
                ),
            ]
        )
    return table([*titles, *(f"N = {n}" for n in SHOWN)], lines)


def changed_table(rows: Sequence[Row]) -> str:
    """Perplexity of ordinary models whose layers are dropped, repeated or interpolated."""
    lines = []
    for name in names([row for row in rows if "changed_depth" in row]):
        chosen = list(best_rows(rows, name, budgets(rows)[0]).values())
        for way in chosen[0]["changed_depth"] if chosen else ():
            losses = [statistics.mean(row["changed_depth"][way][str(n)] for row in chosen) for n in CHANGED]
            lines.append([name, WAYS[way], *(f"{math.exp(loss):.1f}" for loss in losses)])
    return table(["model", "layers are", *(f"N = {n}" for n in CHANGED)], lines)
